//! `metav1.Condition`s as a status holds them. Source: Kubernetes `apimachinery/pkg/apis/meta/v1/validation`.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

const REASON_BYTES_MAX: usize = 1024;
const MESSAGE_BYTES_MAX: usize = 32 * 1024;
const REASON_FORM: &str = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?";
const REASON_TEXT: &str = "a condition reason must start with alphabetic character, optionally followed by a string of \
                           alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";

pub fn validate(conditions: &[Value], path: &Path<'_>, errors: &mut ErrorList) {
    for (index, condition) in conditions.iter().enumerate() {
        let (path, kind) = (path.index(index), condition.str_at(&["type"]));
        if conditions[..index].iter().any(|other| other.str_at(&["type"]) == kind) {
            errors.duplicate(&path.child("type"), kind);
        }
        errors.invalid_each(&path.child("type"), kind, names::qualified_name(kind));
        validate_one(condition, &path, errors);
    }
}

fn validate_one(condition: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let (status, reason) = (condition.str_at(&["status"]), condition.str_at(&["reason"]));
    let known = ["False", "True", "Unknown"];
    if !known.contains(&status) {
        errors.not_supported(&path.child("status"), status, &known);
    }
    if let Some(generation) = condition.int_at(&["observedGeneration"]).filter(|generation| *generation < 0) {
        errors.invalid(&path.child("observedGeneration"), generation, "must be greater than or equal to zero");
    }
    if condition.str_at(&["lastTransitionTime"]).is_empty() {
        errors.required(&path.child("lastTransitionTime"), "");
    }
    let of_reason = path.child("reason");
    if reason.is_empty() {
        errors.required(&of_reason, "");
    } else if !is_reason(reason) {
        let examples = ["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"];
        errors.invalid(&of_reason, reason, names::regex_error(REASON_TEXT, REASON_FORM, &examples));
    }
    if reason.len() > REASON_BYTES_MAX {
        errors.too_long(&of_reason, REASON_BYTES_MAX);
    }
    if condition.str_at(&["message"]).len() > MESSAGE_BYTES_MAX {
        errors.too_long(&path.child("message"), MESSAGE_BYTES_MAX);
    }
}

fn is_reason(reason: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = reason.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().copied().is_some_and(word)
        && bytes.iter().all(|byte| word(*byte) || [b',', b':'].contains(byte))
}
