//! Nodes: registered with their status, tainted, cordoned.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use crate::column::{AGE, Column, NAME, string_or, text};
use crate::object_meta::immutable;
use crate::rules::{Lifecycle, Rules, same};
use crate::shapes::{network, quantities, tolerations, within};

const ROLE_PREFIX: &str = "node-role.kubernetes.io/";

const COLUMNS: &[Column] = &[
    NAME,
    text("Status", |node, _| status(node).into()),
    text("Roles", |node, _| roles(node).into()),
    AGE,
    text("Version", |node, _| string_or(node, &["status", "nodeInfo", "kubeletVersion"], "")),
    text("Internal-IP", |node, _| address(node, "InternalIP")).wide(),
    text("External-IP", |node, _| address(node, "ExternalIP")).wide(),
    text("OS-Image", |node, _| string_or(node, &["status", "nodeInfo", "osImage"], "<unknown>")).wide(),
    text("Kernel-Version", |node, _| kernel(node).into()).wide(),
    text("Container-Runtime", |node, _| {
        string_or(node, &["status", "nodeInfo", "containerRuntimeVersion"], "<unknown>")
    })
    .wide(),
];

pub const RULES: Rules = Rules {
    default,
    validate,
    validate_update,
    columns: COLUMNS,
    selectable_fields: |node| vec![("spec.unschedulable", node.bool_at(&["spec", "unschedulable"]).to_string())],
    lifecycle: Lifecycle { creates_with_status: true, ..Lifecycle::STANDARD },
    ..Rules::STANDARD
};

fn default(node: &mut Value, _: &str) {
    within(node, &["status", "capacity"], quantities::canonical);
    within(node, &["status", "allocatable"], quantities::canonical);
    let capacity = node.at(&["status", "capacity"]).clone();
    if !capacity.is_null() {
        node.set_default(&["status", "allocatable"], capacity);
    }
}

fn validate(node: &Value, errors: &mut ErrorList) {
    let path = Path::new("spec.taints");
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (index, taint) in node.list_at(&["spec", "taints"]).iter().enumerate() {
        let path = path.index(index);
        let (key, value, effect) = (taint.str_at(&["key"]), taint.str_at(&["value"]), taint.str_at(&["effect"]));
        errors.invalid_each(&path.child("key"), key, names::qualified_name(key));
        let messages = names::label_value(value);
        if !messages.is_empty() {
            errors.invalid(&path.child("value"), value, messages.join(";"));
        }
        tolerations::validate_effect(effect, &path.child("effect"), errors);
        if seen.contains(&(key, effect)) {
            errors.duplicate(&path, taint);
        }
        seen.push((key, effect));
    }
    let path = Path::new("spec.podCIDRs");
    for (index, range) in node.list_at(&["spec", "podCIDRs"]).iter().enumerate() {
        network::validate_cidr(range.as_str().unwrap_or_default(), &path.index(index), errors);
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let (new, old) = (new.get("spec"), old.get("spec"));
    let had = old.list_at(&["podCIDRs"]);
    if !had.is_empty() && !same(new.get("podCIDRs"), old.get("podCIDRs")) {
        errors.forbidden(&Path::new("spec.podCIDRs"), "node updates may not change podCIDR except from \"\" to valid");
    }
    if !old.str_at(&["providerID"]).is_empty() && new.get("providerID") != old.get("providerID") {
        errors.forbidden(
            &Path::new("spec.providerID"),
            "node updates may not change providerID except from \"\" to valid",
        );
    }
    immutable(new.get("externalID"), old.get("externalID"), &Path::new("spec.externalID"), errors);
}

fn status(node: &Value) -> String {
    let ready = node.list_at(&["status", "conditions"]).iter().find(|condition| condition.str_at(&["type"]) == "Ready");
    let mut words = vec![match ready.map(|condition| condition.str_at(&["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if node.bool_at(&["spec", "unschedulable"]) {
        words.push("SchedulingDisabled");
    }
    words.join(",")
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = node
        .entries_at(&["metadata", "labels"])
        .filter_map(|(key, value)| match key {
            "kubernetes.io/role" => value.as_str(),
            _ => key.strip_prefix(ROLE_PREFIX),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".into() } else { roles.join(",") }
}

fn address(node: &Value, kind: &str) -> Value {
    let addresses = node.list_at(&["status", "addresses"]);
    match addresses.iter().find(|address| address.str_at(&["type"]) == kind) {
        Some(address) => string_or(address, &["address"], ""),
        None => Value::string("<none>"),
    }
}

fn kernel(node: &Value) -> String {
    let info = node.at(&["status", "nodeInfo"]);
    let version = match info.str_at(&["kernelVersion"]) {
        "" => "<unknown>",
        version => version,
    };
    match info.str_at(&["architecture"]) {
        "" => version.into(),
        architecture => format!("{version} ({architecture})"),
    }
}
