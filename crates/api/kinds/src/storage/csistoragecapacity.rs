//! CSIStorageCapacities: how much a class has left in a place.

use coracle_meta::Value;

use crate::column::{Column, NAME, string_or, text};
use crate::rules::Rules;
use crate::shapes::{quantities, within};

const COLUMNS: &[Column] = &[
    NAME,
    text("StorageClassName", |object, _| string_or(object, &["storageClassName"], "")),
    text("Capacity", |object, _| string_or(object, &["capacity"], "<unset>")),
];

pub const RULES: Rules = Rules { default, columns: COLUMNS, ..Rules::STANDARD };

fn default(object: &mut Value, _: &str) {
    for member in ["capacity", "maximumVolumeSize"] {
        within(object, &[member], quantities::canonical_amount);
    }
}
