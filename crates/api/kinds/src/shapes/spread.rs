//! Topology spread constraints.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use super::selector;

pub fn validate(constraints: &[Value], path: &Path<'_>, errors: &mut ErrorList) {
    for (index, constraint) in constraints.iter().enumerate() {
        let path = path.index(index);
        positive(constraint.int_at(&["maxSkew"]).unwrap_or_default(), &path.child("maxSkew"), errors);
        let (key, action) = (constraint.str_at(&["topologyKey"]), constraint.str_at(&["whenUnsatisfiable"]));
        if key.is_empty() {
            errors.required(&path.child("topologyKey"), "can not be empty");
        }
        if !["DoNotSchedule", "ScheduleAnyway"].contains(&action) {
            let supported = &["DoNotSchedule", "ScheduleAnyway"];
            errors.not_supported(&path.child("whenUnsatisfiable"), action, supported);
        }
        let is_repeated = constraints[index + 1..]
            .iter()
            .any(|other| other.str_at(&["topologyKey"]) == key && other.str_at(&["whenUnsatisfiable"]) == action);
        if is_repeated {
            errors.duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {action}}}"));
        }
        if let Some(domains) = constraint.int_at(&["minDomains"]) {
            positive(domains, &path.child("minDomains"), errors);
            if action != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errors.invalid(&path.child("minDomains"), domains, detail);
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let value = constraint.get(policy);
            if !value.is_null() && !["Honor", "Ignore"].contains(&value.as_str().unwrap_or_default()) {
                errors.not_supported(&path.child(policy), value, &["Honor", "Ignore"]);
            }
        }
        selector::validate(constraint.get("labelSelector"), &path.child("labelSelector"), errors);
    }
}

fn positive(number: i64, path: &Path<'_>, errors: &mut ErrorList) {
    if number <= 0 {
        errors.invalid(path, number, "must be greater than zero");
    }
}
