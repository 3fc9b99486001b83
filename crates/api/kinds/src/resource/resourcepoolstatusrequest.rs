//! ResourcePoolStatusRequests: asking how full a pool of devices is.

use crate::column::{Column, NAME, string_or, text};
use crate::rules::Rules;

const COLUMNS: &[Column] = &[NAME, text("Driver", |object, _| string_or(object, &["spec", "driver"], ""))];

pub const RULES: Rules = Rules { columns: COLUMNS, ..Rules::STANDARD };
