//! CSINodes: which storage drivers a node has.

use crate::column::{AGE, Column, NAME, count, integer};
use crate::rules::Rules;

const COLUMNS: &[Column] = &[NAME, integer("Drivers", |object, _| count(object, &["spec", "drivers"])), AGE];

pub const RULES: Rules = Rules { columns: COLUMNS, ..Rules::STANDARD };
