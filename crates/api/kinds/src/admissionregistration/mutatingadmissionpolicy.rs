//! MutatingAdmissionPolicies: rules about writes, as expressions.

use super::matching;
use crate::column::{AGE, Column, NAME, count, integer, text};
use crate::rules::{Lifecycle, Rules};

const COLUMNS: &[Column] = &[
    NAME,
    integer("Mutations", |object, _| count(object, &["spec", "mutations"])),
    text("ParamKind", |object, _| matching::parameter_kind(object).into()),
    AGE,
];

pub const RULES: Rules =
    Rules { default: matching::default_policy, columns: COLUMNS, lifecycle: Lifecycle::COUNTED, ..Rules::STANDARD };
