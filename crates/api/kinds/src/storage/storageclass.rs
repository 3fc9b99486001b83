//! StorageClasses: how volumes are made.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use crate::column::{AGE, Column, string_or, text};
use crate::object_meta::immutable;
use crate::rules::Rules;
use crate::rules::same;
use crate::shapes::container::validate_choice;

const COLUMNS: &[Column] = &[
    Column { format: "name", ..text("Name", |object, _| shown_name(object).into()) },
    text("Provisioner", |object, _| string_or(object, &["provisioner"], "")),
    text("ReclaimPolicy", |object, _| string_or(object, &["reclaimPolicy"], "Delete")),
    text("VolumeBindingMode", |object, _| string_or(object, &["volumeBindingMode"], "Immediate")),
    text("AllowVolumeExpansion", |object, _| object.bool_at(&["allowVolumeExpansion"]).into()),
    AGE,
];

pub const RULES: Rules = Rules { default, validate, validate_update, columns: COLUMNS, ..Rules::STANDARD };

const DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
const OLD_DEFAULT: &str = "storageclass.beta.kubernetes.io/is-default-class";

fn default(object: &mut Value, _: &str) {
    object.set_default(&["reclaimPolicy"], "Delete");
    object.set_default(&["volumeBindingMode"], "Immediate");
}

fn shown_name(object: &Value) -> String {
    let is_true = |key: &str| object.str_at(&["metadata", "annotations", key]) == "true";
    let mark = if is_true(DEFAULT) || is_true(OLD_DEFAULT) { " (default)" } else { "" };
    format!("{}{mark}", object.str_at(&["metadata", "name"]))
}

fn validate(object: &Value, errors: &mut ErrorList) {
    let provisioner = object.str_at(&["provisioner"]);
    if provisioner.is_empty() {
        errors.required(&Path::new("provisioner"), "");
    } else {
        let messages = names::qualified_name(&provisioner.to_lowercase());
        errors.invalid_each(&Path::new("provisioner"), provisioner, messages);
    }
    let policy = object.get("reclaimPolicy");
    validate_choice(policy, &["Delete", "Retain"], &Path::new("reclaimPolicy"), errors);
    let mode = object.get("volumeBindingMode");
    validate_choice(mode, &["Immediate", "WaitForFirstConsumer"], &Path::new("volumeBindingMode"), errors);
}

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    if !same(new.get("parameters"), old.get("parameters")) {
        errors.forbidden(&Path::new("parameters"), "updates to parameters are forbidden.");
    }
    for member in ["provisioner", "reclaimPolicy", "volumeBindingMode"] {
        immutable(new.get(member), old.get(member), &Path::new(member), errors);
    }
}
