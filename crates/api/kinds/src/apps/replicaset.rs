//! ReplicaSets: so many pods of one template.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use crate::column::{self, AGE, Column, NAME, integer, joined, number, text};
use crate::object_meta::{immutable, not_negative};
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
    text("Selector", |object, _| column::selector(object.at(&["spec", "selector"])).into()).wide(),
];

pub const RULES: Rules = Rules {
    default,
    drop_gated: template::drop_gated,
    validate,
    validate_update: |new, old, errors| {
        immutable(new.at(&["spec", "selector"]), old.at(&["spec", "selector"]), &Path::new("spec.selector"), errors);
    },
    columns: COLUMNS,
    selectable_fields: |object| {
        vec![("status.replicas", object.int_at(&["status", "replicas"]).unwrap_or_default().to_string())]
    },
    lifecycle: Lifecycle::COUNTED,
    ..Rules::STANDARD
};

fn default(object: &mut Value, _: &str) {
    object.set_default(&["spec", "replicas"], 1);
    pod_defaults::template(object.ensure(&["spec", "template"]));
}

fn validate(object: &Value, errors: &mut ErrorList) {
    let (spec, path) = (object.get("spec"), Path::new("spec"));
    for member in ["replicas", "minReadySeconds"] {
        not_negative(spec.get(member), &path.child(member), errors);
    }
    template::validate_workload(spec, "deployment", &path, errors);
    template::validate_restarts_always(spec, &path, errors);
}
