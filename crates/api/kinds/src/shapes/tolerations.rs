//! Tolerations of pods and taints of nodes.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub fn validate(tolerations: &[Value], path: &Path<'_>, errors: &mut ErrorList) {
    for (index, toleration) in tolerations.iter().enumerate() {
        validate_one(toleration, &path.index(index), errors);
    }
}

fn validate_one(toleration: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let part = |name: &str| toleration.str_at(&[name]);
    let (key, operator, value, effect) = (part("key"), part("operator"), part("value"), part("effect"));
    if !key.is_empty() {
        errors.invalid_each(&path.child("key"), key, names::qualified_name(key));
    } else if operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.invalid(&path.child("operator"), operator, detail);
    }
    if !toleration.get("tolerationSeconds").is_null() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.invalid(&path.child("effect"), effect, detail);
    }
    match operator {
        "Equal" | "" => {
            let messages = names::label_value(value);
            if !messages.is_empty() {
                errors.invalid(&path.child("operator"), value, messages.join(";"));
            }
        }
        "Exists" if !value.is_empty() => {
            errors.invalid(&path.child("operator"), value, "value must be empty when `operator` is 'Exists'");
        }
        "Exists" => {}
        "Lt" | "Gt" => errors.not_supported(&path.child("operator"), operator, &["Equal", "Exists", "Lt", "Gt"]),
        _ => errors.not_supported(&path.child("operator"), operator, &["Equal", "Exists"]),
    }
    if !effect.is_empty() {
        validate_effect(effect, &path.child("effect"), errors);
    }
}

/// An effect that must be one of the three.
pub fn validate_effect(effect: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if effect.is_empty() {
        errors.required(path, "");
    } else if !EFFECTS.contains(&effect) {
        errors.not_supported(path, effect, EFFECTS);
    }
}

/// A pod's tolerations may grow; of what was there only the seconds may change.
pub fn validate_only_added(new: &[Value], old: &[Value], path: &Path<'_>, errors: &mut ErrorList) {
    let stripped = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration.remove(&["tolerationSeconds"]);
        toleration
    };
    let kept: Vec<Value> = new.iter().map(stripped).collect();
    if old.iter().any(|toleration| !kept.contains(&stripped(toleration))) {
        errors.forbidden(path, "existing toleration can not be modified except its tolerationSeconds");
    }
}
