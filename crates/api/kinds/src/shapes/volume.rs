//! Volumes of pods: exactly one source each, and what the sources need.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Quantity, Value, names};

use super::environment::{self, ContainerName};

/// Sources in the order in which upstream looks for them.
const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];
const DOWNWARD_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// Volumes of a pod; the names of those that may be mounted.
pub fn validate<'v>(volumes: &'v [Value], path: &Path<'_>, errors: &mut ErrorList) -> Vec<&'v Value> {
    let mut good: Vec<&Value> = Vec::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let before = errors.len();
        validate_source(volume, &path, errors);
        let name = volume.str_at(&["name"]);
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else {
            errors.invalid_each(&path.child("name"), name, names::dns1123_label(name));
        }
        if good.iter().any(|other| other.str_at(&["name"]) == name) {
            errors.duplicate(&path.child("name"), name);
        }
        if errors.len() == before {
            good.push(volume);
        }
    }
    good
}

fn validate_source(volume: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let mut named = SOURCES.iter().filter(|name| !volume.get(name).is_null());
    let Some(first) = named.next() else {
        errors.required(path, "must specify a volume type");
        return;
    };
    let (source, source_path) = (volume.get(first), path.child(first));
    match *first {
        "emptyDir" => validate_empty_dir(source, &source_path, errors),
        "hostPath" => validate_host_path(source, &source_path, errors),
        "secret" => validate_keys(source, "secretName", &source_path, errors),
        "configMap" => validate_keys(source, "name", &source_path, errors),
        "nfs" => validate_nfs(source, &source_path, errors),
        "persistentVolumeClaim" => need(source, "claimName", &source_path, errors),
        "downwardAPI" => validate_downward(source, &source_path, errors),
        "projected" => validate_projected(source, &source_path, errors),
        "csi" => need(source, "driver", &source_path, errors),
        "image" => need(source, "reference", &source_path, errors),
        "ephemeral" => need(source, "volumeClaimTemplate", &source_path, errors),
        _ => {}
    }
    for name in named {
        errors.forbidden(&path.child(name), "may not specify more than 1 volume type");
    }
}

fn need(source: &Value, member: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if source.get(member).is_empty() {
        errors.required(&path.child(member), "");
    }
}

fn validate_empty_dir(source: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let is_negative = Quantity::from_value(source.get("sizeLimit")).is_ok_and(|limit| limit.is_negative());
    if is_negative {
        errors.forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
}

/// A directory of the node; also of persistent volumes.
pub fn validate_host_path(source: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let place = source.str_at(&["path"]);
    if place.is_empty() {
        errors.required(&path.child("path"), "");
    } else {
        validate_no_backsteps(place, &path.child("path"), errors);
    }
    let kind = source.str_at(&["type"]);
    if !HOST_PATH_TYPES.contains(&kind) {
        errors.not_supported(&path.child("type"), kind, HOST_PATH_TYPES);
    }
}

/// A share of a file server; also of persistent volumes.
pub fn validate_nfs(source: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    need(source, "server", path, errors);
    need(source, "path", path, errors);
    let place = source.str_at(&["path"]);
    if !place.is_empty() && !place.starts_with('/') {
        errors.invalid(&path.child("path"), place, "must be an absolute path");
    }
}

fn validate_mode(mode: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    if let Some(mode) = mode.as_int().filter(|mode| !(0..=0o777).contains(mode)) {
        errors.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn validate_keys(source: &Value, name: &str, path: &Path<'_>, errors: &mut ErrorList) {
    need(source, name, path, errors);
    validate_mode(source.get("defaultMode"), &path.child("defaultMode"), errors);
    validate_items(source, path, errors);
}

fn validate_items(source: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let path = path.child("items");
    for (index, item) in source.list_at(&["items"]).iter().enumerate() {
        let path = path.index(index);
        need(item, "key", &path, errors);
        need(item, "path", &path, errors);
        validate_non_reserved(item.str_at(&["path"]), &path.child("path"), errors);
        validate_mode(item.get("mode"), &path.child("mode"), errors);
    }
}

fn validate_downward(source: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    validate_mode(source.get("defaultMode"), &path.child("defaultMode"), errors);
    for item in source.list_at(&["items"]) {
        need(item, "path", path, errors);
        validate_non_reserved(item.str_at(&["path"]), &path.child("path"), errors);
        let (field, resource) = (item.get("fieldRef"), item.get("resourceFieldRef"));
        match (field.is_null(), resource.is_null()) {
            (false, _) => {
                environment::validate_field(field, DOWNWARD_FIELDS, &path.child("fieldRef"), errors);
                if !resource.is_null() {
                    errors.invalid(
                        path,
                        "resource",
                        "fieldRef and resourceFieldRef can not be specified simultaneously",
                    );
                }
            }
            (true, false) => {
                let path = path.child("resourceFieldRef");
                environment::validate_resource(resource, ContainerName::Required, &path, errors);
            }
            (true, true) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
        }
        validate_mode(item.get("mode"), &path.child("mode"), errors);
    }
}

fn validate_projected(source: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    validate_mode(source.get("defaultMode"), &path.child("defaultMode"), errors);
    let path = path.child("sources");
    let mut paths: Vec<&str> = Vec::new();
    for (index, part) in source.list_at(&["sources"]).iter().enumerate() {
        let path = path.index(index);
        for (name, part) in part.entries_at(&[]).filter(|(_, part)| !part.is_null()) {
            let path = path.child(name);
            match name {
                "secret" | "configMap" => {
                    need(part, "name", &path, errors);
                    validate_items(part, &path, errors);
                }
                "downwardAPI" => validate_downward(part, &path, errors),
                "serviceAccountToken" => validate_token(part, &path, errors),
                _ => {}
            }
            let items = part.list_at(&["items"]).iter().map(|item| item.str_at(&["path"]));
            for place in items.chain([part.str_at(&["path"])]).filter(|place| !place.is_empty()) {
                if paths.contains(&place) {
                    errors.invalid(&path, place, "conflicting duplicate paths");
                }
                paths.push(place);
            }
        }
    }
}

fn validate_token(source: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let seconds = source.int_at(&["expirationSeconds"]).unwrap_or_default();
    let path_seconds = path.child("expirationSeconds");
    if seconds < 600 {
        errors.invalid(&path_seconds, seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > 1 << 32 {
        errors.invalid(&path_seconds, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    need(source, "path", path, errors);
    validate_non_reserved(source.str_at(&["path"]), &path.child("path"), errors);
}

fn validate_no_backsteps(place: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if place.split('/').any(|part| part == "..") {
        errors.invalid(path, place, "must not contain '..'");
    }
}

/// A path below a directory: relative, and never upwards.
pub fn validate_descending(place: &str, path: &Path<'_>, errors: &mut ErrorList) {
    if place.starts_with('/') {
        errors.invalid(path, place, "must be a relative path");
    }
    validate_no_backsteps(place, path, errors);
}

fn validate_non_reserved(place: &str, path: &Path<'_>, errors: &mut ErrorList) {
    validate_descending(place, path, errors);
    if place.starts_with("..") && !place.starts_with("../") {
        errors.invalid(path, place, "must not start with '..'");
    }
}
