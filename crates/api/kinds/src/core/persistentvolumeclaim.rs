//! PersistentVolumeClaims: what pods ask of storage. Once bound, only growth is allowed.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use super::persistentvolume::validate_modes;
use crate::column::{AGE, Column, NAME, string_or, text};
use crate::object_meta::immutable;
use crate::rules::{Rules, same};
use crate::shapes::{fill, quantities, selector, volume_defaults, within};

const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

const COLUMNS: &[Column] = &[
    NAME,
    text("Status", |claim, _| match claim.at(&["metadata", "deletionTimestamp"]).is_null() {
        true => string_or(claim, &["status", "phase"], ""),
        false => Value::string("Terminating"),
    }),
    text("Volume", |claim, _| string_or(claim, &["spec", "volumeName"], "")),
    text("Capacity", |claim, _| match claim.str_at(&["spec", "volumeName"]) {
        "" => Value::string(""),
        _ => quantities::amount(claim.at(&["status", "capacity"]), "storage").to_string().into(),
    }),
    text("Access Modes", |claim, _| match claim.str_at(&["spec", "volumeName"]) {
        "" => Value::string(""),
        _ => modes(claim.list_at(&["status", "accessModes"])).into(),
    }),
    text("StorageClass", |claim, _| class(claim).into()),
    text("VolumeAttributesClass", |claim, _| string_or(claim, &["spec", "volumeAttributesClassName"], "<unset>")),
    AGE,
    text("VolumeMode", |claim, _| string_or(claim, &["spec", "volumeMode"], "<unset>")).wide(),
];

pub const RULES: Rules = Rules {
    default,
    prepare_create: |claim| claim.set(&["status", "phase"], "Pending"),
    validate,
    validate_update,
    columns: COLUMNS,
    ..Rules::STANDARD
};

fn default(claim: &mut Value, _: &str) {
    fill(claim, &["status", "phase"], "Pending");
    within(claim, &["status", "capacity"], quantities::canonical);
    within(claim, &["status", "allocatedResources"], quantities::canonical);
    volume_defaults::claim_spec(claim.ensure(&["spec"]));
}

fn validate(claim: &Value, errors: &mut ErrorList) {
    validate_spec(claim.get("spec"), &Path::new("spec"), errors);
}

/// The spec of a claim, wherever it stands.
pub fn validate_spec(spec: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    validate_modes(spec.list_at(&["accessModes"]), &path.child("accessModes"), errors);
    selector::validate(spec.get("selector"), &path.child("selector"), errors);
    let requests = spec.at(&["resources", "requests"]);
    let amount_path = path.child("resources");
    let amount_path = amount_path.key("storage");
    if requests.get("storage").is_null() {
        errors.required(&amount_path, "");
    } else {
        quantities::validate_amount("storage", requests.get("storage"), &path.child("resources.requests"), errors);
        let amount = quantities::amount(requests, "storage");
        if amount.is_zero() || amount.is_negative() {
            errors.invalid(&amount_path, amount.to_string(), "must be greater than zero");
        }
    }
    let class = spec.str_at(&["storageClassName"]);
    if !class.is_empty() {
        let messages = coracle_meta::names::dns1123_subdomain(class);
        errors.invalid_each(&path.child("storageClassName"), class, messages);
    }
    let mode = spec.get("volumeMode");
    if !mode.is_null() && !["Block", "Filesystem"].contains(&mode.as_str().unwrap_or_default()) {
        errors.not_supported(&path.child("volumeMode"), mode, &["Block", "Filesystem"]);
    }
}

/// A bound claim may grow, shrink back to what it has, and change its class of attributes.
/// Source: Kubernetes' `ValidatePersistentVolumeClaimUpdate`.
fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let path = Path::new("spec");
    let old_class = |claim: &Value| claim.at(&["metadata", "annotations", OLD_CLASS]).clone();
    let class_path = Path::new("metadata.annotations");
    immutable(&old_class(new), &old_class(old), &class_path.child(OLD_CLASS), errors);
    if !same(&rest(new, old), &rest(old, old)) {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for \
                      bound claims";
        errors.forbidden(&path, detail);
    }
    let asked = |claim: &Value| quantities::amount(claim.at(&["spec", "resources", "requests"]), "storage");
    let has = quantities::amount(old.at(&["status", "capacity"]), "storage");
    if asked(new) < asked(old) && asked(new) <= has {
        let detail = "field can not be less than status.capacity";
        errors.forbidden(&path.child("resources.requests.storage"), detail);
    }
    let mode = |claim: &Value| claim.at(&["spec", "volumeMode"]).clone();
    immutable(&mode(new), &mode(old), &Path::new("volumeMode"), errors);
    let attributes = new.at(&["spec", "volumeAttributesClassName"]);
    let changes = attributes != old.at(&["spec", "volumeAttributesClassName"]);
    let word = if attributes.is_null() { "nil" } else { "empty string" };
    if changes && attributes.is_empty() && !old.at(&["status", "currentVolumeAttributesClassName"]).is_null() {
        let detail = format!("update to {word} is forbidden when status.currentVolumeAttributesClassName is not nil");
        errors.forbidden(&path.child("volumeAttributesClassName"), detail);
    }
}

/// A claim's spec without what may differ from the old one's. What makes it `Bound` is as it was: a write of the spec
/// changes no status.
fn rest(claim: &Value, old: &Value) -> Value {
    let mut spec = claim.get("spec").clone();
    if old.str_at(&["status", "phase"]) == "Bound" {
        spec.remove(&["resources", "requests", "storage"]);
        spec.remove(&["volumeAttributesClassName"]);
    }
    if old.str_at(&["spec", "volumeName"]).is_empty() {
        spec.remove(&["volumeName"]);
    }
    if old.at(&["spec", "storageClassName"]).is_null() && old.at(&["metadata", "annotations", OLD_CLASS]).is_null() {
        spec.remove(&["storageClassName"]);
    }
    spec
}

/// `RWO,ROX,RWX,RWOP`, in this order. Also of volumes.
pub fn modes(modes: &[Value]) -> String {
    let short =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let is_given = |long: &str| modes.iter().any(|mode| mode.as_str() == Some(long));
    short.iter().filter(|(long, _)| is_given(long)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// The storage class, in the old annotation or the field. Also of volumes.
pub fn class(object: &Value) -> String {
    match object.str_at(&["metadata", "annotations", OLD_CLASS]) {
        "" => object.str_at(&["spec", "storageClassName"]).into(),
        class => class.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::tree;

    type Change = fn(&mut Value);

    fn told(phase: &str, change: Change) -> String {
        let old = tree(&format!(
            r#"{{"metadata":{{}},"spec":{{"volumeName":"v","storageClassName":"s","volumeAttributesClassName":"gold",
                "resources":{{"requests":{{"storage":"5Gi"}}}}}},"status":{{"phase":"{phase}",
                "capacity":{{"storage":"2Gi"}},"currentVolumeAttributesClassName":"gold"}}}}"#
        ));
        let mut new = old.clone();
        change(&mut new);
        let mut errors = ErrorList::default();
        validate_update(&new, &old, &mut errors);
        errors.to_string()
    }

    #[test]
    fn a_bound_claim_may_grow_and_shrink_back_to_what_it_has() {
        const STORAGE: [&str; 4] = ["spec", "resources", "requests", "storage"];
        const ATTRIBUTES: [&str; 2] = ["spec", "volumeAttributesClassName"];
        let cases: [(&str, Change, &str); 10] = [
            ("Bound", |claim| claim.set(&STORAGE, "9Gi"), "[]"),
            ("Bound", |claim| claim.set(&STORAGE, "3Gi"), "[]"),
            ("Bound", |claim| claim.set(&STORAGE, "2Gi"), "field can not be less than status.capacity"),
            ("Pending", |claim| claim.set(&STORAGE, "9Gi"), "spec is immutable after creation"),
            ("Bound", |claim| claim.set(&ATTRIBUTES, "silver"), "[]"),
            ("Bound", |claim| claim.set(&ATTRIBUTES, ""), "update to empty string is forbidden"),
            ("Bound", |claim| drop(claim.remove(&ATTRIBUTES)), "update to nil is forbidden"),
            ("Pending", |claim| claim.set(&ATTRIBUTES, "silver"), "spec is immutable after creation"),
            ("Bound", |claim| claim.set(&["spec", "resources", "limits", "storage"], "9Gi"), "spec is immutable"),
            ("Bound", |claim| claim.set(&["metadata", "annotations", OLD_CLASS], "x"), "field is immutable"),
        ];
        for (at, (phase, change, words)) in cases.into_iter().enumerate() {
            let told = told(phase, change);
            assert!(told.contains(words), "{at} {told}");
        }
    }
}
