//! Deployments: replicas of a pod, rolled from one template to the next.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, LabelSelector, Value};

use super::update_strategy::{amount, validate_amount, validate_at_most_whole};
use crate::column::{AGE, Column, NAME, joined, number, text};
use crate::object_meta::{immutable, not_negative};
use crate::rules::{Lifecycle, Rules, same};
use crate::shapes::{fill, pod_defaults, template};

const COLUMNS: &[Column] = &[
    NAME,
    text("Ready", |object, _| {
        let ready = object.int_at(&["status", "readyReplicas"]).unwrap_or_default();
        format!("{ready}/{}", object.int_at(&["spec", "replicas"]).unwrap_or_default()).into()
    })
    .about("How many pods are ready, of how many."),
    text("Up-to-date", |object, _| number(object, &["status", "updatedReplicas"])),
    text("Available", |object, _| number(object, &["status", "availableReplicas"])),
    AGE,
    text("Containers", |object, _| joined(object.list_at(&["spec", "template", "spec", "containers"]), "name").into())
        .wide(),
    text("Images", |object, _| joined(object.list_at(&["spec", "template", "spec", "containers"]), "image").into())
        .wide(),
    text("Selector", |object, _| match LabelSelector::from_value(object.at(&["spec", "selector"])) {
        Ok(selector) => selector.to_string().into(),
        Err(_) => Value::string("<invalid>"),
    })
    .wide(),
];

pub const RULES: Rules = Rules {
    default,
    drop_gated: template::drop_gated,
    prepare_update,
    validate,
    validate_update: |new, old, errors| {
        immutable(new.at(&["spec", "selector"]), old.at(&["spec", "selector"]), &Path::new("spec.selector"), errors);
    },
    columns: COLUMNS,
    lifecycle: Lifecycle::WORKLOAD,
    ..Rules::STANDARD
};

fn default(object: &mut Value, _: &str) {
    let spec = object.ensure(&["spec"]);
    spec.set_default(&["replicas"], 1);
    fill(spec, &["strategy", "type"], "RollingUpdate");
    if spec.str_at(&["strategy", "type"]) == "RollingUpdate" {
        spec.set_default(&["strategy", "rollingUpdate", "maxUnavailable"], "25%");
        spec.set_default(&["strategy", "rollingUpdate", "maxSurge"], "25%");
    }
    spec.set_default(&["revisionHistoryLimit"], 10);
    spec.set_default(&["progressDeadlineSeconds"], 600);
    pod_defaults::template(spec.ensure(&["template"]));
}

/// A changed annotation counts as a generation too: the controller copies annotations to its ReplicaSets.
fn prepare_update(new: &mut Value, old: &Value) {
    let path = &["metadata", "annotations"];
    if !same(new.at(path), old.at(path)) && same(new.get("spec"), old.get("spec")) {
        let generation = old.int_at(&["metadata", "generation"]).unwrap_or_default();
        new.set(&["metadata", "generation"], generation + 1);
    }
}

fn validate(object: &Value, errors: &mut ErrorList) {
    let (spec, path) = (object.get("spec"), Path::new("spec"));
    not_negative(spec.get("replicas"), &path.child("replicas"), errors);
    template::validate_workload(spec, "deployment", &path, errors);
    template::validate_restarts_always(spec, &path, errors);
    validate_strategy(spec.get("strategy"), &path.child("strategy"), errors);
    for member in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        not_negative(spec.get(member), &path.child(member), errors);
    }
    let ready = spec.int_at(&["minReadySeconds"]).unwrap_or_default();
    if let Some(deadline) = spec.int_at(&["progressDeadlineSeconds"]).filter(|deadline| *deadline <= ready) {
        errors.invalid(&path.child("progressDeadlineSeconds"), deadline, "must be greater than minReadySeconds");
    }
}

fn validate_strategy(strategy: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let rolling = strategy.get("rollingUpdate");
    let path_rolling = path.child("rollingUpdate");
    match strategy.str_at(&["type"]) {
        "Recreate" if !rolling.is_null() => {
            errors.forbidden(&path_rolling, "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" if rolling.is_null() => {
            errors.required(&path_rolling, "this should be defaulted and never be nil");
        }
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            let path_unavailable = path_rolling.child("maxUnavailable");
            validate_amount(unavailable, &path_unavailable, errors);
            validate_amount(surge, &path_rolling.child("maxSurge"), errors);
            if amount(unavailable) == 0 && amount(surge) == 0 {
                errors.invalid(&path_unavailable, unavailable, "may not be 0 when `maxSurge` is 0");
            }
            validate_at_most_whole(unavailable, &path_unavailable, errors);
        }
        _ => errors.not_supported(path, strategy, &["Recreate", "RollingUpdate"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::tree;

    fn deployment() -> Value {
        let mut object = tree(
            r#"{"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"x"}]}}}}"#,
        );
        default(&mut object, "v1");
        object
    }

    #[test]
    fn a_short_deployment_is_filled_and_valid() {
        let object = deployment();
        assert_eq!(object.int_at(&["spec", "replicas"]), Some(1));
        assert_eq!(object.str_at(&["spec", "strategy", "rollingUpdate", "maxSurge"]), "25%");
        let mut errors = ErrorList::default();
        validate(&object, &mut errors);
        assert!(errors.is_empty(), "{errors}");
    }

    #[test]
    fn bad_numbers_and_labels_are_told() {
        let mut object = deployment();
        object.set(&["spec", "replicas"], -1);
        object.set(&["spec", "selector", "matchLabels", "a"], "c");
        object.set(&["spec", "strategy", "rollingUpdate", "maxSurge"], "x");
        let mut errors = ErrorList::default();
        validate(&object, &mut errors);
        let texts: Vec<String> = errors.errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts[0], "spec.replicas: Invalid value: -1: must be greater than or equal to 0");
        assert_eq!(
            texts[1],
            "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`"
        );
        assert!(texts[2].starts_with("spec.strategy.rollingUpdate.maxSurge: Invalid value: \"x\": a valid percent"));
    }
}
