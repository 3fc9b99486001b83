//! ValidatingAdmissionPolicies: rules about writes, as expressions.

use super::matching;
use crate::column::{AGE, Column, NAME, count, integer, text};
use crate::rules::{Lifecycle, Rules};

const COLUMNS: &[Column] = &[
    NAME,
    integer("Validations", |object, _| count(object, &["spec", "validations"])),
    text("ParamKind", |object, _| matching::parameter_kind(object).into()),
    AGE,
];

pub const RULES: Rules =
    Rules { default: matching::default_policy, columns: COLUMNS, lifecycle: Lifecycle::COUNTED, ..Rules::STANDARD };
