//! `LabelSelector` objects as fields: what they may be.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use crate::object_meta;

/// A `LabelSelector`; null is left to the caller.
pub fn validate(selector: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    object_meta::labels(selector.get("matchLabels"), &path.child("matchLabels"), errors);
    let path = path.child("matchExpressions");
    for (index, requirement) in selector.list_at(&["matchExpressions"]).iter().enumerate() {
        validate_requirement(requirement, &path.index(index), errors);
    }
}

fn validate_requirement(requirement: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let (operator, values) = (requirement.str_at(&["operator"]), requirement.list_at(&["values"]));
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(&path.child("values"), detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        _ => errors.invalid(&path.child("operator"), operator, "not a valid selector operator"),
    }
    let key = requirement.str_at(&["key"]);
    errors.invalid_each(&path.child("key"), key, names::qualified_name(key));
    let path = path.child("values");
    for (index, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or_default();
        errors.invalid_each(&path.index(index), value, names::label_value(value));
    }
}
