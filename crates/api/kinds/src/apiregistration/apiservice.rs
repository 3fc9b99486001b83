//! APIServices: who serves a group and version.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use crate::column::{AGE, Column, NAME, text};
use crate::rules::Rules;
use crate::shapes::within;

const COLUMNS: &[Column] = &[
    NAME,
    text("Service", |object, _| service(object).into()),
    text("Available", |object, _| available(object).into()),
    AGE,
];

pub const RULES: Rules = Rules { default, validate, name: service_name, columns: COLUMNS, ..Rules::STANDARD };

fn default(object: &mut Value, _: &str) {
    within(object, &["spec", "service"], |service| service.set_default(&["port"], 443));
}

fn service(object: &Value) -> String {
    match object.at(&["spec", "service"]) {
        Value::Null => "Local".into(),
        service => format!("{}/{}", service.str_at(&["namespace"]), service.str_at(&["name"])),
    }
}

fn available(object: &Value) -> String {
    let conditions = object.list_at(&["status", "conditions"]);
    match conditions.iter().find(|condition| condition.str_at(&["type"]) == "Available") {
        None => "Unknown".into(),
        Some(condition) if condition.str_at(&["status"]) == "True" => "True".into(),
        Some(condition) => format!("{} ({})", condition.str_at(&["status"]), condition.str_at(&["reason"])),
    }
}

fn validate(object: &Value, errors: &mut ErrorList) {
    let (spec, path) = (object.get("spec"), Path::new("spec"));
    let (group, version) = (spec.str_at(&["group"]), spec.str_at(&["version"]));
    let name = object.str_at(&["metadata", "name"]);
    if name != format!("{version}.{group}") {
        let detail = format!("must be `spec.version+\".\"+spec.group`: \"{version}.{group}\"");
        errors.invalid(&Path::new("metadata.name"), name, detail);
    }
    for (member, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let priority = spec.int_at(&[member]).unwrap_or_default();
        if !(1..=most).contains(&priority) {
            errors.invalid(&path.child(member), priority, format!("must be positive and less than {most}"));
        }
    }
}

/// `v1.apps`, and `v1.` for the core group.
fn service_name(name: &str) -> Vec<String> {
    names::path_segment(name)
}
