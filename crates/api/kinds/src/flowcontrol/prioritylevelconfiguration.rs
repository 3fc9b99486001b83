//! PriorityLevelConfigurations: how many requests a level may have, and how they wait.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use crate::column::{AGE, Column, NAME, string_or, text};
use crate::rules::{Lifecycle, Rules};
use crate::shapes::{fill, within};

const COLUMNS: &[Column] = &[
    NAME,
    text("Type", |object, _| string_or(object, &["spec", "type"], "")),
    text("NominalConcurrencyShares", |object, _| limited(object, &["nominalConcurrencyShares"])),
    text("Queues", |object, _| limited(object, &["limitResponse", "queuing", "queues"])),
    text("HandSize", |object, _| limited(object, &["limitResponse", "queuing", "handSize"])),
    text("QueueLengthLimit", |object, _| limited(object, &["limitResponse", "queuing", "queueLengthLimit"])),
    AGE,
];

pub const RULES: Rules =
    Rules { default, validate, columns: COLUMNS, lifecycle: Lifecycle::COUNTED, ..Rules::STANDARD };

fn default(object: &mut Value, _: &str) {
    within(object, &["spec", "exempt"], |exempt| {
        exempt.set_default(&["nominalConcurrencyShares"], 0);
        exempt.set_default(&["lendablePercent"], 0);
    });
    within(object, &["spec", "limited"], |limited| {
        limited.set_default(&["nominalConcurrencyShares"], 30);
        limited.set_default(&["lendablePercent"], 0);
        within(limited, &["limitResponse", "queuing"], |queuing| {
            fill(queuing, &["handSize"], 8);
            fill(queuing, &["queues"], 64);
            fill(queuing, &["queueLengthLimit"], 50);
        });
    });
}

fn limited(object: &Value, path: &[&str]) -> Value {
    match object.at(&["spec", "limited"]).at(path) {
        Value::Null => Value::string("<none>"),
        value => value.clone(),
    }
}

fn validate(object: &Value, errors: &mut ErrorList) {
    let (spec, path) = (object.get("spec"), Path::new("spec"));
    match spec.str_at(&["type"]) {
        "Exempt" if !spec.get("limited").is_null() => {
            errors.forbidden(&path.child("limited"), "must be nil if the type is not Limited");
        }
        "Limited" if spec.get("limited").is_null() => {
            errors.required(&path.child("limited"), "must not be empty when type is Limited");
        }
        "Limited" if !spec.get("exempt").is_null() => {
            errors.forbidden(&path.child("exempt"), "must be nil if the type is Limited");
        }
        "Exempt" | "Limited" => {}
        other => errors.not_supported(&path.child("type"), other, &["Exempt", "Limited"]),
    }
    let queuing = spec.at(&["limited", "limitResponse", "queuing"]);
    let of = |key: &str| queuing.int_at(&[key]).unwrap_or_default();
    let path = path.child("limited.limitResponse.queuing");
    if !queuing.is_null() {
        for key in ["handSize", "queues", "queueLengthLimit"] {
            if of(key) <= 0 {
                errors.invalid(&path.child(key), of(key), "must be positive");
            }
        }
        if of("handSize") > of("queues") {
            let why = format!("should not be greater than queues ({})", of("queues"));
            errors.invalid(&path.child("handSize"), of("handSize"), why);
        }
    }
}
