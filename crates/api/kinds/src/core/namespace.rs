//! Namespaces: active until deleted, gone when their finalizers are.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use crate::column::{AGE, Column, NAME, string_or, text};
use crate::rules::{Rules, restore_at};
use crate::shapes::fill;

const COLUMNS: &[Column] = &[NAME, text("Status", |namespace, _| string_or(namespace, &["status", "phase"], "")), AGE];

pub const RULES: Rules = Rules {
    default,
    prepare_create,
    prepare_update: |new, old| restore_at(new, old, &["spec", "finalizers"]),
    name: names::dns1123_label,
    validate,
    columns: COLUMNS,
    selectable_fields: |namespace| vec![("status.phase", namespace.str_at(&["status", "phase"]).to_owned())],
    ..Rules::STANDARD
};

fn default(namespace: &mut Value, _: &str) {
    let name = namespace.str_at(&["metadata", "name"]).to_owned();
    if !name.is_empty() {
        namespace.set(&["metadata", "labels", "kubernetes.io/metadata.name"], name);
    }
    fill(namespace, &["status", "phase"], "Active");
}

fn prepare_create(namespace: &mut Value) {
    namespace.set(&["status", "phase"], "Active");
    let finalizers = namespace.ensure(&["spec", "finalizers"]);
    let own = Value::string("kubernetes");
    match finalizers.as_list_mut() {
        Some(list) if !list.contains(&own) => list.push(own),
        Some(_) => {}
        None => *finalizers = Value::List(vec![own]),
    }
}

fn validate(namespace: &Value, errors: &mut ErrorList) {
    let path = Path::new("spec.finalizers");
    for finalizer in namespace.list_at(&["spec", "finalizers"]).iter().filter_map(Value::as_str) {
        errors.invalid_each(&path, finalizer, names::qualified_name(finalizer));
        let is_standard = ["kubernetes", "orphan", "foregroundDeletion"].contains(&finalizer);
        if !finalizer.contains('/') && !is_standard {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path, finalizer, detail);
        }
    }
}
