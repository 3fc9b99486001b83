//! MutatingAdmissionPolicyBindings: where a policy holds.

use super::matching;
use crate::column::{AGE, Column, NAME, string_or, text};
use crate::rules::{Lifecycle, Rules};

const COLUMNS: &[Column] = &[
    NAME,
    text("PolicyName", |object, _| string_or(object, &["spec", "policyName"], "")),
    text("ParamRef", |object, _| matching::parameter(object).into()),
    AGE,
];

pub const RULES: Rules =
    Rules { default: matching::default_binding, columns: COLUMNS, lifecycle: Lifecycle::COUNTED, ..Rules::STANDARD };
