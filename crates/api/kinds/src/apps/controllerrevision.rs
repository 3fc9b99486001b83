//! ControllerRevisions: what a workload was, for rolling back.

use coracle_meta::Value;
use coracle_meta::field::Path;

use crate::column::{AGE, Column, NAME, number, text};
use crate::object_meta::{immutable, not_negative};
use crate::rules::Rules;

const COLUMNS: &[Column] = &[
    NAME,
    text("Controller", |object, _| controller(object).into()),
    text("Revision", |object, _| number(object, &["revision"])),
    AGE,
];

pub const RULES: Rules = Rules {
    validate: |object, errors| not_negative(object.get("revision"), &Path::new("revision"), errors),
    validate_update: |new, old, errors| immutable(new.get("data"), old.get("data"), &Path::new("data"), errors),
    columns: COLUMNS,
    ..Rules::STANDARD
};

fn controller(object: &Value) -> String {
    let owners = object.list_at(&["metadata", "ownerReferences"]);
    let Some(owner) = owners.iter().find(|owner| owner.bool_at(&["controller"])) else {
        return "<none>".into();
    };
    let kind = owner.str_at(&["kind"]).to_lowercase();
    match owner.str_at(&["apiVersion"]).split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{}", owner.str_at(&["name"])),
        None => format!("{kind}/{}", owner.str_at(&["name"])),
    }
}
