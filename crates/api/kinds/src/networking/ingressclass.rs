//! IngressClasses: who serves an Ingress.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use crate::column::{AGE, Column, string_or, text};
use crate::object_meta::immutable;
use crate::rules::{Lifecycle, Rules};
use crate::shapes::within;

const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

const COLUMNS: &[Column] = &[
    text("Name", |class, _| {
        let is_default = class.str_at(&["metadata", "annotations", DEFAULT]) == "true";
        format!("{}{}", class.str_at(&["metadata", "name"]), if is_default { " (default)" } else { "" }).into()
    })
    .named(),
    text("Controller", |class, _| string_or(class, &["spec", "controller"], "")),
    text("Parameters", |class, _| parameters(class.at(&["spec", "parameters"])).into()),
    AGE,
];

pub const RULES: Rules = Rules {
    default: |class, _| {
        within(class, &["spec", "parameters"], |parameters| parameters.set_default(&["scope"], "Cluster"));
    },
    validate,
    validate_update: |new, old, errors| {
        let path = Path::new("spec.controller");
        immutable(new.at(&["spec", "controller"]), old.at(&["spec", "controller"]), &path, errors);
    },
    columns: COLUMNS,
    lifecycle: Lifecycle::COUNTED,
    ..Rules::STANDARD
};

fn parameters(parameters: &Value) -> String {
    if parameters.is_null() {
        return "<none>".into();
    }
    let (kind, name) = (parameters.str_at(&["kind"]), parameters.str_at(&["name"]));
    match parameters.get("apiGroup").as_str() {
        Some(group) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

fn validate(class: &Value, errors: &mut ErrorList) {
    let (controller, path) = (class.str_at(&["spec", "controller"]), Path::new("spec.controller"));
    let is_prefixed = controller.split_once('/').is_some_and(|(host, rest)| !host.is_empty() && !rest.is_empty());
    if controller.is_empty() {
        errors.required(&path, "");
    } else if controller.len() > 250 {
        errors.too_long(&path, 250);
    } else if !is_prefixed {
        errors.invalid(&path, controller, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    }
}
