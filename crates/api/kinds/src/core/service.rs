//! Services: a stable address for pods. Cluster IPs and node ports are given out by the API server's allocator.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use crate::column::{self, AGE, Column, NAME, string_or, text};
use crate::object_meta;
use crate::rules::Rules;
use crate::shapes::container::validate_choice;
use crate::shapes::network::{validate_endpoint_ip, validate_port, validate_protocol};
use crate::shapes::{fill, tree};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const AFFINITY_SECONDS_MAX: i64 = 86400;

const COLUMNS: &[Column] = &[
    NAME,
    text("Type", |service, _| string_or(service, &["spec", "type"], "")),
    text("Cluster-IP", |service, _| match service.list_at(&["spec", "clusterIPs"]).first() {
        Some(address) => address.clone(),
        None => Value::string("<none>"),
    }),
    text("External-IP", |service, _| external_ip(service).into()),
    text("Port(s)", |service, _| ports(service).into()),
    AGE,
    text("Selector", |service, _| column::labels(service.at(&["spec", "selector"])).into()).wide(),
];

pub const RULES: Rules = Rules {
    default,
    name: names::dns1123_label,
    prepare_update,
    validate,
    validate_update,
    columns: COLUMNS,
    selectable_fields: |service| {
        vec![
            ("spec.clusterIP", service.str_at(&["spec", "clusterIP"]).to_owned()),
            ("spec.type", service.str_at(&["spec", "type"]).to_owned()),
        ]
    },
    ..Rules::STANDARD
};

fn default(service: &mut Value, _: &str) {
    let spec = service.ensure(&["spec"]);
    fill(spec, &["sessionAffinity"], "None");
    match spec.str_at(&["sessionAffinity"]) {
        "None" => {
            spec.remove(&["sessionAffinityConfig"]);
        }
        "ClientIP" => spec.set_default(&["sessionAffinityConfig", "clientIP", "timeoutSeconds"], 10800),
        _ => {}
    }
    fill(spec, &["type"], "ClusterIP");
    for port in spec.list_at_mut(&["ports"]) {
        fill(port, &["protocol"], "TCP");
        let number = port.get("port").clone();
        if !number.is_null() {
            fill(port, &["targetPort"], number);
        }
    }
    let kind = spec.str_at(&["type"]).to_owned();
    if is_external(spec) {
        fill(spec, &["externalTrafficPolicy"], "Cluster");
    }
    if kind != "ExternalName" {
        spec.set_default(&["internalTrafficPolicy"], "Cluster");
    }
    if kind == "LoadBalancer" {
        spec.set_default(&["allocateLoadBalancerNodePorts"], true);
        for ingress in service.list_at_mut(&["status", "loadBalancer", "ingress"]) {
            if !ingress.str_at(&["ip"]).is_empty() {
                ingress.set_default(&["ipMode"], "VIP");
            }
        }
    }
}

/// A change of type takes along what only the old type had, unless the writer changed it too. Kubernetes'
/// `dropTypeDependentFields`.
fn prepare_update(new: &mut Value, old: &Value) {
    let kinds = [old, new].map(|service| service.str_at(&["spec", "type"]).to_owned());
    if kinds[0] == kinds[1] {
        return;
    }
    let has = |kinds: &[&str], kind: &String| kinds.contains(&kind.as_str());
    let lost = |having: &[&str]| has(having, &kinds[0]) && !has(having, &kinds[1]);
    let mut drop = |fields: &[&str]| {
        if fields.iter().all(|field| new.at(&["spec", field]) == old.at(&["spec", field])) {
            fields.iter().for_each(|field| drop_field(new, field));
        }
    };
    if lost(&["ClusterIP", "NodePort", "LoadBalancer"]) {
        drop(&["clusterIP", "clusterIPs"]);
    }
    if lost(&["NodePort", "LoadBalancer"]) {
        drop(&["externalTrafficPolicy"]);
        drop(&["healthCheckNodePort"]);
        if node_ports(new) == node_ports(old) {
            new.list_at_mut(&["spec", "ports"]).iter_mut().for_each(|port| {
                port.remove(&["nodePort"]);
            });
        }
    }
    if lost(&["LoadBalancer"]) {
        ["allocateLoadBalancerNodePorts", "loadBalancerClass"].iter().for_each(|field| {
            if new.at(&["spec", field]) == old.at(&["spec", field]) {
                drop_field(new, field);
            }
        });
    }
}

fn drop_field(service: &mut Value, field: &str) {
    service.remove(&["spec", field]);
}

fn node_ports(service: &Value) -> Vec<Option<i64>> {
    service.list_at(&["spec", "ports"]).iter().map(|port| port.int_at(&["nodePort"])).collect()
}

/// Whether it can be reached from outside the cluster.
fn is_external(spec: &Value) -> bool {
    let kind = spec.str_at(&["type"]);
    let has_external = kind == "ClusterIP" && !spec.list_at(&["externalIPs"]).is_empty();
    kind == "LoadBalancer" || kind == "NodePort" || has_external
}

fn is_headless(spec: &Value) -> bool {
    spec.list_at(&["clusterIPs"]).first().is_some_and(|address| address.as_str() == Some("None"))
        || spec.str_at(&["clusterIP"]) == "None"
}

fn validate(service: &Value, errors: &mut ErrorList) {
    let (spec, path) = (service.get("spec"), Path::new("spec"));
    let kind = spec.str_at(&["type"]);
    if spec.list_at(&["ports"]).is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    validate_type(spec, &path, errors);
    validate_ports(spec, &path.child("ports"), errors);
    object_meta::labels(spec.get("selector"), &path.child("selector"), errors);
    let affinities = &["ClientIP", "None"];
    validate_choice(spec.get("sessionAffinity"), affinities, &path.child("sessionAffinity"), errors);
    let seconds = spec.int_at(&["sessionAffinityConfig", "clientIP", "timeoutSeconds"]);
    if let Some(seconds) = seconds.filter(|seconds| !(1..=AFFINITY_SECONDS_MAX).contains(seconds)) {
        let detail = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
        errors.invalid(&path.child("sessionAffinityConfig.clientIP.timeoutSeconds"), seconds, detail);
    }
    let external = path.child("externalIPs");
    for (index, address) in spec.list_at(&["externalIPs"]).iter().enumerate() {
        validate_endpoint_ip(address.as_str().unwrap_or_default(), &external.index(index), errors);
    }
    validate_choice(spec.get("type"), TYPES, &path.child("type"), errors);
    if !spec.get("allocateLoadBalancerNodePorts").is_null() && kind != "LoadBalancer" {
        let detail = "may only be used when `type` is 'LoadBalancer'";
        errors.forbidden(&path.child("allocateLoadBalancerNodePorts"), detail);
    }
    validate_policies(spec, &path, errors);
}

fn validate_type(spec: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let addresses = path.child("clusterIPs");
    match spec.str_at(&["type"]) {
        kind @ ("LoadBalancer" | "NodePort") if is_headless(spec) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.invalid(&addresses.index(0), "None", detail);
        }
        "ExternalName" => {
            for member in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if !spec.get(member).is_empty() {
                    errors.forbidden(&path.child(member), "may not be set for ExternalName services");
                }
            }
            match spec.str_at(&["externalName"]).trim_end_matches('.') {
                "" => errors.required(&path.child("externalName"), ""),
                name => errors.invalid_each(&path.child("externalName"), name, names::dns1123_subdomain(name)),
            }
        }
        _ => {}
    }
}

fn validate_ports(spec: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let ports = spec.list_at(&["ports"]);
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let before = &ports[..index];
        match port.str_at(&["name"]) {
            "" if ports.len() > 1 => errors.required(&path.child("name"), ""),
            "" => {}
            name => {
                errors.invalid_each(&path.child("name"), name, names::dns1123_label(name));
                if before.iter().any(|other| other.str_at(&["name"]) == name) {
                    errors.duplicate(&path.child("name"), name);
                }
            }
        }
        let number = port.int_at(&["port"]).unwrap_or_default();
        errors.invalid_each(&path.child("port"), number, names::port_number(number));
        validate_protocol(port.get("protocol"), &path.child("protocol"), errors);
        validate_port(port.get("targetPort"), &path.child("targetPort"), errors);
        let protocol = port.str_at(&["appProtocol"]);
        if !protocol.is_empty() {
            errors.invalid_each(&path.child("appProtocol"), protocol, names::qualified_name(protocol));
        }
        validate_distinct(port, before, spec.str_at(&["type"]), &path, errors);
    }
}

fn validate_distinct(port: &Value, before: &[Value], kind: &str, path: &Path<'_>, errors: &mut ErrorList) {
    let node_port = port.int_at(&["nodePort"]).unwrap_or_default();
    let has = |member: &str| {
        before
            .iter()
            .any(|other| other.get("protocol") == port.get("protocol") && other.get(member) == port.get(member))
    };
    if node_port != 0 && kind == "ClusterIP" {
        errors.forbidden(&path.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
    }
    if node_port != 0 && has("nodePort") {
        errors.duplicate(&path.child("nodePort"), node_port);
    }
    if has("port") {
        let mut key = tree("{}");
        key.set(&["protocol"], port.get("protocol").clone());
        key.set(&["port"], port.get("port").clone());
        errors.duplicate(path, key);
    }
}

fn validate_policies(spec: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let external = spec.get("externalTrafficPolicy");
    let external_path = path.child("externalTrafficPolicy");
    if is_external(spec) {
        validate_choice(external, &["Cluster", "Local"], &external_path, errors);
    } else if !external.is_empty() {
        errors.invalid(&external_path, external, "may only be set for externally-accessible services");
    }
    let internal = spec.get("internalTrafficPolicy");
    if !internal.is_null() && !["Cluster", "Local"].contains(&internal.as_str().unwrap_or_default()) {
        errors.not_supported(&path.child("internalTrafficPolicy"), internal, &["Cluster", "Local"]);
    }
    let distribution = spec.get("trafficDistribution");
    let known = &["PreferClose", "PreferSameZone", "PreferSameNode"];
    if !distribution.is_null() && !known.contains(&distribution.as_str().unwrap_or_default()) {
        errors.not_supported(&path.child("trafficDistribution"), distribution, known);
    }
}

/// The first cluster IP stays while the service has one.
fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let first = |service: &Value| service.list_at(&["spec", "clusterIPs"]).first().cloned();
    let kinds = [old.str_at(&["spec", "type"]), new.str_at(&["spec", "type"])];
    if kinds.contains(&"ExternalName") {
        return;
    }
    if let (Some(was), is) = (first(old), first(new))
        && is.as_ref() != Some(&was)
    {
        let path = Path::new("spec.clusterIPs");
        match is {
            Some(address) => errors.invalid(&path.index(0), address, "may not change once set"),
            None => errors.invalid(&path.index(0), Value::List(Vec::new()), "primary clusterIP can not be unset"),
        }
    }
}

fn external_ip(service: &Value) -> String {
    let spec = service.get("spec");
    let text = |values: &[Value]| values.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
    let own = text(spec.list_at(&["externalIPs"]));
    match spec.str_at(&["type"]) {
        "ExternalName" => spec.str_at(&["externalName"]).into(),
        "LoadBalancer" => {
            let mut all = load_balancer(service);
            all.extend(own);
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        "ClusterIP" | "NodePort" if own.is_empty() => "<none>".into(),
        "ClusterIP" | "NodePort" => own.join(","),
        _ => "<unknown>".into(),
    }
}

/// Addresses or names that a load balancer gave, in order. Also of ingresses.
pub fn load_balancer(object: &Value) -> Vec<String> {
    let mut addresses: Vec<String> = object
        .list_at(&["status", "loadBalancer", "ingress"])
        .iter()
        .map(|ingress| match ingress.str_at(&["ip"]) {
            "" => ingress.str_at(&["hostname"]).to_owned(),
            address => address.to_owned(),
        })
        .filter(|address| !address.is_empty())
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

fn ports(service: &Value) -> String {
    let shown: Vec<String> = service
        .list_at(&["spec", "ports"])
        .iter()
        .map(|port| {
            let (number, protocol) = (port.int_at(&["port"]).unwrap_or_default(), port.str_at(&["protocol"]));
            match port.int_at(&["nodePort"]).unwrap_or_default() {
                0 => format!("{number}/{protocol}"),
                node => format!("{number}:{node}/{protocol}"),
            }
        })
        .collect();
    if shown.is_empty() { "<none>".into() } else { shown.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_service_is_filled_and_valid() {
        let mut service = tree(r#"{"spec":{"ports":[{"port":80}],"selector":{"a":"b"}}}"#);
        default(&mut service, "v1");
        let expected = r#"{"spec":{"ports":[{"port":80,"protocol":"TCP","targetPort":80}],"selector":{"a":"b"},"sessionAffinity":"None","type":"ClusterIP","internalTrafficPolicy":"Cluster"}}"#;
        assert_eq!(service, tree(expected));
        let mut errors = ErrorList::default();
        validate(&service, &mut errors);
        assert!(errors.is_empty(), "{errors}");
        assert_eq!(ports(&service), "80/TCP");
    }

    #[test]
    fn a_change_of_type_drops_what_only_the_old_type_had() {
        let old = tree(
            r#"{"spec":{"type":"NodePort","clusterIP":"10.0.0.1","clusterIPs":["10.0.0.1"],
                "externalTrafficPolicy":"Cluster","ports":[{"port":80,"nodePort":30000}]}}"#,
        );
        let mut new = old.clone();
        new.set(&["spec", "type"], "ExternalName");
        prepare_update(&mut new, &old);
        assert_eq!(new, tree(r#"{"spec":{"type":"ExternalName","ports":[{"port":80}]}}"#));
    }

    #[test]
    fn several_ports_need_names_and_differ() {
        let mut service = tree(r#"{"spec":{"ports":[{"name":"a","port":80},{"port":80}]}}"#);
        default(&mut service, "v1");
        let mut errors = ErrorList::default();
        validate(&service, &mut errors);
        let texts: Vec<String> = errors.errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.ports[1].name: Required value",
                "spec.ports[1]: Duplicate value: {\"protocol\":\"TCP\",\"port\":80}"
            ]
        );
    }
}
