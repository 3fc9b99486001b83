//! Kubernetes' protobuf, led by the table: bodies of `application/vnd.kubernetes.protobuf` to trees and back. A body is
//! `k8s\0` and a `runtime.Unknown`, which names the kind and holds the message. It exists because client-go's clients
//! in clusters speak nothing else by default.

mod read;
mod wire;
mod write;

use coracle_meta::Value;

use crate::json::ReadError;
use crate::model::{Schema, TypeId};
use wire::{Item, Wire, put_bytes};

/// What every body begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// A field whose value is not of its shape: the tree did not come from a reader.
#[derive(Debug, thiserror::Error)]
#[error("encoding protobuf: {owner}.{field} does not hold its field's type")]
pub struct WriteError {
    pub owner: String,
    pub field: String,
}

/// A body's envelope.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Envelope<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    /// The message, or what `content_type` says.
    pub raw: &'a [u8],
    /// Empty for protobuf.
    pub content_type: &'a str,
}

/// Opens a body.
pub fn open(body: &[u8]) -> Result<Envelope<'_>, ReadError> {
    let rest = body.strip_prefix(MAGIC).ok_or(ReadError::Proto(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
    ))?;
    let (mut envelope, mut unknown) = (Envelope::default(), Wire::new(rest));
    while let Some((tag, item)) = unknown.next()? {
        match (tag, item) {
            (1, Item::Bytes(bytes)) => {
                let mut type_meta = Wire::new(bytes);
                while let Some((tag, item)) = type_meta.next()? {
                    match (tag, item) {
                        (1, Item::Bytes(text)) => envelope.api_version = utf8(text)?,
                        (2, Item::Bytes(text)) => envelope.kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Item::Bytes(raw)) => envelope.raw = raw,
            (4, Item::Bytes(text)) => envelope.content_type = utf8(text)?,
            _ => {}
        }
    }
    Ok(envelope)
}

/// Reads a body that holds an object of type `id`; `apiVersion` and `kind` are the envelope's. Fields that the table
/// does not know are dropped in silence, as everywhere in protobuf.
pub fn read_proto(schema: &Schema, id: TypeId, body: &[u8]) -> Result<Value, ReadError> {
    let envelope = open(body)?;
    let mut map = coracle_meta::Map::default();
    for (name, text) in [("apiVersion", envelope.api_version), ("kind", envelope.kind)] {
        if !text.is_empty() && schema.get(id).field(name).is_some() {
            map.insert(name, text);
        }
    }
    read::message(schema, id, envelope.raw, &mut map)?;
    Ok(Value::Map(map))
}

/// Writes a body. The kind stands in the envelope only: elements of a list do not tell theirs.
pub fn write_proto(schema: &Schema, id: TypeId, value: &Value) -> Result<Vec<u8>, WriteError> {
    let mut raw = Vec::new();
    write::message(schema, id, value, &mut raw)?;
    Ok(seal(value.str_at(&["apiVersion"]), value.str_at(&["kind"]), &raw))
}

/// An object's message without an envelope, as lists hold it.
pub fn write_message(schema: &Schema, id: TypeId, value: &Value) -> Result<Vec<u8>, WriteError> {
    let mut raw = Vec::new();
    write::message(schema, id, value, &mut raw)?;
    Ok(raw)
}

/// A list's message: its metadata's message and those of its items, which every kind numbers alike.
pub fn list_message<'a>(metadata: &[u8], items: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut raw = Vec::new();
    put_bytes(&mut raw, 1, metadata);
    items.for_each(|item| put_bytes(&mut raw, 2, item));
    raw
}

/// Puts an encoded message into its envelope.
pub fn seal(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut type_meta = Vec::with_capacity(api_version.len() + kind.len() + 8);
    put_bytes(&mut type_meta, 1, api_version.as_bytes());
    put_bytes(&mut type_meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(raw.len() + type_meta.len() + 24);
    out.extend_from_slice(MAGIC);
    put_bytes(&mut out, 1, &type_meta);
    put_bytes(&mut out, 2, raw);
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    out
}

/// One event of a watch, without the length that frames it: `event` is `ADDED` and so on, `body` a whole body.
pub fn watch_event(event: &str, body: &[u8]) -> Vec<u8> {
    let mut object = Vec::with_capacity(body.len() + 8);
    put_bytes(&mut object, 1, body);
    let mut out = Vec::with_capacity(object.len() + 24);
    put_bytes(&mut out, 1, event.as_bytes());
    put_bytes(&mut out, 2, &object);
    out
}

fn utf8(bytes: &[u8]) -> Result<&str, ReadError> {
    std::str::from_utf8(bytes).map_err(|_| ReadError::Proto("string is not UTF-8"))
}
