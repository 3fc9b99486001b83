//! RuntimeClasses: which runtime runs a pod.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use crate::column::{AGE, Column, NAME, string_or, text};
use crate::object_meta::immutable;
use crate::rules::Rules;
use crate::shapes::{quantities, within};

const COLUMNS: &[Column] = &[NAME, text("Handler", |class, _| string_or(class, &["handler"], "")), AGE];

pub const RULES: Rules = Rules {
    default: |class, _| within(class, &["overhead", "podFixed"], quantities::canonical),
    validate,
    validate_update: |new, old, errors| {
        immutable(new.get("handler"), old.get("handler"), &Path::new("handler"), errors);
    },
    columns: COLUMNS,
    ..Rules::STANDARD
};

fn validate(class: &Value, errors: &mut ErrorList) {
    let handler = class.str_at(&["handler"]);
    errors.invalid_each(&Path::new("handler"), handler, names::dns1123_label(handler));
}
