//! DeviceClasses: kinds of devices to ask for.

use crate::column::{AGE, Column, NAME};
use crate::rules::{Lifecycle, Rules};

const COLUMNS: &[Column] = &[NAME, AGE];

pub const RULES: Rules = Rules { columns: COLUMNS, lifecycle: Lifecycle::COUNTED, ..Rules::STANDARD };
