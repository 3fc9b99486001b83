//! ComponentStatuses: answered by asking, never kept.

use coracle_meta::Value;

use crate::column::{Column, NAME, text};
use crate::rules::Rules;

const COLUMNS: &[Column] = &[
    NAME,
    text("Status", |status, _| {
        Value::string(match healthy(status).map(|condition| condition.str_at(&["status"])) {
            Some("True") => "Healthy",
            Some(_) => "Unhealthy",
            None => "Unknown",
        })
    }),
    text("Message", |status, _| said(status, "message")),
    text("Error", |status, _| said(status, "error")),
];

pub const RULES: Rules = Rules { columns: COLUMNS, ..Rules::STANDARD };

fn healthy(status: &Value) -> Option<&Value> {
    status.list_at(&["conditions"]).iter().find(|condition| condition.str_at(&["type"]) == "Healthy")
}

fn said(status: &Value, member: &str) -> Value {
    Value::string(healthy(status).map(|condition| condition.str_at(&[member])).unwrap_or_default())
}
