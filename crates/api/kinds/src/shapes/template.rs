//! Pod templates inside workloads: their labels must be what the workload selects.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Gate, Gates, LabelSelector, Value};

use super::{pod_spec, selector};

use crate::object_meta;

/// Labels, annotations and spec of a pod template.
pub fn validate(template: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let meta = template.get("metadata");
    object_meta::labels(meta.get("labels"), &path.child("labels"), errors);
    object_meta::annotations(meta.get("annotations"), &path.child("annotations"), errors);
    pod_spec::validate(template.get("spec"), pod_spec::Within::Template, &path.child("spec"), errors);
    if !template.list_at(&["spec", "ephemeralContainers"]).is_empty() {
        let detail = "ephemeral containers not allowed in pod template";
        errors.forbidden(&path.child("spec.ephemeralContainers"), detail);
    }
}

/// Takes out what belongs to gates that are off, of a workload's template.
pub fn drop_gated(gates: Gates, new: &mut Value, old: &Value) {
    drop_gated_at(gates, new, old, &["spec", "template"]);
}

/// The same of the pod or the template at a path.
pub fn drop_gated_at(gates: Gates, new: &mut Value, old: &Value, path: &[&str]) {
    let has_none = |object: &Value| object.at(path).at(&["spec", "schedulingGroup"]).is_null();
    if gates.has(Gate::GenericWorkload) || has_none(new) || !has_none(old) {
        return;
    }
    if let Some(pod) = new.at_mut(path) {
        pod.remove(&["spec", "schedulingGroup"]);
    }
}

/// Selector and template of a workload; `workload` is the word upstream's message has for it.
pub fn validate_workload(spec: &Value, workload: &str, path: &Path<'_>, errors: &mut ErrorList) {
    let (picked, selector_path) = (spec.get("selector"), path.child("selector"));
    if picked.is_null() {
        errors.required(&selector_path, "");
    } else {
        selector::validate(picked, &selector_path, errors);
        let is_empty = picked.get("matchLabels").is_empty() && picked.get("matchExpressions").is_empty();
        if is_empty {
            errors.invalid(&selector_path, picked, format!("empty selector is invalid for {workload}"));
        }
    }
    validate_selected(spec, path, errors);
}

/// The template, and that its labels are those selected.
pub fn validate_selected(spec: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let (template, template_path) = (spec.get("template"), path.child("template"));
    let labels = template.at(&["metadata", "labels"]);
    match LabelSelector::from_value(spec.get("selector")) {
        Err(_) => errors.invalid(&path.child("selector"), spec.get("selector"), "invalid label selector"),
        Ok(picked) if !picked.is_nothing() && !picked.is_everything() => {
            if !picked.matches_with(|key| labels.get(key).as_str()) {
                let detail = "`selector` does not match template `labels`";
                errors.invalid(&template_path.child("metadata.labels"), labels, detail);
            }
        }
        Ok(_) => {}
    }
    validate(template, &template_path, errors);
}

/// A workload that keeps its pods running may only restart them always.
pub fn validate_restarts_always(spec: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let policy = spec.at(&["template", "spec", "restartPolicy"]);
    if policy.as_str() != Some("Always") {
        errors.not_supported(&path.child("template.spec.restartPolicy"), policy, &["Always"]);
    }
    if !spec.at(&["template", "spec", "activeDeadlineSeconds"]).is_null() {
        let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.forbidden(&path.child("template.spec.activeDeadlineSeconds"), detail);
    }
}
