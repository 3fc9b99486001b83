//! VolumeAttachments: a volume on its way to a node.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use crate::column::{AGE, Column, NAME, boolean, string_or, text};
use crate::object_meta::immutable;
use crate::rules::Rules;

const COLUMNS: &[Column] = &[
    NAME,
    Column { format: "name", ..text("Attacher", |object, _| string_or(object, &["spec", "attacher"], "")) },
    text("PV", |object, _| string_or(object, &["spec", "source", "persistentVolumeName"], "")),
    text("Node", |object, _| string_or(object, &["spec", "nodeName"], "")),
    boolean("Attached", |object, _| object.bool_at(&["status", "attached"]).into()),
    AGE,
];

pub const RULES: Rules = Rules { validate_update, columns: COLUMNS, ..Rules::STANDARD };

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    immutable(new.get("spec"), old.get("spec"), &Path::new("spec"), errors);
}
