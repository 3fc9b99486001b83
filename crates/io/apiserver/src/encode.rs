//! The last step: objects and lists in the form that the client asked for. JSON at rest is shown without being decoded.

pub mod frame;
pub mod kept;
pub mod output;
pub mod table;

use std::io::Write;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use coracle_meta::{Object, Status, Value};
use coracle_schema::{Schema, proto};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CONTENT_ENCODING, HeaderValue, VARY};

use crate::answer::{self, Response, status_value};
use crate::call::{Call, Served};
use crate::decode::type_of;
use crate::server::Server;
use crate::store::tree;
use kept::Shape;
use output::{Form, Wire};

const GZIP_BYTES_MIN: usize = 128 << 10;

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
    let mut value = served.kind.convert(value, &served.kind.storage_api_version(), &served.api_version());
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

/// The protobuf message of a tree that names its kind.
pub fn message_of(value: &Value) -> Result<Vec<u8>, Status> {
    let (api_version, kind) = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    let id = type_of(api_version, kind)
        .ok_or_else(|| answer::not_acceptable(&[Wire::Json.content_type(), Wire::Yaml.content_type()]))?;
    proto::write_message(Schema::builtin(), id, value).map_err(Status::internal)
}

/// The protobuf message of an object as this version shows it.
pub fn message(served: Served, object: &Object) -> Result<Vec<u8>, Status> {
    let mut value = served_tree(served, object)?;
    value.set(&["apiVersion"], served.api_version());
    value.set(&["kind"], served.kind.kind);
    message_of(&value)
}

/// A tree that names its kind, as an answer.
pub fn value(call: &Call, code: u16, value: &Value) -> Response {
    if output::wire(call) == Wire::Proto
        && let Ok(raw) = message_of(value)
    {
        let body = proto::seal(value.str_at(&["apiVersion"]), value.str_at(&["kind"]), &raw);
        return answer::bytes(code, Wire::Proto.content_type(), body);
    }
    answer::bytes(code, answer::JSON, value.to_json())
}

/// A failure, or a success that has nothing to show, as the client reads it.
pub fn status(call: &Call, status: &Status) -> Response {
    let mut response = answer::status(status);
    if output::wire(call) == Wire::Proto {
        let (head, body) = value(call, status.code, &status_value(status)).into_parts();
        *response.body_mut() = body;
        response.headers_mut().extend(head.headers);
    }
    response
}

/// One object as an answer.
pub fn object(server: &Server, call: &Call, served: Served, code: u16, object: &Object) -> Result<Response, Status> {
    let output = output::output(call)?;
    let body: Bytes = match (output.form, output.wire) {
        (Form::Whole, Wire::Proto) => {
            let raw = server.kept.get(served, object, Shape::Message, || Ok(message(served, object)?.into()))?;
            proto::seal(&served.api_version(), served.kind.kind, &raw).into()
        }
        (Form::Whole, _) => shown(served, object)?,
        (Form::Partial, Wire::Json) => {
            let mut out = BytesMut::new();
            partial_json(&mut out, object)?;
            return Ok(answer::bytes(code, answer::JSON, out.freeze()));
        }
        (Form::Partial, _) => {
            let partial = partial(&served_tree(served, object)?, "PartialObjectMetadata");
            return Ok(value(call, code, &partial));
        }
        (Form::Table(include), _) => {
            let rows = [served_tree(served, object)?];
            let version = object.revision.to_string();
            let meta = table::Meta { version: &version, next: "", remaining: 0 };
            table::table(served, include, &rows, meta, server.clock.now()).to_json().into()
        }
    };
    Ok(answer::bytes(code, output.wire.content_type(), body))
}

/// What a list shows beside its items.
pub struct ListMeta {
    pub revision: u64,
    pub next: String,
    pub remaining: u64,
}

/// A list as an answer.
pub fn list(
    server: &Server,
    call: &Call,
    served: Served,
    items: &[Arc<Object>],
    meta: &ListMeta,
) -> Result<Response, Status> {
    let output = output::output(call)?;
    let body = match (output.form, output.wire) {
        (Form::Whole, Wire::Proto) => proto_list(server, served, items, meta)?,
        (Form::Whole, _) => json_list(served, items, meta)?,
        (Form::Partial, Wire::Json) => partial_list(items, meta)?,
        (Form::Partial, wire) => {
            let rows = items.iter().map(|item| Ok(partial(&tree(item)?, "PartialObjectMetadata")));
            let mut list = Value::map();
            list.set(&["kind"], "PartialObjectMetadataList");
            list.set(&["apiVersion"], "meta.k8s.io/v1");
            list.set(&["metadata"], list_meta(meta));
            list.set(&["items"], rows.collect::<Result<Vec<_>, Status>>()?);
            match wire {
                Wire::Proto => proto::seal("meta.k8s.io/v1", "PartialObjectMetadataList", &message_of(&list)?).into(),
                _ => list.to_json().into(),
            }
        }
        (Form::Table(include), _) => {
            let rows = items.iter().map(|item| served_tree(served, item)).collect::<Result<Vec<_>, _>>()?;
            let version = meta.revision.to_string();
            let told = table::Meta { version: &version, next: &meta.next, remaining: meta.remaining };
            table::table(served, include, &rows, told, server.clock.now()).to_json().into()
        }
    };
    Ok(compressed(call, output.wire, body))
}

/// What [`partial`] makes, straight from the object's JSON.
fn partial_json(out: &mut BytesMut, object: &Object) -> Result<(), Status> {
    out.put_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":");
    object.write_metadata_json(out).map_err(Status::internal)?;
    out.put_u8(b'}');
    Ok(())
}

fn partial_list(items: &[Arc<Object>], meta: &ListMeta) -> Result<Bytes, Status> {
    let mut out = BytesMut::new();
    open(&mut out, "PartialObjectMetadataList", "meta.k8s.io/v1", meta);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        partial_json(&mut out, item)?;
    }
    out.put_slice(b"]}");
    Ok(out.freeze())
}

fn json_list(served: Served, items: &[Arc<Object>], meta: &ListMeta) -> Result<Bytes, Status> {
    let room = items.iter().map(|item| item.bytes.len() + 64).sum::<usize>() + 256;
    let mut out = BytesMut::with_capacity(room);
    open(&mut out, &served.kind.list_kind(), &served.api_version(), meta);
    let named = format!("\"kind\":\"{}\",\"apiVersion\":\"{}\",", served.kind.kind, served.api_version());
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        match served.is_storage_form() {
            true => item.write_item_json(&mut out, named.as_bytes()),
            false => {
                let mut value = served_tree(served, item)?;
                value.remove(&["kind"]);
                value.remove(&["apiVersion"]);
                out.put_slice(&value.to_json());
            }
        }
    }
    out.put_slice(b"]}");
    Ok(out.freeze())
}

fn proto_list(server: &Server, served: Served, items: &[Arc<Object>], meta: &ListMeta) -> Result<Bytes, Status> {
    let message =
        |item: &Arc<Object>| server.kept.get(served, item, Shape::Message, || Ok(message(served, item)?.into()));
    let messages = items.iter().map(message).collect::<Result<Vec<Bytes>, Status>>()?;
    let schema = Schema::builtin();
    let id = schema.named("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta");
    let id = id.ok_or_else(|| Status::internal("the table has no ListMeta"))?;
    let head = proto::write_message(schema, id, &list_meta(meta)).map_err(Status::internal)?;
    let raw = proto::list_message(&head, messages.iter().map(|message| &message[..]));
    Ok(proto::seal(&served.api_version(), &served.kind.list_kind(), &raw).into())
}

fn list_meta(meta: &ListMeta) -> Value {
    let mut head = Value::map();
    head.set(&["resourceVersion"], meta.revision.to_string());
    if !meta.next.is_empty() {
        head.set(&["continue"], meta.next.as_str());
    }
    if meta.remaining > 0 {
        head.set(&["remainingItemCount"], meta.remaining as i64);
    }
    head
}

fn open(out: &mut BytesMut, kind: &str, api_version: &str, meta: &ListMeta) {
    out.put_slice(format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":").as_bytes());
    out.put_slice(&list_meta(meta).to_json());
    out.put_slice(b",\"items\":[");
}

/// The body, in gzip where it is large and the client reads that.
fn compressed(call: &Call, wire: Wire, body: Bytes) -> Response {
    let accepts = call.header("accept-encoding").split(',').any(|part| part.trim().starts_with("gzip"));
    if body.len() < GZIP_BYTES_MIN || !accepts {
        return answer::bytes(200, wire.content_type(), body);
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 6), Compression::fast());
    let packed = encoder.write_all(&body).and_then(|()| encoder.finish());
    let Ok(packed) = packed else { return answer::bytes(200, wire.content_type(), body) };
    let mut response = answer::bytes(200, wire.content_type(), packed);
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}
