//! EndpointSlices: which addresses stand behind a Service.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use crate::column::{AGE, Column, NAME, first_three, string_or, text};
use crate::object_meta::immutable;
use crate::rules::{Lifecycle, Rules};
use crate::shapes::network::{validate_endpoint_ip, validate_protocol};

const ENDPOINTS_MAX: usize = 1000;
const PORTS_MAX: usize = 20000;
const ADDRESSES_MAX: usize = 100;

const COLUMNS: &[Column] = &[
    NAME,
    text("AddressType", |slice, _| string_or(slice, &["addressType"], "")),
    text("Ports", |slice, _| first_three(&ports(slice)).into()),
    text("Endpoints", |slice, _| first_three(&addresses(slice)).into()),
    AGE,
];

pub const RULES: Rules = Rules {
    default,
    validate,
    validate_update: |new, old, errors| {
        immutable(new.get("addressType"), old.get("addressType"), &Path::new("addressType"), errors);
    },
    columns: COLUMNS,
    lifecycle: Lifecycle::COUNTED,
    ..Rules::STANDARD
};

fn default(slice: &mut Value, _: &str) {
    for port in slice.list_at_mut(&["ports"]) {
        port.set_default(&["name"], "");
        port.set_default(&["protocol"], "TCP");
    }
}

fn validate(slice: &Value, errors: &mut ErrorList) {
    let kind = slice.str_at(&["addressType"]);
    let path = Path::new("addressType");
    match kind {
        "" => errors.required(&path, ""),
        "FQDN" | "IPv4" | "IPv6" => {}
        other => errors.not_supported(&path, other, &["FQDN", "IPv4", "IPv6"]),
    }
    let (ports, path) = (slice.list_at(&["ports"]), Path::new("ports"));
    if ports.len() > PORTS_MAX {
        errors.too_many(&path, ports.len(), PORTS_MAX);
    }
    for (index, port) in ports.iter().enumerate() {
        validate_port(port, &ports[..index], &path.index(index), errors);
    }
    let (endpoints, path) = (slice.list_at(&["endpoints"]), Path::new("endpoints"));
    if endpoints.len() > ENDPOINTS_MAX {
        errors.too_many(&path, endpoints.len(), ENDPOINTS_MAX);
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        validate_endpoint(endpoint, kind, &path.index(index), errors);
    }
}

fn validate_port(port: &Value, before: &[Value], path: &Path<'_>, errors: &mut ErrorList) {
    let name = port.str_at(&["name"]);
    if !name.is_empty() {
        errors.invalid_each(&path.child("name"), name, names::dns1123_label(name));
    }
    if before.iter().any(|other| other.str_at(&["name"]) == name) {
        errors.duplicate(&path.child("name"), name);
    }
    if let Some(number) = port.int_at(&["port"]) {
        errors.invalid_each(&path.child("port"), number, names::port_number(number));
    }
    validate_protocol(port.get("protocol"), &path.child("protocol"), errors);
    let protocol = port.str_at(&["appProtocol"]);
    if !protocol.is_empty() {
        errors.invalid_each(&path.child("appProtocol"), protocol, names::qualified_name(protocol));
    }
}

fn validate_endpoint(endpoint: &Value, kind: &str, path: &Path<'_>, errors: &mut ErrorList) {
    let (addresses, addresses_path) = (endpoint.list_at(&["addresses"]), path.child("addresses"));
    if addresses.is_empty() {
        errors.required(&addresses_path, "must contain at least 1 address");
    } else if addresses.len() > ADDRESSES_MAX {
        errors.too_many(&addresses_path, addresses.len(), ADDRESSES_MAX);
    }
    for (index, address) in addresses.iter().enumerate() {
        let (address, path) = (address.as_str().unwrap_or_default(), addresses_path.index(index));
        let is_six = address.contains(':');
        match kind {
            "FQDN" => errors.invalid_each(&path, address, names::dns1123_subdomain(address)),
            "IPv4" if is_six => errors.invalid(&path, address, "must be an IPv4 address"),
            "IPv6" if !is_six => errors.invalid(&path, address, "must be an IPv6 address"),
            _ => validate_endpoint_ip(address, &path, errors),
        }
    }
    let checks: [(&str, names::Check); 2] =
        [("hostname", names::dns1123_label), ("nodeName", names::dns1123_subdomain)];
    for (member, check) in checks {
        if let Some(name) = endpoint.get(member).as_str() {
            errors.invalid_each(&path.child(member), name, check(name));
        }
    }
}

fn ports(slice: &Value) -> Vec<String> {
    let shown = |port: &Value| match (port.int_at(&["port"]), port.get("name").as_str()) {
        (Some(number), _) => number.to_string(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => "*".into(),
    };
    slice.list_at(&["ports"]).iter().map(shown).collect()
}

fn addresses(slice: &Value) -> Vec<String> {
    let endpoints = slice.list_at(&["endpoints"]).iter();
    let addresses = endpoints.flat_map(|endpoint| endpoint.list_at(&["addresses"]));
    addresses.filter_map(Value::as_str).map(str::to_owned).collect()
}
