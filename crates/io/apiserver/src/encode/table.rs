//! `meta.k8s.io/v1 Table`: what the default `kubectl get` reads.

use coracle_meta::Value;
use jiff::Timestamp;

use super::partial;
use crate::call::{Call, Served};

/// A table of objects; `meta` is the resource version, the continue token and the remaining count.
pub fn table(call: &Call, served: Served, objects: &[Value], meta: (&str, &str, u64), now: Timestamp) -> Value {
    let mut table = Value::map();
    table.set(&["kind"], "Table");
    table.set(&["apiVersion"], "meta.k8s.io/v1");
    table.set(&["metadata", "resourceVersion"], meta.0);
    if !meta.1.is_empty() {
        table.set(&["metadata", "continue"], meta.1);
    }
    if meta.2 > 0 {
        table.set(&["metadata", "remainingItemCount"], meta.2 as i64);
    }
    table.set(&["columnDefinitions"], columns(served));
    let include = call.query.get("includeObject").unwrap_or("Metadata").to_owned();
    let rows: Vec<Value> = objects.iter().map(|object| row(served, object, &include, now)).collect();
    table.set(&["rows"], rows);
    table
}

fn columns(served: Served) -> Vec<Value> {
    let columns = served.kind.columns().iter().map(|column| {
        let mut value = Value::map();
        value.set(&["name"], column.name);
        value.set(&["type"], column.kind);
        value.set(&["format"], column.format);
        value.set(&["description"], column.description);
        value.set(&["priority"], column.priority);
        value
    });
    columns.collect()
}

fn row(served: Served, object: &Value, include: &str, now: Timestamp) -> Value {
    let mut row = Value::map();
    row.set(&["cells"], served.kind.cells(object, now));
    match include {
        "None" => {}
        "Object" => row.set(&["object"], object.clone()),
        _ => row.set(&["object"], partial(object, "PartialObjectMetadata")),
    }
    row
}
