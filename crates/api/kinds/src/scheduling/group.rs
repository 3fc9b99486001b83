//! What a PodGroup and a template of one have in common: their policy, and members that are taken only where gates are
//! on that cannot be switched on here.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

/// Members that belong to TopologyAwareWorkloadScheduling, DRAWorkloadResourceClaims and WorkloadAwarePreemption.
const GATED: [&str; 5] = ["schedulingConstraints", "resourceClaims", "disruptionMode", "priorityClassName", "priority"];

/// Takes gated members out that the old object, which another server may have written, has not.
pub fn drop_gated(spec: &mut Value, old: &Value) {
    for member in GATED {
        if old.get(member).is_empty() {
            spec.remove(&[member]);
        }
    }
}

/// Gated members that stayed because they were there may not become others.
pub fn validate_gated(spec: &Value, old: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    for member in GATED {
        let (new, old) = (spec.get(member), old.get(member));
        if !new.is_empty() && new != old {
            errors.forbidden(&path.child(member), "");
        }
    }
}

pub fn validate_policy(policy: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let (basic, gang) = (policy.get("basic"), policy.get("gang"));
    match (basic.is_null(), gang.is_null()) {
        (true, true) => errors.invalid(path, "", "must specify one of: `basic`, `gang`"),
        (false, false) => {
            errors.invalid(path, "{basic, gang}", "must specify exactly one of: `basic`, `gang`");
        }
        _ => {}
    }
    let count = gang.int_at(&["minCount"]).unwrap_or_default();
    let path = path.child("gang");
    match count {
        _ if gang.is_null() => {}
        0 => errors.required(&path.child("minCount"), ""),
        1.. => {}
        _ => errors.invalid(&path.child("minCount"), count, "must be greater than or equal to 1"),
    }
}

/// A name that must be given, by the rule for it.
pub fn validate_name(
    owner: &Value,
    member: &str,
    check: fn(&str) -> Vec<String>,
    path: &Path<'_>,
    errors: &mut ErrorList,
) {
    let (name, path) = (owner.str_at(&[member]), path.child(member));
    match name {
        "" => errors.required(&path, ""),
        name => errors.invalid_each(&path, name, check(name)),
    }
}
