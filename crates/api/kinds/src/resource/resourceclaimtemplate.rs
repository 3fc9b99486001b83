//! ResourceClaimTemplates: claims made per pod.

use crate::column::{AGE, Column, NAME};
use crate::rules::Rules;

const COLUMNS: &[Column] = &[NAME, AGE];

pub const RULES: Rules = Rules { columns: COLUMNS, ..Rules::STANDARD };
