//! ResourceClaims: devices asked for and given.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use crate::column::{AGE, Column, NAME, text};
use crate::object_meta::immutable;
use crate::rules::Rules;

const COLUMNS: &[Column] = &[NAME, text("State", |object, _| state(object).into()), AGE];

pub const RULES: Rules = Rules { validate_update, columns: COLUMNS, ..Rules::STANDARD };

fn state(object: &Value) -> String {
    let is_deleting = !object.at(&["metadata", "deletionTimestamp"]).is_null();
    let is_allocated = !object.at(&["status", "allocation"]).is_null();
    let is_reserved = is_allocated && !object.list_at(&["status", "reservedFor"]).is_empty();
    let words = [
        (is_deleting, "deleted"),
        (!is_allocated && !is_deleting, "pending"),
        (is_allocated, "allocated"),
        (is_reserved, "reserved"),
    ];
    words.iter().filter(|(holds, _)| *holds).map(|(_, word)| *word).collect::<Vec<_>>().join(",")
}

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    immutable(new.get("spec"), old.get("spec"), &Path::new("spec"), errors);
}
