//! NodeMetrics: what a node uses.

use coracle_meta::Value;

use super::{NAME, WINDOW, column};
use crate::column::Column;
use crate::rules::Rules;

const COLUMNS: &[Column] = &[
    NAME,
    column("cpu", "quantity", |node, _| used(node, "cpu")),
    column("memory", "quantity", |node, _| used(node, "memory")),
    WINDOW,
];

pub const RULES: Rules = Rules { columns: COLUMNS, ..Rules::STANDARD };

fn used(node: &Value, resource: &str) -> Value {
    Value::string(node.str_at(&["usage", resource]))
}
