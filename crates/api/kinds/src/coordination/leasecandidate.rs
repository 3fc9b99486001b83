//! LeaseCandidates: who stands for a lease.

use crate::column::{AGE, Column, NAME, string_or, text};
use crate::rules::Rules;

const COLUMNS: &[Column] = &[
    NAME,
    text("LeaseName", |one, _| string_or(one, &["spec", "leaseName"], "")),
    text("BinaryVersion", |one, _| string_or(one, &["spec", "binaryVersion"], "")),
    text("EmulationVersion", |one, _| string_or(one, &["spec", "emulationVersion"], "")),
    AGE,
];

pub const RULES: Rules = Rules {
    columns: COLUMNS,
    selectable_fields: |one| vec![("spec.leaseName", one.str_at(&["spec", "leaseName"]).to_owned())],
    ..Rules::STANDARD
};
