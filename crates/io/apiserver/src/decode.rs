//! Sixth step: a body as an object of the kind its URL names, read strictly.

use std::sync::OnceLock;

use coracle_meta::{GroupVersionKind, Status, Value};
use coracle_schema::{ReadError, Schema, TypeId, Unknown, read_json, read_type_meta, read_value};

use crate::answer;
use crate::call::{Call, Served};

const OFFERS: [&str; 1] = ["application/json"];

/// The type that a kind's objects have in a version.
pub fn type_of(api_version: &str, kind: &str) -> Option<TypeId> {
    Schema::builtin().kind(&GroupVersionKind::parse(api_version, kind)?)
}

/// The body as an object of this kind.
pub fn object(call: &Call, served: Served) -> Result<Value, Status> {
    named(call, &served.api_version(), served.kind.kind)
}

/// The body as an object of a kind named by its group, version and kind.
pub fn named(call: &Call, api_version: &str, kind: &str) -> Result<Value, Status> {
    accept(call)?;
    let (said_version, said_kind) = read_type_meta(&call.body)
        .map_err(|error| Status::bad_request(format!("couldn't get version/kind; json parse error: {error}")))?;
    if !said_kind.is_empty() && said_kind != kind {
        let version = said_version.rsplit('/').next().unwrap_or_default();
        let why = format!("{said_kind} in version {version:?} cannot be handled as a {kind}: converting to {kind}");
        return Err(Status::bad_request(format!("{why}: the kind of the object is not the one that the URL names")));
    }
    if !said_version.is_empty() && said_version != api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({said_version}) does not match the expected API version ({api_version})"
        )));
    }
    let id = type_of(api_version, kind).ok_or_else(answer::not_found)?;
    let read = read_json(Schema::builtin(), id, &call.body, unknown(call)?)
        .map_err(|error| refused(&error, api_version, kind))?;
    read.warnings.into_iter().for_each(|text| call.warn(text));
    let mut value = read.value;
    value.set(&["apiVersion"], api_version);
    value.set(&["kind"], kind);
    if !matches!(value.get("metadata"), Value::Map(_)) {
        value.set(&["metadata"], Value::map());
    }
    Ok(value)
}

/// A tree that a patch made, brought into the form that a body would have had.
pub fn patched(call: &Call, value: &Value, api_version: &str, kind: &str) -> Result<Value, Status> {
    let id = type_of(api_version, kind).ok_or_else(answer::not_found)?;
    let read = read_value(Schema::builtin(), id, value, unknown(call)?).map_err(|error| match error {
        ReadError::Strict(_) => refused(&error, api_version, kind),
        error => {
            let mut status = refused(&error, api_version, kind);
            (status.code, status.reason) = (422, "Invalid".into());
            status
        }
    })?;
    read.warnings.into_iter().for_each(|text| call.warn(text));
    Ok(read.value)
}

/// A body of any JSON: patches and options.
pub fn plain(call: &Call) -> Result<Value, Status> {
    Value::from_json(&call.body).map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))
}

fn accept(call: &Call) -> Result<(), Status> {
    let media = call.header("content-type").split(';').next().unwrap_or_default().trim();
    match media {
        "" | "application/json" | "*/*" => Ok(()),
        _ => Err(answer::unsupported_media_type(&OFFERS)),
    }
}

fn unknown(call: &Call) -> Result<Unknown, Status> {
    match call.query.get("fieldValidation") {
        None | Some("Warn") => Ok(Unknown::Warn),
        Some("Ignore") => Ok(Unknown::Ignore),
        Some("Strict") => Ok(Unknown::Strict),
        Some(other) => Err(Status::bad_request(format!(
            "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Warn\", \"Strict\""
        ))),
    }
}

fn refused(error: &ReadError, api_version: &str, kind: &str) -> Status {
    let version = api_version.rsplit('/').next().unwrap_or_default();
    Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {error}"))
}

/// What every delete may carry; read with the same strictness as objects.
pub fn delete_options(call: &Call) -> Result<Value, Status> {
    static TYPE: OnceLock<Option<TypeId>> = OnceLock::new();
    if call.body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::map());
    }
    accept(call)?;
    let id = TYPE.get_or_init(|| Schema::builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"));
    match id {
        Some(id) => {
            let read = read_json(Schema::builtin(), *id, &call.body, Unknown::Ignore);
            read.map(|read| read.value).map_err(|error| refused(&error, "v1", "DeleteOptions"))
        }
        None => plain(call),
    }
}
