//! NetworkPolicies: who may talk to whom.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use crate::column::{self, AGE, Column, NAME, text};
use crate::rules::{Lifecycle, Rules};
use crate::shapes::network::{validate_cidr, validate_port, validate_protocol};
use crate::shapes::selector;

const COLUMNS: &[Column] =
    &[NAME, text("Pod-Selector", |policy, _| column::selector(policy.at(&["spec", "podSelector"])).into()), AGE];

pub const RULES: Rules =
    Rules { default, validate, columns: COLUMNS, lifecycle: Lifecycle::COUNTED, ..Rules::STANDARD };

fn default(policy: &mut Value, _: &str) {
    let spec = policy.ensure(&["spec"]);
    for direction in ["ingress", "egress"] {
        for rule in spec.list_at_mut(&[direction]) {
            for port in rule.list_at_mut(&["ports"]) {
                port.set_default(&["protocol"], "TCP");
            }
        }
    }
    if spec.list_at(&["policyTypes"]).is_empty() {
        let mut types = vec![Value::string("Ingress")];
        if !spec.list_at(&["egress"]).is_empty() {
            types.push(Value::string("Egress"));
        }
        spec.set(&["policyTypes"], types);
    }
}

fn validate(policy: &Value, errors: &mut ErrorList) {
    let (spec, path) = (policy.get("spec"), Path::new("spec"));
    selector::validate(spec.get("podSelector"), &path.child("podSelector"), errors);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let path = path.child(direction);
        for (index, rule) in spec.list_at(&[direction]).iter().enumerate() {
            validate_rule(rule, peers, &path.index(index), errors);
        }
    }
    let types_path = path.child("policyTypes");
    for (index, kind) in spec.list_at(&["policyTypes"]).iter().enumerate() {
        if !["Ingress", "Egress"].contains(&kind.as_str().unwrap_or_default()) {
            errors.not_supported(&types_path.index(index), kind, &["Egress", "Ingress"]);
        }
    }
}

fn validate_rule(rule: &Value, peers: &str, path: &Path<'_>, errors: &mut ErrorList) {
    let ports = path.child("ports");
    for (index, port) in rule.list_at(&["ports"]).iter().enumerate() {
        let path = ports.index(index);
        validate_protocol(port.get("protocol"), &path.child("protocol"), errors);
        if !port.get("port").is_null() {
            validate_port(port.get("port"), &path.child("port"), errors);
        }
        let (first, last) = (port.int_at(&["port"]), port.int_at(&["endPort"]));
        match (first, last) {
            (Some(first), Some(last)) if last < first => {
                let detail = "must be greater than or equal to `port`";
                errors.invalid(&path.child("endPort"), last, detail);
            }
            (None, Some(last)) => {
                errors.invalid(&path.child("endPort"), last, "may not be specified when `port` is not specified");
            }
            _ => {}
        }
    }
    let list = path.child(peers);
    for (index, peer) in rule.list_at(&[peers]).iter().enumerate() {
        validate_peer(peer, &list.index(index), errors);
    }
}

fn validate_peer(peer: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let named: Vec<&str> = ["podSelector", "namespaceSelector", "ipBlock"]
        .into_iter()
        .filter(|member| !peer.get(member).is_null())
        .collect();
    if named.is_empty() {
        errors.required(path, "must specify a peer");
    }
    if named.contains(&"ipBlock") && named.len() > 1 {
        errors.forbidden(path, "may not specify both ipBlock and another peer");
    }
    for member in ["podSelector", "namespaceSelector"] {
        selector::validate(peer.get(member), &path.child(member), errors);
    }
    let block = peer.get("ipBlock");
    if !block.is_null() {
        let path = path.child("ipBlock");
        validate_cidr(block.str_at(&["cidr"]), &path.child("cidr"), errors);
        let except = path.child("except");
        for (index, range) in block.list_at(&["except"]).iter().enumerate() {
            validate_cidr(range.as_str().unwrap_or_default(), &except.index(index), errors);
        }
    }
}
