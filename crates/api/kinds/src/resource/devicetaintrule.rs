//! DeviceTaintRules: devices that are to be left alone.

use crate::column::{AGE, Column, NAME, string_or, text};
use crate::rules::{Lifecycle, Rules};

const COLUMNS: &[Column] = &[
    NAME,
    text("Key", |object, _| string_or(object, &["spec", "taint", "key"], "")),
    text("Value", |object, _| string_or(object, &["spec", "taint", "value"], "")),
    text("Effect", |object, _| string_or(object, &["spec", "taint", "effect"], "")),
    AGE,
];

pub const RULES: Rules = Rules { columns: COLUMNS, lifecycle: Lifecycle::COUNTED, ..Rules::STANDARD };
