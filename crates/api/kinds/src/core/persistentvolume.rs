//! PersistentVolumes: storage that claims bind to.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use super::persistentvolumeclaim::{class, modes};
use crate::column::{AGE, Column, NAME, string_or, text};
use crate::object_meta::immutable;
use crate::rules::Rules;
use crate::shapes::container::validate_choice;
use crate::shapes::{affinity, fill, quantities, volume, volume_defaults, within};

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const NOT_SOURCES: &[&str] = &[
    "capacity",
    "accessModes",
    "claimRef",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "mountOptions",
    "volumeMode",
    "nodeAffinity",
    "volumeAttributesClassName",
];

const COLUMNS: &[Column] = &[
    NAME,
    text("Capacity", |volume, _| quantities::amount(volume.at(&["spec", "capacity"]), "storage").to_string().into()),
    text("Access Modes", |volume, _| modes(volume.list_at(&["spec", "accessModes"])).into()),
    text("Reclaim Policy", |volume, _| string_or(volume, &["spec", "persistentVolumeReclaimPolicy"], "")),
    text("Status", |volume, _| match volume.at(&["metadata", "deletionTimestamp"]).is_null() {
        true => string_or(volume, &["status", "phase"], ""),
        false => Value::string("Terminating"),
    }),
    text("Claim", |volume, _| match volume.at(&["spec", "claimRef"]) {
        Value::Null => Value::string(""),
        claim => format!("{}/{}", claim.str_at(&["namespace"]), claim.str_at(&["name"])).into(),
    }),
    text("StorageClass", |volume, _| class(volume).into()),
    text("VolumeAttributesClass", |volume, _| string_or(volume, &["spec", "volumeAttributesClassName"], "<unset>")),
    text("Reason", |volume, _| string_or(volume, &["status", "reason"], "")),
    AGE,
    text("VolumeMode", |volume, _| string_or(volume, &["spec", "volumeMode"], "<unset>")).wide(),
];

pub const RULES: Rules =
    Rules { default, prepare_create, validate, validate_update, columns: COLUMNS, ..Rules::STANDARD };

/// When it came to be in its phase.
const SINCE: [&str; 2] = ["status", "lastPhaseTransitionTime"];

fn prepare_create(volume: &mut Value) {
    volume.set(&["status", "phase"], "Pending");
    let created = volume.at(&["metadata", "creationTimestamp"]).clone();
    if !created.is_null() {
        volume.set(&SINCE, created);
    }
}

/// Gives a phase the time that its writer left out; one that stays keeps its own.
pub fn stamp_phase(new: &mut Value, old: &Value, now: &str) {
    const PHASE: [&str; 2] = ["status", "phase"];
    let (is_same, since) = (new.at(&PHASE) == old.at(&PHASE), new.at(&SINCE));
    if !is_same && (since.is_null() || since == old.at(&SINCE)) {
        new.set(&SINCE, now);
    } else if is_same && since.is_null() && !old.at(&SINCE).is_null() {
        new.set(&SINCE, old.at(&SINCE).clone());
    }
}

fn default(volume: &mut Value, _: &str) {
    fill(volume, &["status", "phase"], "Pending");
    let spec = volume.ensure(&["spec"]);
    fill(spec, &["persistentVolumeReclaimPolicy"], "Retain");
    spec.set_default(&["volumeMode"], "Filesystem");
    within(spec, &["capacity"], quantities::canonical);
    within(spec, &["hostPath"], |source| source.set_default(&["type"], ""));
    volume_defaults::plugin(spec);
}

fn validate(volume: &Value, errors: &mut ErrorList) {
    let (spec, path) = (volume.get("spec"), Path::new("spec"));
    validate_modes(spec.list_at(&["accessModes"]), &path.child("accessModes"), errors);
    let capacity = path.child("capacity");
    if spec.get("capacity").is_empty() {
        errors.required(&capacity, "");
    } else if spec.at(&["capacity", "storage"]).is_null() || spec.entries_at(&["capacity"]).count() > 1 {
        errors.not_supported(&capacity, spec.get("capacity"), &["storage"]);
    }
    let amount = quantities::amount(spec.get("capacity"), "storage");
    if !spec.at(&["capacity", "storage"]).is_null() && (amount.is_zero() || amount.is_negative()) {
        errors.invalid(&capacity.key("storage"), amount.to_string(), "must be greater than zero");
    }
    let policies = &["Delete", "Recycle", "Retain"];
    let policy = path.child("persistentVolumeReclaimPolicy");
    validate_choice(spec.get("persistentVolumeReclaimPolicy"), policies, &policy, errors);
    let sources: Vec<(&str, &Value)> =
        spec.entries_at(&[]).filter(|(member, source)| !NOT_SOURCES.contains(member) && !source.is_null()).collect();
    match sources.split_first() {
        None => errors.required(&path, "must specify a volume type"),
        Some(((name, source), others)) => {
            match *name {
                "hostPath" => volume::validate_host_path(source, &path.child("hostPath"), errors),
                "nfs" => volume::validate_nfs(source, &path.child("nfs"), errors),
                _ => {}
            }
            for (other, _) in others {
                errors.forbidden(&path.child(other), "may not specify more than 1 volume type");
            }
        }
    }
    let required = spec.at(&["nodeAffinity", "required"]);
    if !required.is_null() {
        affinity::validate_node_selector(required, &path.child("nodeAffinity.required"), errors);
    }
}

/// At least one known mode; the one for a single pod stands alone. Also of claims.
pub fn validate_modes(modes: &[Value], path: &Path<'_>, errors: &mut ErrorList) {
    if modes.is_empty() {
        errors.required(path, "at least 1 access mode is required");
    }
    for mode in modes.iter().filter(|mode| !MODES.contains(&mode.as_str().unwrap_or_default())) {
        errors.not_supported(path, mode, MODES);
    }
    let is_single = modes.iter().any(|mode| mode.as_str() == Some("ReadWriteOncePod"));
    if is_single && modes.len() > 1 {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let path = Path::new("spec.volumeMode");
    immutable(new.at(&["spec", "volumeMode"]), old.at(&["spec", "volumeMode"]), &path, errors);
    let source = |volume: &Value| {
        let mut spec = volume.get("spec").clone();
        if let Some(map) = spec.as_map_mut() {
            map.retain(|member, _| !NOT_SOURCES.contains(&member));
        }
        spec
    };
    let changed = !crate::rules::same(&source(new), &source(old));
    if changed && source(old).get("csi").is_null() {
        let detail = "spec.persistentvolumesource is immutable after creation";
        errors.forbidden(&Path::new("spec.persistentvolumesource"), detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::tree;

    #[test]
    fn a_phase_has_the_time_it_began() {
        let mut made = tree(r#"{"metadata":{"creationTimestamp":"t0"},"spec":{}}"#);
        prepare_create(&mut made);
        assert_eq!(made.get("status"), &tree(r#"{"phase":"Pending","lastPhaseTransitionTime":"t0"}"#));
        let cases = [
            (r#"{"phase":"Bound","lastPhaseTransitionTime":"t0"}"#, "now"),
            (r#"{"phase":"Bound"}"#, "now"),
            (r#"{"phase":"Bound","lastPhaseTransitionTime":"t1"}"#, "t1"),
            (r#"{"phase":"Pending"}"#, "t0"),
            (r#"{"phase":"Pending","lastPhaseTransitionTime":"t1"}"#, "t1"),
        ];
        for (status, since) in cases {
            let mut new = made.clone();
            new.set(&["status"], tree(status));
            stamp_phase(&mut new, &made, "now");
            assert_eq!(new.str_at(&SINCE), since, "{status}");
        }
    }
}
