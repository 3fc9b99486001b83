//! Events of `events.k8s.io`: the core group's objects under other names of fields.

use coracle_meta::Value;

use crate::core::event as core_event;
use crate::rules::Rules;

pub const RULES: Rules = Rules { selectable_fields, columns: core_event::COLUMNS, ..core_event::RULES };

/// The newer name of what an event is about; everything else is as in the core group.
fn selectable_fields(event: &Value) -> Vec<(&'static str, String)> {
    let renamed = |field: &'static str| match field {
        "involvedObject.kind" => "regarding.kind",
        "involvedObject.namespace" => "regarding.namespace",
        "involvedObject.name" => "regarding.name",
        "involvedObject.uid" => "regarding.uid",
        "involvedObject.apiVersion" => "regarding.apiVersion",
        "involvedObject.resourceVersion" => "regarding.resourceVersion",
        "involvedObject.fieldPath" => "regarding.fieldPath",
        "reportingComponent" => "reportingController",
        other => other,
    };
    (core_event::RULES.selectable_fields)(event).into_iter().map(|(field, value)| (renamed(field), value)).collect()
}
