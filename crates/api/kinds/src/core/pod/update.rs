//! What of a pod may change once it exists: images, a shorter deadline, more tolerations, fewer gates.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use crate::rules::same;
use crate::shapes::tolerations;

const CHANGEABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                          `spec.tolerations` (only additions to existing tolerations),\
                          `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

pub fn validate(new: &Value, old: &Value, errors: &mut ErrorList) {
    let (new, old, path) = (new.get("spec"), old.get("spec"), Path::new("spec"));
    for member in ["containers", "initContainers"] {
        if !validate_images(new.list_at(&[member]), old.list_at(&[member]), &path.child(member), errors) {
            return;
        }
    }
    if !validate_deadline(new, old, &path.child("activeDeadlineSeconds"), errors) {
        return;
    }
    let (new_list, old_list) = (new.list_at(&["tolerations"]), old.list_at(&["tolerations"]));
    tolerations::validate_only_added(new_list, old_list, &path.child("tolerations"), errors);
    validate_gates(new, old, &path.child("schedulingGates"), errors);
    if let Some(changed) = first_difference(&without_changeable(new, old), &without_changeable(old, old)) {
        let detail = format!("pod updates may not change fields other than {CHANGEABLE}\n{changed}");
        errors.forbidden(&path, detail);
    }
}

/// Whether the containers can be compared at all.
fn validate_images(new: &[Value], old: &[Value], path: &Path<'_>, errors: &mut ErrorList) -> bool {
    if new.len() != old.len() {
        errors.forbidden(path, "pod updates may not add or remove containers");
        return false;
    }
    for (index, container) in new.iter().enumerate() {
        let image = container.str_at(&["image"]);
        if image.trim() != image {
            let detail = "must not have leading or trailing whitespace";
            errors.invalid(&path.index(index).child("image"), image, detail);
        }
    }
    true
}

fn validate_deadline(new: &Value, old: &Value, path: &Path<'_>, errors: &mut ErrorList) -> bool {
    let (new, old) = (new.int_at(&["activeDeadlineSeconds"]), old.int_at(&["activeDeadlineSeconds"]));
    match (new, old) {
        (Some(new), Some(old)) if new > old => {
            errors.invalid(path, new, "must be less than or equal to previous value");
            return false;
        }
        (None, Some(_)) => {
            errors.invalid(path, Value::Null, "must not update from a positive integer to nil value");
        }
        _ => {}
    }
    true
}

fn validate_gates(new: &Value, old: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let known: Vec<&str> = old.list_at(&["schedulingGates"]).iter().map(|gate| gate.str_at(&["name"])).collect();
    for (index, gate) in new.list_at(&["schedulingGates"]).iter().enumerate() {
        let name = gate.str_at(&["name"]);
        if !known.contains(&name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(&path.index(index).child("name"), detail);
        }
    }
}

/// The spec with what may change put aside. A gated pod may still change where it may go.
fn without_changeable(spec: &Value, old: &Value) -> Value {
    let mut spec = spec.clone();
    for member in ["containers", "initContainers"] {
        for container in spec.list_at_mut(&[member]) {
            container.remove(&["image"]);
        }
    }
    for member in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        spec.remove(&[member]);
    }
    if old.int_at(&["terminationGracePeriodSeconds"]).is_some_and(|seconds| seconds < 0)
        && spec.int_at(&["terminationGracePeriodSeconds"]) == Some(1)
    {
        spec.set(&["terminationGracePeriodSeconds"], old.get("terminationGracePeriodSeconds").clone());
    }
    if !old.list_at(&["schedulingGates"]).is_empty() {
        spec.remove(&["nodeSelector"]);
        spec.remove(&["affinity", "nodeAffinity"]);
    }
    spec
}

/// The first member that differs, as a line of what it was and one of what it is.
fn first_difference(new: &Value, old: &Value) -> Option<String> {
    let keys = |spec: &Value| spec.entries_at(&[]).map(|(key, _)| key.to_owned()).collect::<Vec<_>>();
    let (old_keys, new_keys) = (keys(old), keys(new));
    let key = old_keys.iter().chain(&new_keys).find(|key| !same(new.get(key), old.get(key)))?;
    let show = |value: &Value| String::from_utf8(value.to_json()).expect("JSON is text");
    Some(format!("-\t{key}: {}\n+\t{key}: {}\n", show(old.get(key)), show(new.get(key))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::tree;

    fn told(new: &str, old: &str) -> Vec<String> {
        let mut errors = ErrorList::default();
        validate(&tree(new), &tree(old), &mut errors);
        errors.errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn images_may_change_and_nodes_may_not() {
        let old = r#"{"spec":{"nodeName":"a","containers":[{"name":"c","image":"x:1"}]}}"#;
        assert!(told(r#"{"spec":{"nodeName":"a","containers":[{"name":"c","image":"x:2"}]}}"#, old).is_empty());
        let errors = told(r#"{"spec":{"nodeName":"b","containers":[{"name":"c","image":"x:1"}]}}"#, old);
        assert!(
            errors[0].starts_with(
                "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
            )
        );
        assert!(errors[0].contains("+\tnodeName: \"b\""));
    }

    #[test]
    fn containers_neither_come_nor_go() {
        let errors = told(r#"{"spec":{"containers":[]}}"#, r#"{"spec":{"containers":[{"name":"c"}]}}"#);
        assert_eq!(errors, ["spec.containers: Forbidden: pod updates may not add or remove containers"]);
    }
}
