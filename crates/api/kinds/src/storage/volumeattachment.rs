//! VolumeAttachments: a volume on its way to a node.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

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

pub const RULES: Rules = Rules { validate, validate_update, columns: COLUMNS, ..Rules::STANDARD };

fn validate(attachment: &Value, errors: &mut ErrorList) {
    let (spec, path) = (attachment.get("spec"), Path::new("spec"));
    if spec.str_at(&["attacher"]).is_empty() {
        errors.required(&path.child("attacher"), "");
    }
    let source = path.child("source");
    let inline = !spec.at(&["source", "inlineVolumeSpec"]).is_null();
    match (spec.at(&["source", "persistentVolumeName"]).as_str(), inline) {
        (None, false) => {
            errors.required(&source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
        }
        (Some(_), true) => {
            errors.forbidden(&source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
        }
        (Some(""), false) => {
            errors.required(&source.child("persistentVolumeName"), "must specify non empty persistentVolumeName")
        }
        _ => {}
    }
    let node = spec.str_at(&["nodeName"]);
    errors.invalid_each(&path.child("nodeName"), node, names::dns1123_subdomain(node));
}

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    immutable(new.get("spec"), old.get("spec"), &Path::new("spec"), errors);
}
