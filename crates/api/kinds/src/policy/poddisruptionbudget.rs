//! PodDisruptionBudgets: how many pods may be away at once.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, IntOrString, Value, names};

use crate::column::{AGE, Column, NAME, integer, number, text};
use crate::object_meta::not_negative;
use crate::rules::{Lifecycle, Rules};
use crate::shapes::selector;

const COLUMNS: &[Column] = &[
    NAME,
    text("Min Available", |budget, _| amount(budget.at(&["spec", "minAvailable"])).into()),
    text("Max Unavailable", |budget, _| amount(budget.at(&["spec", "maxUnavailable"])).into()),
    integer("Allowed Disruptions", |budget, _| number(budget, &["status", "disruptionsAllowed"])),
    AGE,
];

pub const RULES: Rules = Rules { validate, columns: COLUMNS, lifecycle: Lifecycle::COUNTED, ..Rules::STANDARD };

fn amount(value: &Value) -> String {
    match IntOrString::from_value(value) {
        Some(IntOrString::Int(number)) => number.to_string(),
        Some(IntOrString::String(text)) => text,
        None => "N/A".into(),
    }
}

fn validate(budget: &Value, errors: &mut ErrorList) {
    let (spec, path) = (budget.get("spec"), Path::new("spec"));
    let (least, most) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
    if !least.is_null() && !most.is_null() {
        errors.invalid(&path, spec, "minAvailable and maxUnavailable cannot be both set");
    }
    for (value, member) in [(least, "minAvailable"), (most, "maxUnavailable")] {
        let path = path.child(member);
        match IntOrString::from_value(value) {
            Some(IntOrString::Int(_)) => not_negative(value, &path, errors),
            Some(text @ IntOrString::String(_)) => {
                let shown = value.as_str().unwrap_or_default();
                errors.invalid_each(&path, shown, names::percent(shown));
                if text.percent().is_some_and(|percent| percent > 100) {
                    errors.invalid(&path, shown, "must not be greater than 100%");
                }
            }
            None => {}
        }
    }
    selector::validate(spec.get("selector"), &path.child("selector"), errors);
    let policy = spec.get("unhealthyPodEvictionPolicy");
    let known = &["AlwaysAllow", "IfHealthyBudget"];
    if !policy.is_null() && !known.contains(&policy.as_str().unwrap_or_default()) {
        errors.not_supported(&path.child("unhealthyPodEvictionPolicy"), policy, known);
    }
}
