//! PriorityClasses: whose pods go first.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use crate::column::{AGE, Column, NAME, boolean, integer, number, string_or, text};
use crate::rules::Rules;
use crate::shapes::container::validate_choice;

const USER_VALUE_MAX: i64 = 1_000_000_000;
const SYSTEM_PREFIX: &str = "system-";

const COLUMNS: &[Column] = &[
    NAME,
    integer("Value", |class, _| number(class, &["value"])),
    boolean("Global-Default", |class, _| class.bool_at(&["globalDefault"]).into()),
    AGE,
    text("PreemptionPolicy", |class, _| string_or(class, &["preemptionPolicy"], "")),
];

pub const RULES: Rules = Rules {
    default: |class, _| class.set_default(&["preemptionPolicy"], "PreemptLowerPriority"),
    prepare_create: |class| class.set(&["metadata", "generation"], 1),
    validate,
    validate_update,
    columns: COLUMNS,
    ..Rules::STANDARD
};

fn validate(class: &Value, errors: &mut ErrorList) {
    let name = class.str_at(&["metadata", "name"]);
    let value = class.int_at(&["value"]).unwrap_or_default();
    let is_system = ["system-node-critical", "system-cluster-critical"].contains(&name);
    if name.starts_with(SYSTEM_PREFIX) && !is_system {
        let detail = format!(
            "priority class names with 'system-' prefix are reserved for system use only. error: {name} is not a known \
             system priority class"
        );
        errors.forbidden(&Path::new("metadata.name"), detail);
    } else if !is_system && value > USER_VALUE_MAX {
        let detail = format!("maximum allowed value of a user defined priority is {USER_VALUE_MAX}");
        errors.forbidden(&Path::new("value"), detail);
    }
    let policy = class.get("preemptionPolicy");
    if !policy.is_null() {
        validate_choice(policy, &["PreemptLowerPriority", "Never"], &Path::new("preemptionPolicy"), errors);
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    if new.get("value") != old.get("value") {
        errors.forbidden(&Path::new("value"), "may not be changed in an update.");
    }
    let path = Path::new("preemptionPolicy");
    crate::object_meta::immutable(new.get("preemptionPolicy"), old.get("preemptionPolicy"), &path, errors);
}
