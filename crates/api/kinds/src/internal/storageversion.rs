//! StorageVersions: which version each API server writes.

use coracle_meta::Value;

use crate::column::{AGE, Column, NAME, string_or, text};
use crate::rules::Rules;

const COLUMNS: &[Column] = &[
    NAME,
    text("CommonEncodingVersion", |object, _| string_or(object, &["status", "commonEncodingVersion"], "<unset>")),
    text("StorageVersions", |object, _| versions(object).into()),
    AGE,
];

pub const RULES: Rules = Rules { columns: COLUMNS, ..Rules::STANDARD };

fn versions(object: &Value) -> String {
    let shown: Vec<String> = object
        .list_at(&["status", "storageVersions"])
        .iter()
        .map(|one| format!("{}={}", one.str_at(&["apiServerID"]), one.str_at(&["encodingVersion"])))
        .collect();
    crate::column::first_three(&shown)
}
