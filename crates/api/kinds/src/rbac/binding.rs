//! What both kinds of bindings share: who, and which role.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use crate::kind::Scope;
use crate::rules::same;
use crate::shapes::fill;

const GROUP: &str = "rbac.authorization.k8s.io";

pub fn default(binding: &mut Value, _: &str) {
    fill(binding, &["roleRef", "apiGroup"], GROUP);
    for subject in binding.list_at_mut(&["subjects"]) {
        if ["User", "Group"].contains(&subject.str_at(&["kind"])) {
            fill(subject, &["apiGroup"], GROUP);
        }
    }
}

pub fn validate(binding: &Value, scope: Scope, errors: &mut ErrorList) {
    let (role, path) = (binding.get("roleRef"), Path::new("roleRef"));
    if role.str_at(&["apiGroup"]) != GROUP {
        errors.not_supported(&path.child("apiGroup"), role.str_at(&["apiGroup"]), &[GROUP]);
    }
    let kinds: &[&str] = if scope == Scope::Namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&role.str_at(&["kind"])) {
        errors.not_supported(&path.child("kind"), role.str_at(&["kind"]), kinds);
    }
    match role.str_at(&["name"]) {
        "" => errors.required(&path.child("name"), ""),
        name => errors.invalid_each(&path.child("name"), name, names::path_segment(name)),
    }
    let path = Path::new("subjects");
    for (index, subject) in binding.list_at(&["subjects"]).iter().enumerate() {
        validate_subject(subject, scope, &path.index(index), errors);
    }
}

fn validate_subject(subject: &Value, scope: Scope, path: &Path<'_>, errors: &mut ErrorList) {
    let (kind, name, group) = (subject.str_at(&["kind"]), subject.str_at(&["name"]), subject.str_at(&["apiGroup"]));
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    }
    match kind {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.invalid_each(&path.child("name"), name, names::dns1123_subdomain(name));
            }
            if !group.is_empty() {
                errors.not_supported(&path.child("apiGroup"), group, &[""]);
            }
            if scope == Scope::Cluster && subject.str_at(&["namespace"]).is_empty() {
                errors.required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" if group != GROUP => errors.not_supported(&path.child("apiGroup"), group, &[GROUP]),
        "User" | "Group" => {}
        _ => errors.not_supported(&path.child("kind"), kind, &["ServiceAccount", "User", "Group"]),
    }
}

pub fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    if !same(new.get("roleRef"), old.get("roleRef")) {
        errors.invalid(&Path::new("roleRef"), new.get("roleRef"), "cannot change roleRef");
    }
}

/// `ClusterRole/view`.
pub fn role(binding: &Value) -> String {
    format!("{}/{}", binding.str_at(&["roleRef", "kind"]), binding.str_at(&["roleRef", "name"]))
}

/// Names of the subjects of one kind; accounts with their namespace.
pub fn subjects(binding: &Value, kind: &str) -> String {
    let of_kind = binding.list_at(&["subjects"]).iter().filter(|subject| subject.str_at(&["kind"]) == kind);
    let shown: Vec<String> = of_kind
        .map(|subject| match (kind, subject.str_at(&["name"])) {
            ("ServiceAccount", name) => format!("{}/{name}", subject.str_at(&["namespace"])),
            (_, name) => name.to_owned(),
        })
        .collect();
    shown.join(", ")
}
