//! Frames of a watch: lines of JSON, or messages behind their length. Source: Kubernetes
//! `apimachinery/pkg/util/framer`, `pkg/runtime/serializer/streaming`.

use bytes::{BufMut, Bytes, BytesMut};
use coracle_meta::{Object, Status, Value};
use coracle_schema::proto;

use super::kept::Shape;
use super::output::{Form, Output, Wire};
use super::{message, message_of, partial, served_tree, table};
use crate::answer::{status_json, status_value};
use crate::call::Served;
use crate::server::Server;

/// How one watch is shown.
#[derive(Clone, Copy)]
pub struct Frames {
    pub served: Served,
    pub output: Output,
}

impl Frames {
    /// An event about an object. `is_shared` tells that others watch the same resource; `with_columns` lets a table
    /// name its columns, which only a watch's first one does.
    pub fn event(
        &self,
        server: &Server,
        word: &'static str,
        object: &Object,
        (is_shared, with_columns): (bool, bool),
    ) -> Bytes {
        let make = || self.made(server, word, object, with_columns);
        let shape = Shape::Frame { word, output: self.output, with_columns };
        let frame = if is_shared { server.kept.get(self.served, object, shape, make) } else { make() };
        frame.unwrap_or_else(|status| self.error(&status))
    }

    fn made(&self, server: &Server, word: &str, object: &Object, with_columns: bool) -> Result<Bytes, Status> {
        if self.output.wire == Wire::Proto {
            let body = match self.output.form {
                Form::Partial => {
                    let value = partial(&served_tree(self.served, object)?, "PartialObjectMetadata");
                    proto::seal("meta.k8s.io/v1", "PartialObjectMetadata", &message_of(&value)?)
                }
                _ => proto::seal(&self.served.api_version(), self.served.kind.kind, &message(self.served, object)?),
            };
            return Ok(delimited(word, &body));
        }
        if self.output.form == Form::Whole && self.served.is_storage_form() {
            let mut out = BytesMut::with_capacity(object.bytes.len() + 96);
            open(&mut out, word);
            object.write_json(&mut out);
            out.put_slice(b"}\n");
            return Ok(out.freeze());
        }
        let tree = served_tree(self.served, object)?;
        let shown = match self.output.form {
            Form::Whole => tree,
            Form::Partial => partial(&tree, "PartialObjectMetadata"),
            Form::Table(include) => {
                let version = object.revision.to_string();
                let meta = table::Meta { version: &version, next: "", remaining: 0 };
                let mut made = table::table(self.served, include, &[tree], meta, server.clock.now());
                if !with_columns {
                    made.set(&["columnDefinitions"], Value::Null);
                }
                made
            }
        };
        Ok(line(word, &shown.to_json()))
    }

    /// Tells how far the watch is; the one that closes the initial list says so.
    pub fn bookmark(&self, server: &Server, revision: u64, closes_initial: bool) -> Bytes {
        let mut object = Value::map();
        object.set(&["kind"], self.served.kind.kind);
        object.set(&["apiVersion"], self.served.api_version());
        object.set(&["metadata", "resourceVersion"], revision.to_string());
        object.set(&["metadata", "creationTimestamp"], Value::Null);
        if closes_initial {
            object.set(&["metadata", "annotations", "k8s.io/initial-events-end"], "true");
        }
        match self.output.form {
            Form::Whole => {}
            Form::Partial => object = partial(&object, "PartialObjectMetadata"),
            Form::Table(include) => {
                let version = revision.to_string();
                let meta = table::Meta { version: &version, next: "", remaining: 0 };
                let mut bare = table::table(self.served, include, &[], meta, server.clock.now());
                let mut row = Value::map();
                row.set(&["cells"], Vec::new());
                row.set(&["object"], partial(&object, "PartialObjectMetadata"));
                bare.set(&["rows"], vec![row]);
                object = bare;
            }
        }
        self.value("BOOKMARK", &object)
    }

    /// The end of a watch that cannot go on.
    pub fn error(&self, status: &Status) -> Bytes {
        match self.output.wire {
            Wire::Proto => self.value("ERROR", &status_value(status)),
            _ => line("ERROR", &status_json(status)),
        }
    }

    fn value(&self, word: &str, value: &Value) -> Bytes {
        match (self.output.wire, message_of(value)) {
            (Wire::Proto, Ok(raw)) => {
                delimited(word, &proto::seal(value.str_at(&["apiVersion"]), value.str_at(&["kind"]), &raw))
            }
            _ => line(word, &value.to_json()),
        }
    }
}

fn open(out: &mut BytesMut, word: &str) {
    out.put_slice(b"{\"type\":\"");
    out.put_slice(word.as_bytes());
    out.put_slice(b"\",\"object\":");
}

fn line(word: &str, json: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(json.len() + 40);
    open(&mut out, word);
    out.put_slice(json);
    out.put_slice(b"}\n");
    out.freeze()
}

fn delimited(word: &str, body: &[u8]) -> Bytes {
    let event = proto::watch_event(word, body);
    let mut out = BytesMut::with_capacity(event.len() + 4);
    out.put_u32(event.len() as u32);
    out.put_slice(&event);
    out.freeze()
}
