//! What of a request admission policies look at.

use coracle_meta::Value;

use crate::shapes::within;

/// `matchConstraints` of a policy or `matchResources` of a binding.
pub fn default(resources: &mut Value) {
    resources.set_default(&["matchPolicy"], "Equivalent");
    resources.set_default(&["namespaceSelector"], Value::map());
    resources.set_default(&["objectSelector"], Value::map());
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in resources.list_at_mut(&[list]) {
            rule.set_default(&["scope"], "*");
        }
    }
}

pub fn default_policy(policy: &mut Value, _: &str) {
    policy.set_default(&["spec", "failurePolicy"], "Fail");
    within(policy, &["spec", "matchConstraints"], default);
}

pub fn default_binding(binding: &mut Value, _: &str) {
    within(binding, &["spec", "matchResources"], default);
}

/// `apps/v1/Thing`, or `<unset>`.
pub fn parameter_kind(policy: &Value) -> String {
    match policy.at(&["spec", "paramKind"]) {
        Value::Null => "<unset>".into(),
        kind => format!("{}/{}", kind.str_at(&["apiVersion"]), kind.str_at(&["kind"])),
    }
}

/// Which object a binding takes its parameters from.
pub fn parameter(binding: &Value) -> String {
    let parameter = binding.at(&["spec", "paramRef"]);
    match (parameter.str_at(&["namespace"]), parameter.str_at(&["name"])) {
        (_, "") if parameter.get("selector").is_null() => "<unset>".into(),
        (_, "") => crate::column::selector(parameter.get("selector")),
        ("", name) => format!("*/{name}"),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}
