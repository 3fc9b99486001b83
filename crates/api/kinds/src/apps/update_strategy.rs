//! Numbers and percentages of rolling updates.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, IntOrString, Value, names};

use crate::object_meta::not_negative;

/// A number that is not negative, or a percentage.
pub fn validate_amount(value: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    match IntOrString::from_value(value) {
        Some(IntOrString::Int(_)) => not_negative(value, path, errors),
        Some(IntOrString::String(text)) => errors.invalid_each(path, text.as_str(), names::percent(&text)),
        None => {}
    }
}

pub fn validate_at_most_whole(value: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let percent = IntOrString::from_value(value).and_then(|value| value.percent());
    if percent.is_some_and(|percent| percent > 100) {
        errors.invalid(path, value, "must not be greater than 100%");
    }
}

/// The number, or the number in front of `%`.
pub fn amount(value: &Value) -> i64 {
    match IntOrString::from_value(value) {
        Some(IntOrString::Int(number)) => number,
        Some(text) => text.percent().unwrap_or_default(),
        None => 0,
    }
}
