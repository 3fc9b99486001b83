//! The last step: objects and lists in the form that the client asked for. JSON at rest is shown without being decoded.

pub mod table;

use std::io::Write;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use coracle_meta::{Object, Status, Value};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, HeaderValue, VARY};

use crate::answer::{self, JSON, Response};
use crate::call::{Call, Served};
use crate::store::tree;

const GZIP_BYTES_MIN: usize = 128 << 10;
const OFFERS: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// What of an object the client wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Whole,
    Table,
    /// Metadata alone.
    Partial,
}

/// The form that `Accept` asks for first of those there are.
pub fn form(call: &Call) -> Result<Form, Status> {
    let accept = call.header("accept");
    if accept.is_empty() {
        return Ok(Form::Whole);
    }
    for entry in accept.split(',') {
        let mut parts = entry.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        if !matches!(media, "application/json" | "application/*" | "*/*") {
            continue;
        }
        let mut kind = "";
        let mut known = true;
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            match key {
                "as" => kind = value,
                "g" => known &= value == "meta.k8s.io",
                "v" => known &= matches!(value, "v1" | "v1beta1"),
                _ => {}
            }
        }
        match kind {
            "" => return Ok(Form::Whole),
            "Table" if known => return Ok(Form::Table),
            "PartialObjectMetadata" | "PartialObjectMetadataList" if known => return Ok(Form::Partial),
            _ => {}
        }
    }
    Err(answer::not_acceptable(&OFFERS))
}

/// An object's JSON as this version shows it.
pub fn shown(served: Served, object: &Object) -> Result<Bytes, Status> {
    if served.is_storage_form() {
        return Ok(object.json());
    }
    Ok(served_tree(served, object)?.to_json().into())
}

/// The object as a tree in the served version.
pub fn served_tree(served: Served, object: &Object) -> Result<Value, Status> {
    let value = tree(object)?;
    if served.is_storage_form() {
        return Ok(value);
    }
    let mut value = served.kind.convert(&value, &served.kind.storage_api_version(), &served.api_version());
    served.kind.default(&mut value, served.version);
    Ok(value)
}

pub fn partial(value: &Value, kind: &str) -> Value {
    let mut partial = Value::map();
    partial.set(&["kind"], kind);
    partial.set(&["apiVersion"], "meta.k8s.io/v1");
    partial.set(&["metadata"], value.get("metadata").clone());
    partial
}

/// One object as an answer.
pub fn object(
    call: &Call,
    server_now: jiff::Timestamp,
    served: Served,
    code: u16,
    object: &Object,
) -> Result<Response, Status> {
    let body: Bytes = match form(call)? {
        Form::Whole => shown(served, object)?,
        Form::Partial => partial(&served_tree(served, object)?, "PartialObjectMetadata").to_json().into(),
        Form::Table => {
            let rows = [served_tree(served, object)?];
            table::table(call, served, &rows, (&object.revision.to_string(), "", 0), server_now).to_json().into()
        }
    };
    Ok(answer::bytes(code, JSON, body))
}

/// What a list shows beside its items.
pub struct ListMeta {
    pub revision: u64,
    pub next: String,
    pub remaining: u64,
}

/// A list as an answer.
pub fn list(
    call: &Call,
    now: jiff::Timestamp,
    served: Served,
    items: &[Arc<Object>],
    meta: &ListMeta,
) -> Result<Response, Status> {
    let version = meta.revision.to_string();
    let body = match form(call)? {
        Form::Whole => {
            let room = items.iter().map(|item| item.bytes.len() + 64).sum::<usize>() + 256;
            let mut out = BytesMut::with_capacity(room);
            open(&mut out, &served.kind.list_kind(), &served.api_version(), meta);
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.put_u8(b',');
                }
                match served.is_storage_form() {
                    true => item.write_json(&mut out),
                    false => out.put_slice(&shown(served, item)?),
                }
            }
            out.put_slice(b"]}");
            out.freeze()
        }
        Form::Partial => {
            let mut out = BytesMut::new();
            open(&mut out, "PartialObjectMetadataList", "meta.k8s.io/v1", meta);
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.put_u8(b',');
                }
                out.put_slice(&partial(&tree(item)?, "PartialObjectMetadata").to_json());
            }
            out.put_slice(b"]}");
            out.freeze()
        }
        Form::Table => {
            let rows = items.iter().map(|item| served_tree(served, item)).collect::<Result<Vec<_>, _>>()?;
            table::table(call, served, &rows, (&version, &meta.next, meta.remaining), now).to_json().into()
        }
    };
    Ok(compressed(call, body))
}

fn open(out: &mut BytesMut, kind: &str, api_version: &str, meta: &ListMeta) {
    let mut head = Value::map();
    head.set(&["resourceVersion"], meta.revision.to_string());
    if !meta.next.is_empty() {
        head.set(&["continue"], meta.next.as_str());
    }
    if meta.remaining > 0 {
        head.set(&["remainingItemCount"], meta.remaining as i64);
    }
    out.put_slice(format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":").as_bytes());
    out.put_slice(&head.to_json());
    out.put_slice(b",\"items\":[");
}

/// The body, in gzip where it is large and the client reads that.
pub fn compressed(call: &Call, body: Bytes) -> Response {
    let accepts = call.header("accept-encoding").split(',').any(|part| part.trim().starts_with("gzip"));
    if body.len() < GZIP_BYTES_MIN || !accepts {
        return answer::bytes(200, JSON, body);
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 6), Compression::fast());
    let packed = encoder.write_all(&body).and_then(|()| encoder.finish());
    let Ok(packed) = packed else { return answer::bytes(200, JSON, body) };
    let mut response = answer::bytes(200, JSON, packed);
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}
