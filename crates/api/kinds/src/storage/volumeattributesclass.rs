//! VolumeAttributesClasses: what of a volume may be changed later.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use crate::column::{AGE, Column, NAME, string_or, text};
use crate::object_meta::immutable;
use crate::rules::Rules;

const COLUMNS: &[Column] = &[NAME, text("DriverName", |object, _| string_or(object, &["driverName"], "")), AGE];

pub const RULES: Rules = Rules { validate, validate_update, columns: COLUMNS, ..Rules::STANDARD };

fn validate(class: &Value, errors: &mut ErrorList) {
    if class.str_at(&["driverName"]).is_empty() {
        errors.required(&Path::new("driverName"), "");
    }
    if class.get("parameters").is_empty() {
        errors.required(&Path::new("parameters"), "must contain at least one key/value pair");
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    for member in ["driverName", "parameters"] {
        immutable(new.get(member), old.get(member), &Path::new(member), errors);
    }
}
