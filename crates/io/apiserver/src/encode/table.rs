//! `meta.k8s.io/v1 Table`: what the default `kubectl get` reads.

use coracle_meta::Value;
use jiff::Timestamp;

use super::output::Include;
use super::partial;
use crate::call::Served;

/// What a table tells beside its rows.
pub struct Meta<'a> {
    pub version: &'a str,
    pub next: &'a str,
    pub remaining: u64,
}

pub fn table(served: Served, include: Include, objects: &[Value], meta: Meta<'_>, now: Timestamp) -> Value {
    let mut table = Value::map();
    table.set(&["kind"], "Table");
    table.set(&["apiVersion"], "meta.k8s.io/v1");
    table.set(&["metadata"], Value::map());
    if !meta.version.is_empty() {
        table.set(&["metadata", "resourceVersion"], meta.version);
    }
    if !meta.next.is_empty() {
        table.set(&["metadata", "continue"], meta.next);
    }
    if meta.remaining > 0 {
        table.set(&["metadata", "remainingItemCount"], meta.remaining as i64);
    }
    table.set(&["columnDefinitions"], columns(served));
    let rows: Vec<Value> = objects.iter().map(|object| row(served, object, include, now)).collect();
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

fn row(served: Served, object: &Value, include: Include, now: Timestamp) -> Value {
    let mut row = Value::map();
    row.set(&["cells"], served.kind.cells(object, now));
    match include {
        Include::None => {}
        Include::Object => row.set(&["object"], object.clone()),
        Include::Metadata => row.set(&["object"], partial(object, "PartialObjectMetadata")),
    }
    row
}
