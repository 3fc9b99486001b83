//! The border's JSON reader: bytes to a tree, by the table. It reports what no field describes and what is said twice,
//! with Kubernetes' wording and paths, refuses wrong types as Go does, and leaves the tree as if it had passed through
//! Go's structs: no nulls, no empty values that `omitempty` would drop, times and quantities in their canonical form.

mod read;
mod scalar;
mod scan;

use std::borrow::Cow;

use coracle_meta::Value;

use crate::model::{Schema, TypeId};

pub(crate) use scalar::{quantity as canonical_quantity, zero};
pub use scan::{DEPTH_MAX, SyntaxError};

/// What to do about unknown and duplicate fields: the `fieldValidation` of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unknown {
    /// Dropped in silence.
    Ignore,
    /// Dropped, and told of in [`Read::warnings`].
    #[default]
    Warn,
    /// Refused.
    Strict,
}

/// Whether empty values survive that Go's structs cannot tell from absent ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Empty {
    /// As in every create and update.
    #[default]
    Drop,
    /// As in server-side apply, where naming a field owns it, whatever its value.
    Keep,
}

/// How a body is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    pub unknown: Unknown,
    pub empty: Empty,
}

impl From<Unknown> for Reading {
    fn from(unknown: Unknown) -> Reading {
        Reading { unknown, empty: Empty::Drop }
    }
}

/// A body that was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Read {
    pub value: Value,
    /// `unknown field "spec.foo"`, `duplicate field "spec.foo"`: at most a hundred, each once.
    pub warnings: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// A value's type is not its field's; Go's text.
    #[error("{0}")]
    Type(String),
    #[error("strict decoding error: {}", .0.join(", "))]
    Strict(Vec<String>),
    /// The YAML parser's text.
    #[error("error converting YAML to JSON: {0}")]
    Yaml(String),
    #[error("decoding protobuf: {0}")]
    Proto(&'static str),
}

/// Reads an object of type `id`. What follows it but space is an error.
pub fn read_json(schema: &Schema, id: TypeId, bytes: &[u8], how: impl Into<Reading>) -> Result<Read, ReadError> {
    let how = how.into();
    let text = text(bytes);
    let (value, notes) = read::Reader::new(schema, &text, how).read(id)?;
    finish(value, notes, how.unknown)
}

/// Brings a tree that was edited as plain JSON (a patch's result) into the form that [`read_json`] gives.
pub fn read_value(schema: &Schema, id: TypeId, value: &Value, how: impl Into<Reading>) -> Result<Read, ReadError> {
    read_json(schema, id, &value.to_json(), how)
}

/// `apiVersion` and `kind` of a body, before its type is known; empty where they are missing.
pub fn read_type_meta(bytes: &[u8]) -> Result<(String, String), ReadError> {
    read::type_meta(&text(bytes))
}

fn finish(value: Value, notes: Vec<String>, unknown: Unknown) -> Result<Read, ReadError> {
    match unknown {
        Unknown::Strict if !notes.is_empty() => Err(ReadError::Strict(notes)),
        _ => Ok(Read { value, warnings: notes }),
    }
}

/// As Go does, what is not UTF-8 becomes U+FFFD.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
