//! Environment variables of containers and where their values come from.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const SOURCES: &[&str] = &["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];

/// `env` of a container.
pub fn validate(variables: &[Value], path: &Path<'_>, errors: &mut ErrorList) {
    for (index, variable) in variables.iter().enumerate() {
        let path = path.index(index);
        match variable.str_at(&["name"]) {
            "" => errors.required(&path.child("name"), ""),
            name => errors.invalid_each(&path.child("name"), name, names::environment_variable(name)),
        }
        let source = variable.get("valueFrom");
        if !source.is_null() {
            validate_source(source, !variable.str_at(&["value"]).is_empty(), &path.child("valueFrom"), errors);
        }
    }
}

fn validate_source(source: &Value, has_value: bool, path: &Path<'_>, errors: &mut ErrorList) {
    let named: Vec<&&str> = SOURCES.iter().filter(|name| !source.get(name).is_null()).collect();
    for name in &named {
        let (source, path) = (source.get(name), path.child(name));
        match **name {
            "fieldRef" => validate_field(source, FIELDS, &path, errors),
            "resourceFieldRef" => validate_resource(source, ContainerName::Implied, &path, errors),
            "fileKeyRef" => validate_file(source, &path, errors),
            _ => validate_key(source, &path, errors),
        }
    }
    if named.is_empty() {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
                      `fileKeyRef`";
        errors.invalid(path, "", detail);
    } else if has_value {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if named.len() > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
}

/// A field of the pod; labels and annotations may be subscripted.
pub fn validate_field(source: &Value, fields: &[&str], path: &Path<'_>, errors: &mut ErrorList) {
    if source.str_at(&["apiVersion"]).is_empty() {
        errors.required(&path.child("apiVersion"), "");
        return;
    }
    let field = source.str_at(&["fieldPath"]);
    let subscripted = field.strip_suffix("']").and_then(|field| field.split_once("['"));
    match (field, subscripted) {
        ("", _) => errors.required(&path.child("fieldPath"), ""),
        (_, Some(("metadata.annotations", key))) => {
            errors.invalid_each(path, key, names::qualified_name(&key.to_lowercase()));
        }
        (_, Some(("metadata.labels", key))) => errors.invalid_each(path, key, names::qualified_name(key)),
        (_, Some((other, _))) => errors.invalid(path, other, "does not support subscript"),
        (field, None) if !fields.contains(&field) && !FIELDS.contains(&field) && !field.starts_with("metadata.") => {
            let detail = format!("error converting fieldPath: field label not supported: {field}");
            errors.invalid(&path.child("fieldPath"), field, detail);
        }
        (field, None) if !fields.contains(&field) => errors.not_supported(&path.child("fieldPath"), field, fields),
        _ => {}
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ContainerName {
    /// The container that the reference stands in.
    Implied,
    Required,
}

/// A resource of a container.
pub fn validate_resource(source: &Value, container: ContainerName, path: &Path<'_>, errors: &mut ErrorList) {
    let resource = source.str_at(&["resource"]);
    let is_huge = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if container == ContainerName::Required && source.str_at(&["containerName"]).is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !RESOURCES.contains(&resource) && !is_huge {
        errors.not_supported(&path.child("resource"), resource, RESOURCES);
    }
}

fn validate_key(source: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let name = source.str_at(&["name"]);
    errors.invalid_each(&path.child("name"), name, names::dns1123_subdomain(name));
    match source.str_at(&["key"]) {
        "" => errors.required(&path.child("key"), ""),
        key => errors.invalid_each(&path.child("key"), key, names::config_key(key)),
    }
}

fn validate_file(source: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    for member in ["key", "volumeName", "path"] {
        if source.str_at(&[member]).is_empty() {
            errors.required(&path.child(member), "");
        }
    }
}

/// `envFrom` of a container.
pub fn validate_from(sources: &[Value], path: &Path<'_>, errors: &mut ErrorList) {
    for (index, source) in sources.iter().enumerate() {
        let item = path.index(index);
        let prefix = source.str_at(&["prefix"]);
        if !prefix.is_empty() {
            errors.invalid_each(&item.child("prefix"), prefix, names::environment_variable(prefix));
        }
        let named: Vec<&str> =
            ["configMapRef", "secretRef"].into_iter().filter(|name| !source.get(name).is_null()).collect();
        for member in &named {
            let path = item.child(member);
            match source.str_at(&[member, "name"]) {
                "" => errors.required(&path.child("name"), ""),
                name => errors.invalid_each(&path.child("name"), name, names::dns1123_subdomain(name)),
            }
        }
        match named.len() {
            0 => errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
        }
    }
}
