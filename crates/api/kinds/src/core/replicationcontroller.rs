//! ReplicationControllers, the old form of ReplicaSets: they select by plain labels.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use crate::column::{self, AGE, Column, NAME, integer, joined, number, text};
use crate::object_meta::not_negative;
use crate::rules::{Lifecycle, Rules};
use crate::shapes::{pod_defaults, template};

const COLUMNS: &[Column] = &[
    NAME,
    integer("Desired", |object, _| number(object, &["spec", "replicas"])),
    integer("Current", |object, _| number(object, &["status", "replicas"])),
    integer("Ready", |object, _| number(object, &["status", "readyReplicas"])),
    AGE,
    text("Containers", |object, _| joined(object.list_at(&["spec", "template", "spec", "containers"]), "name").into())
        .wide(),
    text("Images", |object, _| joined(object.list_at(&["spec", "template", "spec", "containers"]), "image").into())
        .wide(),
    text("Selector", |object, _| column::labels(object.at(&["spec", "selector"])).into()).wide(),
];

pub const RULES: Rules = Rules {
    default,
    drop_gated: template::drop_gated,
    validate,
    columns: COLUMNS,
    selectable_fields: |object| {
        vec![("status.replicas", object.int_at(&["status", "replicas"]).unwrap_or_default().to_string())]
    },
    lifecycle: Lifecycle::COUNTED,
    ..Rules::STANDARD
};

fn default(object: &mut Value, _: &str) {
    object.set_default(&["spec", "replicas"], 1);
    let labels = object.at(&["spec", "template", "metadata", "labels"]).clone();
    if !labels.is_empty() {
        crate::shapes::fill(object, &["spec", "selector"], labels.clone());
        crate::shapes::fill(object, &["metadata", "labels"], labels);
    }
    if !object.at(&["spec", "template"]).is_null() {
        pod_defaults::template(object.ensure(&["spec", "template"]));
    }
}

fn validate(object: &Value, errors: &mut ErrorList) {
    let (spec, path) = (object.get("spec"), Path::new("spec"));
    not_negative(spec.get("minReadySeconds"), &path.child("minReadySeconds"), errors);
    if spec.get("selector").is_empty() {
        errors.required(&path.child("selector"), "");
    }
    not_negative(spec.get("replicas"), &path.child("replicas"), errors);
    let template_path = path.child("template");
    if spec.get("template").is_null() {
        errors.required(&template_path, "");
        return;
    }
    let labels = spec.at(&["template", "metadata", "labels"]);
    let is_selected = spec.entries_at(&["selector"]).all(|(key, value)| labels.get(key) == value);
    if !is_selected {
        let detail = "`selector` does not match template `labels`";
        errors.invalid(&template_path.child("metadata.labels"), labels, detail);
    }
    template::validate(spec.get("template"), &template_path, errors);
    template::validate_restarts_always(spec, &path, errors);
}
