//! NodeMetrics and PodMetrics as clients see them.

use coracle_meta::quantity::{Format, Quantity};
use coracle_meta::{Status, Value, time};
use jiff::Timestamp;

use super::Told;
use super::points::Used;
use crate::answer::{self, Response};
use crate::call::{Call, Served};
use crate::encode::output::{Form, without_messages};
use crate::encode::{self, table};
use crate::server::Server;

pub fn object(server: &Server, call: &Call, served: Served, told: &Told) -> Result<Response, Status> {
    let now = server.clock.now();
    let mut value = object_of(told, now);
    value.set(&["kind"], served.kind.kind);
    value.set(&["apiVersion"], served.api_version());
    let output = without_messages(call)?;
    let shown = match output.form {
        Form::Whole => value,
        Form::Partial => encode::partial(&value, "PartialObjectMetadata"),
        Form::Table(include) => table::table(served, include, &[value], NO_META, now),
    };
    Ok(answer::bytes(200, output.wire.content_type(), shown.to_json()))
}

pub fn list(server: &Server, call: &Call, served: Served, told: &[Told]) -> Result<Response, Status> {
    let now = server.clock.now();
    let items: Vec<Value> = told.iter().map(|told| object_of(told, now)).collect();
    let output = without_messages(call)?;
    let shown = match output.form {
        Form::Table(include) => table::table(served, include, &items, NO_META, now),
        Form::Whole => list_of(&served.kind.list_kind(), &served.api_version(), items),
        Form::Partial => {
            let items = items.iter().map(|item| encode::partial(item, "PartialObjectMetadata")).collect();
            list_of("PartialObjectMetadataList", "meta.k8s.io/v1", items)
        }
    };
    Ok(answer::bytes(200, output.wire.content_type(), shown.to_json()))
}

/// What was never written has no version.
const NO_META: table::Meta<'static> = table::Meta { version: "", next: "", remaining: 0 };

fn list_of(kind: &str, api_version: &str, items: Vec<Value>) -> Value {
    let mut list = Value::map();
    list.set(&["kind"], kind);
    list.set(&["apiVersion"], api_version);
    list.set(&["metadata"], Value::map());
    list.set(&["items"], items);
    list
}

/// The time and window of a pod are those of the container that was measured first.
fn object_of(told: &Told, now: Timestamp) -> Value {
    let meta = &told.object.meta;
    let mut value = Value::map();
    value.set(&["metadata", "name"], meta.name.as_str());
    if !meta.namespace.is_empty() {
        value.set(&["metadata", "namespace"], meta.namespace.as_str());
    }
    value.set(&["metadata", "creationTimestamp"], time::seconds(now));
    for (key, label) in meta.labels.iter() {
        value.set(&["metadata", "labels", key.as_str()], label.as_str());
    }
    if let Some((_, first)) = told.used.iter().min_by_key(|(_, used)| used.at) {
        let at = Timestamp::from_millisecond(first.at).unwrap_or(now);
        value.set(&["timestamp"], time::seconds(at));
        value.set(&["window"], go_duration(told_window_millis(first)));
    }
    if let [(name, used)] = told.used.as_slice()
        && name.is_empty()
    {
        value.set(&["usage"], usage(used));
        return value;
    }
    let containers = told.used.iter().map(|(name, used)| {
        let mut container = Value::map();
        container.set(&["name"], name.as_str());
        container.set(&["usage"], usage(used));
        container
    });
    value.set(&["containers"], containers.collect::<Vec<_>>());
    value
}

fn usage(used: &Used) -> Value {
    let mut usage = Value::map();
    let cpu = i64::try_from(used.cpu_nanocores).unwrap_or(i64::MAX);
    let memory = i64::try_from(used.memory_bytes).unwrap_or(i64::MAX);
    usage.set(&["cpu"], Quantity::from_nanos(cpu).to_string());
    usage.set(&["memory"], Quantity::from_units(memory, Format::BinarySi).to_string());
    usage
}

/// The window as the told time ends it. That has whole seconds, and the window must not seem to begin before it did: an
/// autoscaler passes over usage from before a pod was ready.
fn told_window_millis(used: &Used) -> i64 {
    let shorter = used.window_millis - used.at.rem_euclid(1000);
    if shorter > 0 { shorter } else { used.window_millis }
}

/// As Go writes a duration: `1m15.2s`, `500ms`.
fn go_duration(millis: i64) -> String {
    if millis < 1000 {
        return if millis <= 0 { "0s".into() } else { format!("{millis}ms") };
    }
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let fraction = format!("{:03}", rest % 1000);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let seconds = format!("{}{point}{fraction}s", rest / 1000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m{seconds}"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        let table = [
            (0, "0s"),
            (500, "500ms"),
            (1000, "1s"),
            (15_230, "15.23s"),
            (60_000, "1m0s"),
            (75_200, "1m15.2s"),
            (3_600_000, "1h0m0s"),
        ];
        for (millis, wanted) in table {
            assert_eq!(go_duration(millis), wanted);
        }
    }

    #[test]
    fn a_window_does_not_seem_to_begin_before_it_did() {
        let used = |at, window_millis| Used { at, window_millis, cpu_nanocores: 0, memory_bytes: 0 };
        for (at, window, told) in [(15_900, 5400, 4500), (15_000, 5400, 5400), (15_600, 500, 500)] {
            assert_eq!(told_window_millis(&used(at, window)), told, "{at} {window}");
        }
    }

    #[test]
    fn amounts_are_written_as_metrics_server_writes_them() {
        let used = Used { at: 0, window_millis: 1, cpu_nanocores: 2_345_678, memory_bytes: 12_345 * 1024 };
        assert_eq!(usage(&used).to_json(), br#"{"cpu":"2345678n","memory":"12345Ki"}"#);
    }
}
