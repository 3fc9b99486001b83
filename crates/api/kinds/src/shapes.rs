//! Shapes that many kinds share: the pod and its parts, selectors, resources, conditions of validity.

pub mod affinity;
pub mod conditions;
pub mod container;
pub mod environment;
pub mod image;
pub mod network;
pub mod pod_defaults;
pub mod pod_spec;
pub mod probe;
pub mod quantities;
pub mod security;
pub mod selector;
pub mod spread;
pub mod template;
pub mod tolerations;
pub mod volume;
pub mod volume_defaults;

use coracle_meta::Value;

/// Writes a default where Go's zero value stands: nothing, `""`, `0`, an empty list or map.
pub fn fill(object: &mut Value, path: &[&str], default: impl Into<Value>) {
    if object.at(path).is_empty() {
        object.set(path, default);
    }
}

/// Applies a rule to a member where there is one.
pub fn within(object: &mut Value, path: &[&str], rule: impl FnOnce(&mut Value)) {
    if let Some(member) = object.at_mut(path).filter(|member| !member.is_null()) {
        rule(member);
    }
}

/// A JSON literal of a table or a default as a tree.
pub fn tree(json: &str) -> Value {
    Value::from_json(json.as_bytes()).expect("the literal is JSON")
}
