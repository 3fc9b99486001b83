//! Workloads: templates of pod groups.

use crate::column;
use crate::rules::Rules;

pub const RULES: Rules = Rules { columns: column::NAME_AND_AGE, ..Rules::STANDARD };
