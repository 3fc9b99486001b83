//! StorageVersionMigrations: writing every object of a resource anew.

use coracle_meta::Value;

use crate::column::{Column, NAME, text};
use crate::rules::Rules;

const COLUMNS: &[Column] =
    &[NAME, text("Resource", |object, _| resource(object).into()), text("Status", |object, _| state(object))];

pub const RULES: Rules = Rules { columns: COLUMNS, ..Rules::STANDARD };

fn resource(object: &Value) -> String {
    let resource = object.at(&["spec", "resource"]);
    match resource.str_at(&["group"]) {
        "" => resource.str_at(&["resource"]).into(),
        group => format!("{}.{group}", resource.str_at(&["resource"])),
    }
}

fn state(object: &Value) -> Value {
    let known = ["Running", "Failed", "Succeeded"];
    let conditions = object.list_at(&["status", "conditions"]).iter();
    let is_true = conditions.filter(|condition| condition.str_at(&["status"]) == "True");
    let mut kinds = is_true.map(|condition| condition.str_at(&["type"])).filter(|kind| known.contains(kind));
    Value::string(kinds.next_back().unwrap_or("Unknown"))
}
