//! PersistentVolumeClaims: what pods ask of storage. Once bound, only growth is allowed.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use super::persistentvolume::validate_modes;
use crate::column::{AGE, Column, NAME, string_or, text};
use crate::rules::{Rules, same};
use crate::shapes::{fill, quantities, selector, volume_defaults, within};

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

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let frozen = |claim: &Value| {
        let mut spec = claim.get("spec").clone();
        spec.remove(&["resources", "requests"]);
        spec.remove(&["resources"]);
        spec.remove(&["volumeAttributesClassName"]);
        if old.str_at(&["spec", "volumeName"]).is_empty() {
            spec.remove(&["volumeName"]);
        }
        if old.at(&["spec", "storageClassName"]).is_null() {
            spec.remove(&["storageClassName"]);
        }
        spec
    };
    if !same(&frozen(new), &frozen(old)) {
        let detail = "spec is immutable after creation except resources.requests and volumeAttributesClassName for \
                      bound claims";
        errors.forbidden(&Path::new("spec"), detail);
    }
    let asked = |claim: &Value| quantities::amount(claim.at(&["spec", "resources", "requests"]), "storage");
    if asked(new) < asked(old) {
        let detail = "field can not be less than status.capacity";
        errors.forbidden(&Path::new("spec.resources.requests.storage"), detail);
    }
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
    match object.str_at(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]) {
        "" => object.str_at(&["spec", "storageClassName"]).into(),
        class => class.into(),
    }
}
