//! FlowSchemas: which requests go to which priority level.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use crate::column::{AGE, Column, NAME, number, string_or, text};
use crate::rules::{Lifecycle, Rules};
use crate::shapes::fill;

const COLUMNS: &[Column] = &[
    NAME,
    text("PriorityLevel", |object, _| string_or(object, &["spec", "priorityLevelConfiguration", "name"], "")),
    text("MatchingPrecedence", |object, _| number(object, &["spec", "matchingPrecedence"])),
    text("DistinguisherMethod", |object, _| string_or(object, &["spec", "distinguisherMethod", "type"], "<none>")),
    AGE,
    text("MissingPL", |object, _| dangling(object)),
];

pub const RULES: Rules =
    Rules { default, validate, columns: COLUMNS, lifecycle: Lifecycle::COUNTED, ..Rules::STANDARD };

const PRECEDENCE_MAX: i64 = 10_000;

fn default(object: &mut Value, _: &str) {
    fill(object, &["spec", "matchingPrecedence"], 1000);
}

fn dangling(object: &Value) -> Value {
    let conditions = object.list_at(&["status", "conditions"]);
    let found = conditions.iter().find(|condition| condition.str_at(&["type"]) == "Dangling");
    Value::string(found.map_or("?", |condition| condition.str_at(&["status"])))
}

fn validate(object: &Value, errors: &mut ErrorList) {
    let (spec, path) = (object.get("spec"), Path::new("spec"));
    let precedence = spec.int_at(&["matchingPrecedence"]).unwrap_or_default();
    if precedence <= 0 {
        errors.invalid(&path.child("matchingPrecedence"), precedence, "must be a positive value");
    } else if precedence > PRECEDENCE_MAX {
        let detail = format!("must not be greater than {PRECEDENCE_MAX}");
        errors.invalid(&path.child("matchingPrecedence"), precedence, detail);
    }
    if precedence == 1 && object.str_at(&["metadata", "name"]) != "exempt" {
        let why = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.invalid(&path.child("matchingPrecedence"), precedence, why);
    }
    if spec.str_at(&["priorityLevelConfiguration", "name"]).is_empty() {
        errors.required(&path.child("priorityLevelConfiguration.name"), "must reference a priority level");
    }
    let list = path.child("rules");
    for (index, rule) in spec.list_at(&["rules"]).iter().enumerate() {
        let path = list.index(index);
        if rule.list_at(&["subjects"]).is_empty() {
            errors.required(&path.child("subjects"), "subjects must contain at least one value");
        }
        if rule.list_at(&["resourceRules"]).is_empty() && rule.list_at(&["nonResourceRules"]).is_empty() {
            errors.required(&path, "at least one of resourceRules and nonResourceRules has to be non-empty");
        }
    }
}
