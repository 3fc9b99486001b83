//! PodTemplates: a pod's shape kept by itself.

use coracle_meta::field::Path;

use crate::column::{self, Column, NAME, joined, text};
use crate::rules::{Lifecycle, Rules};
use crate::shapes::{pod_defaults, template};

const COLUMNS: &[Column] = &[
    NAME,
    text("Containers", |object, _| joined(object.list_at(&["template", "spec", "containers"]), "name").into()),
    text("Images", |object, _| joined(object.list_at(&["template", "spec", "containers"]), "image").into()),
    text("Pod Labels", |object, _| column::labels(object.at(&["template", "metadata", "labels"])).into()),
];

pub const RULES: Rules = Rules {
    default: |object, _| pod_defaults::template(object.ensure(&["template"])),
    drop_gated: |gates, new, old| template::drop_gated_at(gates, new, old, &["template"]),
    validate: |object, errors| template::validate(object.get("template"), &Path::new("template"), errors),
    columns: COLUMNS,
    lifecycle: Lifecycle::COUNTED,
    ..Rules::STANDARD
};
