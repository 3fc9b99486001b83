//! LimitRanges: bounds and defaults of what pods, containers and claims ask for.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Quantity, Value};

use crate::column;
use crate::rules::Rules;
use crate::shapes::{quantities, within};

const LISTS: [&str; 5] = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

pub const RULES: Rules = Rules { default, validate, columns: column::STANDARD, ..Rules::STANDARD };

fn default(range: &mut Value, _: &str) {
    for item in range.list_at_mut(&["spec", "limits"]) {
        for list in LISTS {
            within(item, &[list], quantities::canonical);
        }
        if item.str_at(&["type"]) != "Container" {
            continue;
        }
        for (list, sources) in [("default", &["max"][..]), ("defaultRequest", &["default", "min"][..])] {
            for source in sources {
                if let Some(from) = item.get(source).as_map().cloned().filter(|from| !from.is_empty()) {
                    quantities::add_missing(item.ensure(&[list]), &from);
                }
            }
        }
    }
}

fn validate(range: &Value, errors: &mut ErrorList) {
    let path = Path::new("spec.limits");
    let mut kinds: Vec<&str> = Vec::new();
    for (index, item) in range.list_at(&["spec", "limits"]).iter().enumerate() {
        let path = path.index(index);
        let kind = item.str_at(&["type"]);
        if kinds.contains(&kind) {
            errors.duplicate(&path.child("type"), kind);
        }
        kinds.push(kind);
        if kind == "Pod" {
            for list in ["default", "defaultRequest"].iter().filter(|list| !item.get(list).is_empty()) {
                errors.forbidden(&path.child(list), "may not be specified when `type` is 'Pod'");
            }
        }
        validate_order(item, &path, errors);
    }
}

/// Smaller bounds may not exceed greater ones: low list, high list, where it is told, and their words.
fn validate_order(item: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let pairs = [
        ("min", "max", "min", "min value", "max value"),
        ("min", "defaultRequest", "defaultRequest", "min value", "default request value"),
        ("min", "default", "default", "min value", "default value"),
        ("defaultRequest", "max", "defaultRequest", "default request value", "max value"),
        ("default", "max", "default", "default value", "max value"),
        ("defaultRequest", "default", "defaultRequest", "default request value", "default limit value"),
    ];
    for (low, high, place, low_word, high_word) in pairs {
        for (name, amount) in item.entries_at(&[low]) {
            let bound = item.at(&[high, name]);
            let (Ok(low), Ok(high)) = (Quantity::from_value(amount), Quantity::from_value(bound)) else { continue };
            if !bound.is_null() && low > high {
                let detail = format!("{low_word} {low} is greater than {high_word} {high}");
                errors.invalid(&path.child(place).key(name), item.at(&[place, name]), detail);
            }
        }
    }
}
