//! Rules of roles.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use crate::kind::Scope;

pub fn validate(role: &Value, scope: Scope, errors: &mut ErrorList) {
    let path = Path::new("rules");
    for (index, rule) in role.list_at(&["rules"]).iter().enumerate() {
        let path = path.index(index);
        let is_empty = |member: &str| rule.list_at(&[member]).is_empty();
        if is_empty("verbs") {
            errors.required(&path.child("verbs"), "verbs must contain at least one value");
        }
        if !is_empty("nonResourceURLs") {
            let (urls, path) = (rule.get("nonResourceURLs"), path.child("nonResourceURLs"));
            if scope == Scope::Namespaced {
                errors.invalid(&path, urls, "namespaced rules cannot apply to non-resource URLs");
            }
            if !is_empty("apiGroups") || !is_empty("resources") || !is_empty("resourceNames") {
                errors.invalid(&path, urls, "rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        if is_empty("apiGroups") {
            errors.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if is_empty("resources") {
            errors.required(&path.child("resources"), "resource rules must supply at least one resource");
        }
    }
}
