//! DaemonSets: a pod on every node that fits.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use super::update_strategy::{amount, validate_amount, validate_at_most_whole};
use crate::column::{self, AGE, Column, NAME, integer, joined, number, text};
use crate::object_meta::{immutable, not_negative};
use crate::rules::{Lifecycle, Rules};
use crate::shapes::{fill, pod_defaults, template};

const COLUMNS: &[Column] = &[
    NAME,
    integer("Desired", |object, _| number(object, &["status", "desiredNumberScheduled"])),
    integer("Current", |object, _| number(object, &["status", "currentNumberScheduled"])),
    integer("Ready", |object, _| number(object, &["status", "numberReady"])),
    integer("Up-to-date", |object, _| number(object, &["status", "updatedNumberScheduled"])),
    integer("Available", |object, _| number(object, &["status", "numberAvailable"])),
    text("Node Selector", |object, _| column::labels(object.at(&["spec", "template", "spec", "nodeSelector"])).into()),
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
    lifecycle: Lifecycle::COUNTED,
    ..Rules::STANDARD
};

fn default(object: &mut Value, _: &str) {
    let spec = object.ensure(&["spec"]);
    fill(spec, &["updateStrategy", "type"], "RollingUpdate");
    if spec.str_at(&["updateStrategy", "type"]) == "RollingUpdate" {
        spec.set_default(&["updateStrategy", "rollingUpdate", "maxUnavailable"], 1);
        spec.set_default(&["updateStrategy", "rollingUpdate", "maxSurge"], 0);
    }
    spec.set_default(&["revisionHistoryLimit"], 10);
    pod_defaults::template(spec.ensure(&["template"]));
}

fn validate(object: &Value, errors: &mut ErrorList) {
    let (spec, path) = (object.get("spec"), Path::new("spec"));
    template::validate_workload(spec, "daemonset", &path, errors);
    let policy = spec.at(&["template", "spec", "restartPolicy"]);
    if policy.as_str() != Some("Always") {
        errors.not_supported(&path.child("template.spec.restartPolicy"), policy, &["Always"]);
    }
    if !spec.at(&["template", "spec", "activeDeadlineSeconds"]).is_null() {
        let detail = "activeDeadlineSeconds in DaemonSet is not Supported";
        errors.forbidden(&path.child("template.spec.activeDeadlineSeconds"), detail);
    }
    for member in ["minReadySeconds", "revisionHistoryLimit"] {
        not_negative(spec.get(member), &path.child(member), errors);
    }
    validate_strategy(spec.get("updateStrategy"), &path.child("updateStrategy"), errors);
}

fn validate_strategy(strategy: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let rolling = strategy.get("rollingUpdate");
    let rolling_path = path.child("rollingUpdate");
    match strategy.str_at(&["type"]) {
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_null() => errors.required(&rolling_path, ""),
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            for (value, name) in [(unavailable, "maxUnavailable"), (surge, "maxSurge")] {
                validate_amount(value, &rolling_path.child(name), errors);
                validate_at_most_whole(value, &rolling_path.child(name), errors);
            }
            match (amount(unavailable) != 0, amount(surge) != 0) {
                (true, true) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    errors.invalid(&rolling_path.child("maxSurge"), surge, detail);
                }
                (false, false) => {
                    let detail = "cannot be 0 when maxSurge is 0";
                    errors.required(&rolling_path.child("maxUnavailable"), detail);
                }
                _ => {}
            }
        }
        other => errors.not_supported(&path.child("type"), other, &["RollingUpdate", "OnDelete"]),
    }
}
