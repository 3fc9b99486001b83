//! PodGroups: pods that are scheduled together.

use coracle_meta::Value;

use crate::column::{AGE, Column, NAME, string_or, text};
use crate::rules::Rules;

const COLUMNS: &[Column] = &[
    NAME,
    text("Policy", |group, _| {
        Value::string(if group.at(&["spec", "schedulingPolicy", "gang"]).is_null() { "Basic" } else { "Gang" })
    }),
    text("Workload", |group, _| {
        string_or(group, &["spec", "podGroupTemplateRef", "workload", "workloadName"], "<none>")
    }),
    text("Status", |group, _| Value::string(status(group))),
    AGE,
];

pub const RULES: Rules = Rules { columns: COLUMNS, ..Rules::STANDARD };

fn status(group: &Value) -> &str {
    let conditions = group.list_at(&["status", "conditions"]);
    let find = |kind: &str| conditions.iter().find(|condition| condition.str_at(&["type"]) == kind);
    match (find("DisruptionTarget"), find("PodGroupScheduled")) {
        (Some(condition), _) => condition.str_at(&["reason"]),
        (None, Some(condition)) if condition.str_at(&["status"]) == "True" => "Scheduled",
        (None, Some(_)) => "Unschedulable",
        (None, None) => "Pending",
    }
}
