//! Rules of `metadata` that hold for every kind. Source: Kubernetes `apimachinery/pkg/api/validation`.

use coracle_meta::field::{Path, quote};
use coracle_meta::names::{self, Check};
use coracle_meta::{ErrorList, Value};

use crate::kind::Scope;
use crate::rules::same;

pub const IMMUTABLE: &str = "field is immutable";
pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
const ANNOTATION_BYTES_MAX: usize = 256 * 1024;
const MANAGER_BYTES_MAX: usize = 128;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// The finalizers that need no domain.
const FINALIZERS: [&str; 3] = ["kubernetes", ORPHAN, FOREGROUND];

/// A new object's metadata; a generated name is already in place.
pub fn validate(object: &Value, scope: Scope, name: Check, errors: &mut ErrorList) {
    let (meta, path) = (object.get("metadata"), Path::new("metadata"));
    validate_at(meta, Some(scope), name, &path, errors);
}

/// Metadata anywhere; `scope` is `None` where no namespace is looked at.
pub fn validate_at(meta: &Value, scope: Option<Scope>, name: Check, path: &Path<'_>, errors: &mut ErrorList) {
    let generate_name = meta.str_at(&["generateName"]);
    if !generate_name.is_empty() {
        errors.invalid_each(&path.child("generateName"), generate_name, names::as_prefix(name, generate_name));
    }
    match meta.str_at(&["name"]) {
        "" => errors.required(&path.child("name"), "name or generateName is required"),
        given => errors.invalid_each(&path.child("name"), given, name(given)),
    }
    let namespace = meta.str_at(&["namespace"]);
    match scope {
        Some(Scope::Namespaced) if namespace.is_empty() => errors.required(&path.child("namespace"), ""),
        Some(Scope::Namespaced) => {
            errors.invalid_each(&path.child("namespace"), namespace, names::dns1123_label(namespace));
        }
        Some(Scope::Cluster) if !namespace.is_empty() => {
            errors.forbidden(&path.child("namespace"), "not allowed on this type");
        }
        _ => {}
    }
    not_negative(meta.get("generation"), &path.child("generation"), errors);
    labels(meta.get("labels"), &path.child("labels"), errors);
    annotations(meta.get("annotations"), &path.child("annotations"), errors);
    owners(meta.get("ownerReferences"), &path.child("ownerReferences"), errors);
    finalizers(meta.get("finalizers"), &path.child("finalizers"), errors);
    managed_fields(meta.get("managedFields"), &path.child("managedFields"), errors);
}

pub fn validate_update(new: &Value, old: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let (new, old) = (new.get("metadata"), old.get("metadata"));
    if !old.get("deletionTimestamp").is_null() {
        let known = old.list_at(&["finalizers"]);
        let mut extra: Vec<&str> = new
            .list_at(&["finalizers"])
            .iter()
            .filter(|finalizer| !known.contains(finalizer))
            .filter_map(Value::as_str)
            .collect();
        if !extra.is_empty() {
            extra.sort_unstable();
            let listed: Vec<String> = extra.into_iter().map(quote).collect();
            let found = format!("[]string{{{}}}", listed.join(", "));
            let detail =
                format!("no new finalizers can be added if the object is being deleted, found new finalizers {found}");
            errors.forbidden(&path.child("finalizers"), detail);
        }
    }
    if new.int_at(&["generation"]).unwrap_or_default() < old.int_at(&["generation"]).unwrap_or_default() {
        errors.invalid(&path.child("generation"), new.get("generation"), "must not be decremented");
    }
    for key in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        immutable(new.get(key), old.get(key), &path.child(key), errors);
    }
    labels(new.get("labels"), &path.child("labels"), errors);
    annotations(new.get("annotations"), &path.child("annotations"), errors);
    owners(new.get("ownerReferences"), &path.child("ownerReferences"), errors);
    finalizers_in_domains(new.get("finalizers"), &path.child("finalizers"), errors);
    managed_fields(new.get("managedFields"), &path.child("managedFields"), errors);
}

/// Tells of a field that must not change and did.
pub fn immutable(new: &Value, old: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    if !same(new, old) {
        errors.invalid(path, new, IMMUTABLE);
    }
}

pub fn not_negative(value: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    if let Some(number) = value.as_int().filter(|number| *number < 0) {
        errors.invalid(path, number, NOT_NEGATIVE);
    }
}

pub fn labels(labels: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    for (key, value) in labels.entries_at(&[]) {
        errors.invalid_each(path, key, names::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        errors.invalid_each(path, value, names::label_value(value));
    }
}

pub fn annotations(annotations: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let mut bytes = 0;
    for (key, value) in annotations.entries_at(&[]) {
        errors.invalid_each(path, key, names::qualified_name(&key.to_lowercase()));
        bytes += key.len() + value.as_str().unwrap_or_default().len();
    }
    if bytes > ANNOTATION_BYTES_MAX {
        errors.too_long(path, ANNOTATION_BYTES_MAX);
    }
}

fn owners(owners: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let mut controller: Option<String> = None;
    for owner in owners.list_at(&[]) {
        let api_version = owner.str_at(&["apiVersion"]);
        if api_version.is_empty() || api_version.ends_with('/') {
            errors.invalid(&path.child("apiVersion"), api_version, "version must not be empty");
        }
        for key in ["kind", "name", "uid"] {
            if owner.str_at(&[key]).is_empty() {
                errors.invalid(&path.child(key), "", "must not be empty");
            }
        }
        if api_version == "v1" && owner.str_at(&["kind"]) == "Event" {
            errors.invalid(path, owner, "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.bool_at(&["controller"]) {
            let named = format!("{}/{}", owner.str_at(&["kind"]), owner.str_at(&["name"]));
            match &controller {
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {named}"
                    );
                    errors.invalid(path, owners, detail);
                }
                None => controller = Some(named),
            }
        }
    }
}

fn finalizers(finalizers: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let names: Vec<&str> = finalizers.list_at(&[]).iter().filter_map(Value::as_str).collect();
    names.iter().for_each(|name| errors.invalid_each(path, *name, names::qualified_name(name)));
    finalizers_in_domains(finalizers, path, errors);
    if names.contains(&ORPHAN) && names.contains(&FOREGROUND) {
        errors.invalid(path, finalizers, format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set"));
    }
}

/// Finalizers are of a domain, but for the few that Kubernetes itself knows.
fn finalizers_in_domains(finalizers: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    for (index, name) in finalizers.list_at(&[]).iter().filter_map(Value::as_str).enumerate() {
        if !name.contains('/') && !FINALIZERS.contains(&name) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path.index(index), name, why);
        }
    }
}

fn managed_fields(entries: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    for (index, entry) in entries.list_at(&[]).iter().enumerate() {
        let path = path.index(index);
        let operation = entry.str_at(&["operation"]);
        if !["Apply", "Update"].contains(&operation) {
            errors.invalid(&path.child("operation"), operation, "must be `Apply` or `Update`");
        }
        let fields_type = entry.str_at(&["fieldsType"]);
        if !["", "FieldsV1"].contains(&fields_type) {
            errors.invalid(&path.child("fieldsType"), fields_type, "must be `FieldsV1`");
        }
        if entry.str_at(&["manager"]).len() > MANAGER_BYTES_MAX {
            errors.too_long(&path.child("manager"), MANAGER_BYTES_MAX);
        }
        if entry.str_at(&["subresource"]).len() > 256 {
            errors.too_long(&path.child("subresource"), 256);
        }
    }
}
