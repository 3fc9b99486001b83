//! CSIDrivers: how a storage driver wants to be used.

use coracle_meta::Value;

use crate::column::{AGE, Column, NAME, boolean, text};
use crate::rules::Rules;
use crate::shapes::fill;

const COLUMNS: &[Column] = &[
    NAME,
    boolean("AttachRequired", |object, _| (object.at(&["spec", "attachRequired"]).as_bool() != Some(false)).into()),
    boolean("PodInfoOnMount", |object, _| object.bool_at(&["spec", "podInfoOnMount"]).into()),
    boolean("StorageCapacity", |object, _| object.bool_at(&["spec", "storageCapacity"]).into()),
    text("TokenRequests", |object, _| audiences(object).into()),
    boolean("RequiresRepublish", |object, _| object.bool_at(&["spec", "requiresRepublish"]).into()),
    text("Modes", |object, _| modes(object).into()),
    AGE,
];

pub const RULES: Rules = Rules { default, columns: COLUMNS, ..Rules::STANDARD };

fn default(object: &mut Value, _: &str) {
    let spec = object.ensure(&["spec"]);
    spec.set_default(&["attachRequired"], true);
    for member in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        spec.set_default(&[member], false);
    }
    spec.set_default(&["fsGroupPolicy"], "ReadWriteOnceWithFSType");
    fill(spec, &["volumeLifecycleModes"], vec![Value::string("Persistent")]);
}

fn audiences(object: &Value) -> String {
    match object.at(&["spec", "tokenRequests"]).as_list() {
        Some(requests) => requests.iter().map(|request| request.str_at(&["audience"])).collect::<Vec<_>>().join(","),
        None => "<unset>".into(),
    }
}

fn modes(object: &Value) -> String {
    let modes: Vec<&str> = object.list_at(&["spec", "volumeLifecycleModes"]).iter().filter_map(Value::as_str).collect();
    if modes.is_empty() { "<none>".into() } else { modes.join(",") }
}
