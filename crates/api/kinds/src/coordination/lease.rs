//! Leases: who holds what, and until when.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use crate::column::{AGE, Column, NAME, string_or, text};
use crate::object_meta::not_negative;
use crate::rules::Rules;

const COLUMNS: &[Column] = &[NAME, text("Holder", |lease, _| string_or(lease, &["spec", "holderIdentity"], "")), AGE];

pub const RULES: Rules = Rules { validate, columns: COLUMNS, ..Rules::STANDARD };

fn validate(lease: &Value, errors: &mut ErrorList) {
    let (spec, path) = (lease.get("spec"), Path::new("spec"));
    if let Some(seconds) = spec.int_at(&["leaseDurationSeconds"]).filter(|seconds| *seconds <= 0) {
        errors.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
    }
    not_negative(spec.get("leaseTransitions"), &path.child("leaseTransitions"), errors);
}
