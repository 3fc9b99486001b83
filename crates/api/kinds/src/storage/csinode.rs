//! CSINodes: which storage drivers a node has.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use crate::column::{AGE, Column, NAME, count, integer};
use crate::rules::Rules;

const COLUMNS: &[Column] = &[NAME, integer("Drivers", |object, _| count(object, &["spec", "drivers"])), AGE];

pub const RULES: Rules = Rules { validate, columns: COLUMNS, ..Rules::STANDARD };

fn validate(node: &Value, errors: &mut ErrorList) {
    let path = Path::new("spec.drivers");
    let drivers = node.list_at(&["spec", "drivers"]);
    for (index, driver) in drivers.iter().enumerate() {
        let (at, name) = (path.index(index), driver.str_at(&["name"]));
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        }
        if driver.str_at(&["nodeID"]).is_empty() {
            errors.required(&at.child("nodeID"), "");
        }
        if drivers[..index].iter().any(|one| one.str_at(&["name"]) == name) {
            errors.duplicate(&at.child("name"), name);
        }
    }
}
