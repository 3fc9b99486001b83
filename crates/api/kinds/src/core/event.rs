//! Events of the core group, the form in which all events are stored. `events.k8s.io` shows the same objects with other
//! names for some fields.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};
use jiff::Timestamp;

use crate::column::{self, Column, NAME, since, string_or, text};
use crate::rules::Rules;

pub const COLUMNS: &[Column] = &[
    text("Last Seen", |event, now| last_seen(event, now).into()),
    text("Type", |event, _| string_or(event, &["type"], "")),
    text("Reason", |event, _| string_or(event, &["reason"], "")),
    text("Object", |event, _| object(event).into()),
    text("Subobject", |event, _| string_or(regarding(event), &["fieldPath"], "")).wide(),
    text("Source", |event, _| source(event).into()).wide(),
    text("Message", |event, _| {
        let message = if event.get("note").is_null() { "message" } else { "note" };
        Value::string(event.str_at(&[message]).trim())
    }),
    text("First Seen", |event, now| first_seen(event, now).into()).wide(),
    column::counted("Count", |event, _| count(event).into()).wide(),
    NAME.wide(),
];

pub const RULES: Rules = Rules { convert, validate, columns: COLUMNS, selectable_fields, ..Rules::STANDARD };

/// The core group's field and its name in `events.k8s.io`.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Between `v1` and `events.k8s.io/v1`.
pub fn convert(event: &mut Value, from: &str, to: &str) {
    for (core, new) in RENAMED {
        let (from, to) = match (from, to) {
            ("v1", "events.k8s.io/v1") => (core, new),
            ("events.k8s.io/v1", "v1") => (new, core),
            _ => return,
        };
        if let Some(value) = event.remove(&[from]) {
            event.set(&[to], value);
        }
    }
}

/// Source: Kubernetes `pkg/apis/core/validation/events.go`, the part that holds for both groups.
fn validate(event: &Value, errors: &mut ErrorList) {
    let (own, of) = (event.str_at(&["metadata", "namespace"]), regarding(event).str_at(&["namespace"]));
    let is_new = !event.get("eventTime").is_null();
    let agrees = match (of, is_new) {
        ("", false) => matches!(own, "" | "default"),
        ("", true) => matches!(own, "default" | "kube-system"),
        (of, false) => own == of,
        (_, true) => true,
    };
    if !agrees {
        errors.invalid(&Path::new("involvedObject.namespace"), of, "does not match event.namespace");
    }
    if !is_new {
        return;
    }
    let reporter = either(event, "reportingComponent", "reportingController").as_str().unwrap_or_default();
    let path = Path::new("reportingController");
    match reporter {
        "" => errors.required(&path, ""),
        reporter => errors.invalid_each(&path, reporter, names::qualified_name(reporter)),
    }
    for (key, most) in [("reportingInstance", 128), ("action", 128), ("reason", 128)] {
        let (path, text) = (Path::new(key), event.str_at(&[key]));
        if text.is_empty() {
            errors.required(&path, "");
        } else if text.len() > most {
            errors.invalid(&path, "", format!("can have at most {most} characters"));
        }
    }
    if either(event, "message", "note").as_str().unwrap_or_default().len() > 1024 {
        errors.invalid(&Path::new("message"), "", "can have at most 1024 characters");
    }
}

fn regarding(event: &Value) -> &Value {
    let own = event.get("involvedObject");
    if own.is_null() { event.get("regarding") } else { own }
}

/// A field under its core name or its newer one.
fn either<'e>(event: &'e Value, core: &str, new: &str) -> &'e Value {
    let own = event.get(core);
    if own.is_null() { event.get(new) } else { own }
}

fn first_seen(event: &Value, now: Timestamp) -> String {
    let first = either(event, "firstTimestamp", "deprecatedFirstTimestamp");
    since(if first.is_null() { event.get("eventTime") } else { first }, now)
}

fn last_seen(event: &Value, now: Timestamp) -> String {
    let series = event.at(&["series", "lastObservedTime"]);
    let last = either(event, "lastTimestamp", "deprecatedLastTimestamp");
    match (series.is_null(), last.is_null()) {
        (false, _) => since(series, now),
        (true, false) => since(last, now),
        (true, true) => first_seen(event, now),
    }
}

fn count(event: &Value) -> i64 {
    let own = either(event, "count", "deprecatedCount").as_int().unwrap_or_default();
    event.int_at(&["series", "count"]).unwrap_or(own.max(1))
}

fn object(event: &Value) -> String {
    let regarding = regarding(event);
    let kind = regarding.str_at(&["kind"]).to_lowercase();
    match regarding.str_at(&["name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    }
}

fn source(event: &Value) -> String {
    let source = either(event, "source", "deprecatedSource");
    let reporter = either(event, "reportingComponent", "reportingController");
    let first = |own: &str, other: &str| if own.is_empty() { other.to_owned() } else { own.to_owned() };
    let component = first(source.str_at(&["component"]), reporter.as_str().unwrap_or_default());
    let host = first(source.str_at(&["host"]), event.str_at(&["reportingInstance"]));
    if host.is_empty() { component } else { format!("{component}, {host}") }
}

fn selectable_fields(event: &Value) -> Vec<(&'static str, String)> {
    let object = |member: &str| regarding(event).str_at(&[member]).to_owned();
    let component = either(event, "source", "deprecatedSource").str_at(&["component"]).to_owned();
    let reporter = either(event, "reportingComponent", "reportingController").as_str().unwrap_or_default().to_owned();
    vec![
        ("involvedObject.kind", object("kind")),
        ("involvedObject.namespace", object("namespace")),
        ("involvedObject.name", object("name")),
        ("involvedObject.uid", object("uid")),
        ("involvedObject.apiVersion", object("apiVersion")),
        ("involvedObject.resourceVersion", object("resourceVersion")),
        ("involvedObject.fieldPath", object("fieldPath")),
        ("reason", event.str_at(&["reason"]).to_owned()),
        ("source", if component.is_empty() { reporter.clone() } else { component }),
        ("reportingComponent", reporter),
        ("type", event.str_at(&["type"]).to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::tree;

    #[test]
    fn both_groups_show_the_same_event() {
        let core = tree(r#"{"involvedObject":{"kind":"Pod","name":"a"},"message":"m","count":3,"reason":"r"}"#);
        let mut event = core.clone();
        convert(&mut event, "v1", "events.k8s.io/v1");
        assert_eq!(
            event,
            tree(r#"{"regarding":{"kind":"Pod","name":"a"},"note":"m","deprecatedCount":3,"reason":"r"}"#)
        );
        assert_eq!(object(&event), "pod/a");
        assert_eq!(count(&event), 3);
        convert(&mut event, "events.k8s.io/v1", "v1");
        assert_eq!(event, core);
    }
}
