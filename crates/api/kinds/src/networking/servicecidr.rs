//! ServiceCIDRs: the ranges cluster IPs are taken from.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use crate::column::{AGE, Column, NAME, text};
use crate::object_meta::immutable;
use crate::rules::Rules;
use crate::shapes::network::validate_cidr;

const COLUMNS: &[Column] = &[
    NAME,
    text("CIDRs", |range, _| {
        let ranges: Vec<&str> = range.list_at(&["spec", "cidrs"]).iter().filter_map(Value::as_str).collect();
        ranges.join(",").into()
    }),
    AGE,
];

pub const RULES: Rules = Rules {
    validate,
    validate_update: |new, old, errors| {
        immutable(new.at(&["spec", "cidrs"]), old.at(&["spec", "cidrs"]), &Path::new("spec.cidrs"), errors);
    },
    columns: COLUMNS,
    ..Rules::STANDARD
};

fn validate(range: &Value, errors: &mut ErrorList) {
    let (ranges, path) = (range.list_at(&["spec", "cidrs"]), Path::new("spec.cidrs"));
    if ranges.is_empty() {
        errors.required(&path, "at least one CIDR required");
    }
    if ranges.len() > 2 {
        errors.invalid(&path, range.at(&["spec"]), "may only hold up to 2 values");
    }
    for (index, range) in ranges.iter().enumerate() {
        validate_cidr(range.as_str().unwrap_or_default(), &path.index(index), errors);
    }
}
