//! ConfigMaps: text and bytes by key, at most a mebibyte, frozen when told so.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use crate::column::{AGE, Column, NAME, counted};
use crate::rules::{Rules, same};

/// What ConfigMaps and Secrets may hold.
pub const BYTES_MAX: usize = 1024 * 1024;
pub const FROZEN: &str = "field is immutable when `immutable` is set";

const COLUMNS: &[Column] = &[
    NAME,
    counted("Data", |map, _| {
        let count = |member: &str| map.entries_at(&[member]).count() as i64;
        Value::Int(count("data") + count("binaryData"))
    }),
    AGE,
];

pub const RULES: Rules = Rules { validate, validate_update, columns: COLUMNS, ..Rules::STANDARD };

fn validate(map: &Value, errors: &mut ErrorList) {
    let mut bytes = 0;
    for member in ["data", "binaryData"] {
        let path = Path::new(member);
        for (key, value) in map.entries_at(&[member]) {
            errors.invalid_each(&path.key(key), key, names::config_key(key));
            if member == "data" && !map.at(&["binaryData", key]).is_null() {
                errors.invalid(&path.key(key), key, "duplicate of key present in binaryData");
            }
            let length = value.as_str().unwrap_or_default().len();
            bytes += if member == "data" { length } else { length / 4 * 3 };
        }
    }
    if bytes > BYTES_MAX {
        errors.too_long(&Path::new(""), BYTES_MAX);
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    validate_frozen(new, old, &["data", "binaryData"], errors);
}

/// What was declared immutable stays so, and with it the data.
pub fn validate_frozen(new: &Value, old: &Value, members: &[&str], errors: &mut ErrorList) {
    if !old.bool_at(&["immutable"]) {
        return;
    }
    if !new.bool_at(&["immutable"]) {
        errors.forbidden(&Path::new("immutable"), FROZEN);
    }
    for member in members.iter().filter(|member| !same(new.get(member), old.get(member))) {
        errors.forbidden(&Path::new(member), FROZEN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::tree;

    #[test]
    fn an_immutable_map_stays_as_it_is() {
        let mut errors = ErrorList::default();
        let old = tree(r#"{"immutable":true,"data":{"a":"1"}}"#);
        validate_update(&tree(r#"{"data":{"a":"2"}}"#), &old, &mut errors);
        let fields: Vec<&str> = errors.errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["immutable", "data"]);
    }
}
