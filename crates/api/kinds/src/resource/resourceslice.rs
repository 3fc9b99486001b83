//! ResourceSlices: the devices a driver offers.

use coracle_meta::Value;

use crate::column::{AGE, Column, NAME, string_or, text};
use crate::rules::{Lifecycle, Rules};

const COLUMNS: &[Column] = &[
    NAME,
    text("Node", |object, _| string_or(object, &["spec", "nodeName"], "")),
    text("Driver", |object, _| string_or(object, &["spec", "driver"], "")),
    text("Pool", |object, _| string_or(object, &["spec", "pool", "name"], "")),
    AGE,
];

pub const RULES: Rules =
    Rules { selectable_fields, columns: COLUMNS, lifecycle: Lifecycle::COUNTED, ..Rules::STANDARD };

fn selectable_fields(object: &Value) -> Vec<(&'static str, String)> {
    let text = |member: &str| object.str_at(&["spec", member]).to_owned();
    vec![("spec.nodeName", text("nodeName")), ("spec.driver", text("driver"))]
}
