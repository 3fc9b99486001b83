//! Affinity to nodes and to other pods.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use super::selector;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub fn validate(affinity: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    validate_node(affinity.get("nodeAffinity"), &path.child("nodeAffinity"), errors);
    for name in ["podAffinity", "podAntiAffinity"] {
        validate_pod(affinity.get(name), &path.child(name), errors);
    }
}

fn validate_node(affinity: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let required = affinity.get(REQUIRED);
    if !required.is_null() {
        validate_node_selector(required, &path.child(REQUIRED), errors);
    }
    let path = path.child(PREFERRED);
    for (index, term) in affinity.list_at(&[PREFERRED]).iter().enumerate() {
        let path = path.index(index);
        validate_weight(term, &path, errors);
        validate_term(term.get("preference"), &path.child("preference"), errors);
    }
}

/// A `NodeSelector`: any of its terms must hold.
pub fn validate_node_selector(node_selector: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let path = path.child("nodeSelectorTerms");
    let terms = node_selector.list_at(&["nodeSelectorTerms"]);
    if terms.is_empty() {
        errors.required(&path, "must have at least one node selector term");
    }
    for (index, term) in terms.iter().enumerate() {
        validate_term(term, &path.index(index), errors);
    }
}

fn validate_term(term: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let expressions = path.child("matchExpressions");
    for (index, requirement) in term.list_at(&["matchExpressions"]).iter().enumerate() {
        validate_requirement(requirement, &expressions.index(index), errors);
    }
    let fields = path.child("matchFields");
    for (index, requirement) in term.list_at(&["matchFields"]).iter().enumerate() {
        validate_field(requirement, &fields.index(index), errors);
    }
}

fn validate_requirement(requirement: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let (operator, values) = (requirement.str_at(&["operator"]), requirement.list_at(&["values"]));
    let values_path = path.child("values");
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&values_path, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.forbidden(&values_path, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors.required(&values_path, "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        _ => errors.invalid(&path.child("operator"), operator, "not a valid selector operator"),
    }
    let key = requirement.str_at(&["key"]);
    errors.invalid_each(&path.child("key"), key, names::qualified_name(key));
    for (index, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or_default();
        errors.invalid_each(&values_path.index(index), value, names::label_value(value));
    }
}

fn validate_field(requirement: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let (operator, values) = (requirement.str_at(&["operator"]), requirement.list_at(&["values"]));
    let values_path = path.child("values");
    match operator {
        "In" | "NotIn" if values.len() != 1 => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.required(&values_path, detail);
        }
        "In" | "NotIn" => {}
        _ => errors.invalid(&path.child("operator"), operator, "not a valid selector operator"),
    }
    match requirement.str_at(&["key"]) {
        "metadata.name" => {
            for (index, value) in values.iter().enumerate() {
                let value = value.as_str().unwrap_or_default();
                errors.invalid_each(&values_path.index(index), value, names::dns1123_subdomain(value));
            }
        }
        key => errors.invalid(&path.child("key"), key, "not a valid field selector key"),
    }
}

fn validate_pod(affinity: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let required = path.child(REQUIRED);
    for (index, term) in affinity.list_at(&[REQUIRED]).iter().enumerate() {
        validate_pod_term(term, &required.index(index), errors);
    }
    let preferred = path.child(PREFERRED);
    for (index, term) in affinity.list_at(&[PREFERRED]).iter().enumerate() {
        let path = preferred.index(index);
        validate_weight(term, &path, errors);
        validate_pod_term(term.get("podAffinityTerm"), &path.child("podAffinityTerm"), errors);
    }
}

fn validate_weight(term: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let weight = term.int_at(&["weight"]).unwrap_or_default();
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

fn validate_pod_term(term: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    selector::validate(term.get("labelSelector"), &path.child("labelSelector"), errors);
    selector::validate(term.get("namespaceSelector"), &path.child("namespaceSelector"), errors);
    for namespace in term.list_at(&["namespaces"]) {
        let name = namespace.as_str().unwrap_or_default();
        errors.invalid_each(&path.child("namespace"), name, names::dns1123_label(name));
    }
    let key = term.str_at(&["topologyKey"]);
    if key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    }
    errors.invalid_each(&path.child("topologyKey"), key, names::qualified_name(key));
}
