//! Endpoints, the old form of what EndpointSlices hold.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use crate::column::{AGE, Column, NAME, text};
use crate::rules::Rules;
use crate::shapes::fill;
use crate::shapes::network::{validate_endpoint_ip, validate_protocol};

const COLUMNS: &[Column] = &[NAME, text("Endpoints", |endpoints, _| shown(endpoints).into()), AGE];

pub const RULES: Rules = Rules { default, validate, columns: COLUMNS, ..Rules::STANDARD };

fn default(endpoints: &mut Value, _: &str) {
    for subset in endpoints.list_at_mut(&["subsets"]) {
        for port in subset.list_at_mut(&["ports"]) {
            fill(port, &["protocol"], "TCP");
        }
    }
}

fn validate(endpoints: &Value, errors: &mut ErrorList) {
    let path = Path::new("subsets");
    for (index, subset) in endpoints.list_at(&["subsets"]).iter().enumerate() {
        let path = path.index(index);
        let members = ["addresses", "notReadyAddresses"];
        if members.iter().all(|member| subset.list_at(&[member]).is_empty()) {
            errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for member in members {
            let path = path.child(member);
            for (index, address) in subset.list_at(&[member]).iter().enumerate() {
                validate_address(address, &path.index(index), errors);
            }
        }
        let ports = subset.list_at(&["ports"]);
        let path = path.child("ports");
        for (index, port) in ports.iter().enumerate() {
            validate_port(port, ports.len() > 1, &path.index(index), errors);
        }
    }
}

fn validate_address(address: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let checks: [(&str, names::Check); 2] =
        [("hostname", names::dns1123_label), ("nodeName", names::dns1123_subdomain)];
    for (member, check) in checks {
        let name = address.str_at(&[member]);
        if !name.is_empty() {
            errors.invalid_each(&path.child(member), name, check(name));
        }
    }
    validate_endpoint_ip(address.str_at(&["ip"]), &path.child("ip"), errors);
}

fn validate_port(port: &Value, is_one_of_many: bool, path: &Path<'_>, errors: &mut ErrorList) {
    match port.str_at(&["name"]) {
        "" if is_one_of_many => errors.required(&path.child("name"), ""),
        "" => {}
        name => errors.invalid_each(&path.child("name"), name, names::dns1123_label(name)),
    }
    let number = port.int_at(&["port"]).unwrap_or_default();
    errors.invalid_each(&path.child("port"), number, names::port_number(number));
    validate_protocol(port.get("protocol"), &path.child("protocol"), errors);
    let protocol = port.str_at(&["appProtocol"]);
    if !protocol.is_empty() {
        errors.invalid_each(&path.child("appProtocol"), protocol, names::qualified_name(protocol));
    }
}

fn shown(endpoints: &Value) -> String {
    let mut all = Vec::new();
    for subset in endpoints.list_at(&["subsets"]) {
        let addresses: Vec<&str> =
            subset.list_at(&["addresses"]).iter().map(|address| address.str_at(&["ip"])).collect();
        let ports = subset.list_at(&["ports"]);
        if ports.is_empty() {
            all.extend(addresses.iter().map(|address| (*address).to_owned()));
        }
        for port in ports {
            let port = port.int_at(&["port"]).unwrap_or_default();
            all.extend(addresses.iter().map(|address| match address.contains(':') {
                true => format!("[{address}]:{port}"),
                false => format!("{address}:{port}"),
            }));
        }
    }
    match all.as_slice() {
        [] if endpoints.list_at(&["subsets"]).is_empty() => "<none>".into(),
        [a, b, c, more @ ..] if !more.is_empty() => format!("{a},{b},{c} + {} more...", more.len()),
        few => few.join(","),
    }
}
