//! The spec of a pod, alone or in a template. Source: Kubernetes `pkg/apis/core/validation`.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use super::container::{self, Surroundings, validate_choice};
use super::{affinity, network, quantities, security, spread, tolerations, volume};
use crate::object_meta;

const SECONDS_MAX: i64 = i32::MAX as i64;
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;
const SEARCH_BYTES_MAX: usize = 2048;

/// Where the spec stands: a template leaves host ports to its pods.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Within {
    Pod,
    Template,
}

pub fn validate(spec: &Value, within: Within, path: &Path<'_>, errors: &mut ErrorList) {
    let grace_seconds = spec.int_at(&["terminationGracePeriodSeconds"]);
    if grace_seconds.is_none() {
        errors.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let volumes = volume::validate(spec.list_at(&["volumes"]), &path.child("volumes"), errors);
    let uses_host_users = spec.get("hostUsers").as_bool() != Some(false);
    let pod = Surroundings { volumes: &volumes, grace_seconds, uses_host_users };
    container::validate_main(spec.list_at(&["containers"]), &pod, &path.child("containers"), errors);
    container::validate_init(spec, &pod, &path.child("initContainers"), errors);
    container::validate_ephemeral(spec, &pod, &path.child("ephemeralContainers"), errors);
    validate_host_network(spec, within, &path.child("containers"), errors);
    let policies = &["Always", "OnFailure", "Never"];
    validate_choice(spec.get("restartPolicy"), policies, &path.child("restartPolicy"), errors);
    let policies = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    validate_choice(spec.get("dnsPolicy"), policies, &path.child("dnsPolicy"), errors);
    object_meta::labels(spec.get("nodeSelector"), &path.child("nodeSelector"), errors);
    security::validate_pod(spec.get("securityContext"), spec, &path.child("securityContext"), errors);
    affinity::validate(spec.get("affinity"), &path.child("affinity"), errors);
    validate_dns(spec, &path.child("dnsConfig"), errors);
    validate_gates(spec, path, errors);
    validate_group(spec.get("schedulingGroup"), &path.child("schedulingGroup.podGroupName"), errors);
    let constraints = spec.list_at(&["topologySpreadConstraints"]);
    spread::validate(constraints, &path.child("topologySpreadConstraints"), errors);
    validate_names(spec, path, errors);
    validate_deadline(spec, path, errors);
    tolerations::validate(spec.list_at(&["tolerations"]), &path.child("tolerations"), errors);
    validate_aliases(spec.list_at(&["hostAliases"]), &path.child("hostAliases"), errors);
    validate_overhead(spec.get("overhead"), &path.child("overhead"), errors);
    validate_system(spec, path, errors);
}

/// On the node's network a container's port is the node's.
fn validate_host_network(spec: &Value, within: Within, path: &Path<'_>, errors: &mut ErrorList) {
    if !spec.bool_at(&["hostNetwork"]) {
        return;
    }
    for (index, container) in spec.list_at(&["containers"]).iter().enumerate() {
        let path = path.index(index);
        let path = path.child("ports");
        for (index, port) in container.list_at(&["ports"]).iter().enumerate() {
            let host = port.int_at(&["hostPort"]).unwrap_or_default();
            let own = port.int_at(&["containerPort"]).unwrap_or_default();
            if (within == Within::Pod || host != 0) && host != own {
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(&path.index(index).child("hostPort"), host, detail);
            }
        }
    }
}

fn validate_names(spec: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let checks: [(&str, names::Check); 6] = [
        ("serviceAccountName", names::dns1123_subdomain),
        ("nodeName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
        ("priorityClassName", names::dns1123_subdomain),
        ("runtimeClassName", names::dns1123_subdomain),
    ];
    for (member, check) in checks {
        let name = spec.str_at(&[member]);
        if !name.is_empty() {
            errors.invalid_each(&path.child(member), name, check(name));
        }
    }
    let preemption = spec.get("preemptionPolicy");
    if !preemption.is_null() {
        let policies = &["PreemptLowerPriority", "Never"];
        validate_choice(preemption, policies, &path.child("preemptionPolicy"), errors);
    }
}

fn validate_deadline(spec: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let deadline = spec.int_at(&["activeDeadlineSeconds"]);
    if let Some(seconds) = deadline.filter(|seconds| !(1..=SECONDS_MAX).contains(seconds)) {
        errors.invalid(&path.child("activeDeadlineSeconds"), seconds, names::range_error(1, SECONDS_MAX));
    }
}

fn validate_gates(spec: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let readiness = path.child("readinessGates");
    for (index, gate) in spec.list_at(&["readinessGates"]).iter().enumerate() {
        let kind = gate.str_at(&["conditionType"]);
        let messages = names::qualified_name(kind);
        errors.invalid_each(&readiness.index(index).child("conditionType"), kind, messages);
    }
    let scheduling = path.child("schedulingGates");
    let mut seen: Vec<&str> = Vec::new();
    for (index, gate) in spec.list_at(&["schedulingGates"]).iter().enumerate() {
        let name = gate.str_at(&["name"]);
        errors.invalid_each(&scheduling.index(index), name, names::qualified_name(name));
        if seen.contains(&name) {
            errors.duplicate(&scheduling.index(index), name);
        }
        seen.push(name);
    }
}

/// The name of the group that the pod belongs to, whether or not there is one.
fn validate_group(group: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    match group.get("podGroupName") {
        _ if group.is_null() => {}
        Value::Null => errors.invalid(path, Value::Null, "must specify one of: `podGroupName`"),
        name => {
            let name = name.as_str().unwrap_or_default();
            errors.invalid_each(path, name, names::dns1123_subdomain(name));
        }
    }
}

fn validate_dns(spec: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let config = spec.get("dnsConfig");
    let servers = config.list_at(&["nameservers"]);
    if spec.str_at(&["dnsPolicy"]) == "None" {
        if config.is_null() {
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if servers.is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.required(&path.child("nameservers"), detail);
            return;
        }
    }
    let servers_path = path.child("nameservers");
    if servers.len() > NAMESERVERS_MAX {
        let detail = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.invalid(&servers_path, config.get("nameservers"), detail);
    }
    for (index, server) in servers.iter().enumerate() {
        network::validate_ip(server.as_str().unwrap_or_default(), &servers_path.index(index), errors);
    }
    validate_searches(config, &path.child("searches"), errors);
    let options = path.child("options");
    for (index, option) in config.list_at(&["options"]).iter().enumerate() {
        if option.str_at(&["name"]).is_empty() {
            errors.required(&options.index(index), "must not be empty");
        }
    }
}

fn validate_searches(config: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let searches: Vec<&str> = config.list_at(&["searches"]).iter().filter_map(Value::as_str).collect();
    if searches.len() > SEARCHES_MAX {
        let detail = format!("must not have more than {SEARCHES_MAX} search paths");
        errors.invalid(path, config.get("searches"), detail);
    }
    if searches.join(" ").len() > SEARCH_BYTES_MAX {
        let detail =
            format!("must not have more than {SEARCH_BYTES_MAX} characters (including spaces) in the search list");
        errors.invalid(path, config.get("searches"), detail);
    }
    for (index, search) in searches.iter().enumerate().filter(|(_, search)| **search != ".") {
        let search = search.trim_end_matches('.');
        // Underscores are allowed in search paths and nowhere else in such names.
        errors.invalid_each(&path.index(index), search, names::dns1123_subdomain(&search.replace('_', "a")));
    }
}

fn validate_aliases(aliases: &[Value], path: &Path<'_>, errors: &mut ErrorList) {
    for (index, alias) in aliases.iter().enumerate() {
        let path = path.index(index);
        network::validate_ip(alias.str_at(&["ip"]), &path.child("ip"), errors);
        let hostnames = path.child("hostnames");
        for (index, hostname) in alias.list_at(&["hostnames"]).iter().enumerate() {
            let hostname = hostname.as_str().unwrap_or_default();
            errors.invalid_each(&hostnames.index(index), hostname, names::dns1123_subdomain(hostname));
        }
    }
}

fn validate_overhead(overhead: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    for (name, amount) in overhead.entries_at(&[]) {
        let path = path.key(name);
        quantities::validate_resource_name(name, &path, errors);
        quantities::validate_amount(name, amount, &path, errors);
    }
}

fn validate_system(spec: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let system = spec.get("os");
    if !system.is_null() {
        validate_choice(system.get("name"), &["linux", "windows"], &path.child("os.name"), errors);
    }
}
