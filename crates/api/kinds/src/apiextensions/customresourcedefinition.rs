//! CustomResourceDefinitions: kinds made at run time.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use crate::column;
use crate::object_meta::immutable;
use crate::rules::{Lifecycle, Rules};
use crate::shapes::{fill, within};

pub const RULES: Rules = Rules {
    default,
    prepare_create,
    validate,
    validate_update,
    columns: column::STANDARD,
    lifecycle: Lifecycle::COUNTED,
    ..Rules::STANDARD
};

fn default(definition: &mut Value, _: &str) {
    let kind = definition.str_at(&["spec", "names", "kind"]).to_owned();
    if !kind.is_empty() {
        fill(definition, &["spec", "names", "singular"], kind.to_lowercase());
        fill(definition, &["spec", "names", "listKind"], format!("{kind}List"));
    }
    definition.set_default(&["spec", "conversion", "strategy"], "None");
    within(definition, &["spec", "conversion", "webhook", "clientConfig", "service"], |service| {
        service.set_default(&["port"], 443);
    });
    store_version(definition);
}

fn prepare_create(definition: &mut Value) {
    store_version(definition);
}

/// The version that is stored is one that has been stored.
fn store_version(definition: &mut Value) {
    let stored = definition.list_at(&["spec", "versions"]).iter().find(|version| version.bool_at(&["storage"]));
    if let Some(name) = stored.map(|version| version.get("name").clone()) {
        fill(definition, &["status", "storedVersions"], vec![name]);
    }
}

fn validate(definition: &Value, errors: &mut ErrorList) {
    let (spec, path) = (definition.get("spec"), Path::new("spec"));
    let (group, plural) = (spec.str_at(&["group"]), spec.str_at(&["names", "plural"]));
    if definition.str_at(&["metadata", "name"]) != format!("{plural}.{group}") {
        let name = definition.str_at(&["metadata", "name"]);
        errors.invalid(&Path::new("metadata.name"), name, "must be spec.names.plural+\".\"+spec.group");
    }
    match group {
        "" => errors.required(&path.child("group"), ""),
        group if !group.contains('.') => {
            errors.invalid(&path.child("group"), group, "should be a domain with at least one dot");
        }
        group => errors.invalid_each(&path.child("group"), group, names::dns1123_subdomain(group)),
    }
    let scope = spec.str_at(&["scope"]);
    if !["Cluster", "Namespaced"].contains(&scope) {
        errors.not_supported(&path.child("scope"), scope, &["Cluster", "Namespaced"]);
    }
    validate_names(spec.get("names"), &path.child("names"), errors);
    validate_versions(spec.list_at(&["versions"]), &path.child("versions"), errors);
}

fn validate_names(given: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    for member in ["plural", "singular"] {
        let name = given.str_at(&[member]);
        errors.invalid_each(&path.child(member), name, names::dns1035_label(name));
    }
    for member in ["kind", "listKind"] {
        let name = given.str_at(&[member]);
        errors.invalid_each(&path.child(member), name, names::dns1035_label(&name.to_lowercase()));
    }
    if !given.str_at(&["kind"]).is_empty() && given.get("kind") == given.get("listKind") {
        errors.invalid(&path.child("listKind"), given.get("listKind"), "kind and listKind may not be the same");
    }
}

fn validate_versions(versions: &[Value], path: &Path<'_>, errors: &mut ErrorList) {
    if versions.is_empty() {
        errors.required(path, "must have at least one version");
    }
    for (index, version) in versions.iter().enumerate() {
        let path = path.index(index);
        let name = version.str_at(&["name"]);
        let messages = names::dns1035_label(name);
        if !messages.is_empty() {
            errors.invalid(&path.child("name"), name, messages.join(","));
        }
        if versions[..index].iter().any(|other| other.str_at(&["name"]) == name) {
            errors.invalid(&path.child("name"), name, "must contain unique version names");
        }
        if version.at(&["schema", "openAPIV3Schema"]).is_null() {
            errors.required(&path.child("schema.openAPIV3Schema"), "schemas are required");
        }
    }
    if versions.iter().filter(|version| version.bool_at(&["storage"])).count() != 1 {
        let shown = Value::List(versions.iter().map(|version| version.get("name").clone()).collect());
        errors.invalid(path, shown, "must have exactly one version marked as storage version");
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    for place in [&["spec", "group"][..], &["spec", "scope"], &["spec", "names", "kind"], &["spec", "names", "plural"]]
    {
        let joined = place.join(".");
        immutable(new.at(place), old.at(place), &Path::new(&joined), errors);
    }
}
