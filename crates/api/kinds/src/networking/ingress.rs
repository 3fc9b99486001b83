//! Ingresses: hosts and paths to Services.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use crate::column::{AGE, Column, NAME, string_or, text};
use crate::core::service::load_balancer;
use crate::rules::{Lifecycle, Rules};

const COLUMNS: &[Column] = &[
    NAME,
    text("Class", |ingress, _| string_or(ingress, &["spec", "ingressClassName"], "<none>")),
    text("Hosts", |ingress, _| hosts(ingress).into()),
    text("Address", |ingress, _| load_balancer(ingress).join(",").into()),
    text("Ports", |ingress, _| {
        Value::string(if ingress.list_at(&["spec", "tls"]).is_empty() { "80" } else { "80, 443" })
    }),
    AGE,
];

pub const RULES: Rules = Rules { validate, columns: COLUMNS, lifecycle: Lifecycle::COUNTED, ..Rules::STANDARD };

fn hosts(ingress: &Value) -> String {
    let rules = ingress.list_at(&["spec", "rules"]);
    let named: Vec<&str> = rules.iter().map(|rule| rule.str_at(&["host"])).filter(|host| !host.is_empty()).collect();
    match named.as_slice() {
        [] => "*".into(),
        [first @ .., _] if first.len() >= 3 => format!("{} + {} more...", named[..3].join(","), rules.len() - 3),
        few => few.join(","),
    }
}

fn validate(ingress: &Value, errors: &mut ErrorList) {
    let (spec, path) = (ingress.get("spec"), Path::new("spec"));
    let (rules, backend) = (spec.list_at(&["rules"]), spec.get("defaultBackend"));
    if rules.is_empty() && backend.is_null() {
        errors.invalid(&path, rules_shown(rules), "either `defaultBackend` or `rules` must be specified");
    }
    if !backend.is_null() {
        validate_backend(backend, &path.child("defaultBackend"), errors);
    }
    let list = path.child("rules");
    for (index, rule) in rules.iter().enumerate() {
        validate_rule(rule, &list.index(index), errors);
    }
    let list = path.child("tls");
    for (index, tls) in spec.list_at(&["tls"]).iter().enumerate() {
        let path = list.index(index);
        let hosts = path.child("hosts");
        for (index, host) in tls.list_at(&["hosts"]).iter().enumerate() {
            validate_host(host.as_str().unwrap_or_default(), &hosts.index(index), errors);
        }
        let secret = tls.str_at(&["secretName"]);
        if !secret.is_empty() {
            errors.invalid_each(&path.child("secretName"), secret, names::dns1123_subdomain(secret));
        }
    }
    let class = spec.get("ingressClassName");
    if let Some(class) = class.as_str() {
        errors.invalid_each(&path.child("ingressClassName"), class, names::dns1123_subdomain(class));
    }
}

fn rules_shown(rules: &[Value]) -> Value {
    Value::List(rules.to_vec())
}

fn validate_host(host: &str, path: &Path<'_>, errors: &mut ErrorList) {
    let messages = match host.contains('*') {
        true => names::wildcard_dns1123_subdomain(host),
        false => names::dns1123_subdomain(host),
    };
    errors.invalid_each(path, host, messages);
}

fn validate_rule(rule: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let host = rule.str_at(&["host"]);
    if !host.is_empty() {
        if host.parse::<std::net::IpAddr>().is_ok() {
            errors.invalid(&path.child("host"), host, "must be a DNS name, not an IP address");
        }
        validate_host(host, &path.child("host"), errors);
    }
    let http = rule.get("http");
    if http.is_null() {
        return;
    }
    let path = path.child("http.paths");
    if http.list_at(&["paths"]).is_empty() {
        errors.required(&path, "");
    }
    for (index, route) in http.list_at(&["paths"]).iter().enumerate() {
        let path = path.index(index);
        let place = route.str_at(&["path"]);
        match route.str_at(&["pathType"]) {
            "" => errors.required(&path.child("pathType"), "pathType must be specified"),
            "Exact" | "Prefix" if !place.starts_with('/') => {
                errors.invalid(&path.child("path"), place, "must be an absolute path");
            }
            "ImplementationSpecific" if !place.is_empty() && !place.starts_with('/') => {
                errors.invalid(&path.child("path"), place, "must be an absolute path");
            }
            "Exact" | "Prefix" | "ImplementationSpecific" => {}
            other => {
                let known = &["Exact", "ImplementationSpecific", "Prefix"];
                errors.not_supported(&path.child("pathType"), other, known);
            }
        }
        validate_backend(route.get("backend"), &path.child("backend"), errors);
    }
}

fn validate_backend(backend: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let (service, resource) = (backend.get("service"), backend.get("resource"));
    match (service.is_null(), resource.is_null()) {
        (false, false) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (true, true) => errors.required(path, "resource or service backend is required"),
        (true, false) => {}
        (false, true) => {
            let path = path.child("service");
            match service.str_at(&["name"]) {
                "" => errors.required(&path.child("name"), ""),
                name => errors.invalid_each(&path.child("name"), name, names::dns1123_label(name)),
            }
            let (name, number) = (service.str_at(&["port", "name"]), service.int_at(&["port", "number"]).unwrap_or(0));
            match (name, number) {
                ("", 0) => errors.required(&path, "port name or number is required"),
                ("", number) => {
                    errors.invalid_each(&path.child("port.number"), number, names::port_number(number));
                }
                (name, 0) => errors.invalid_each(&path.child("port.name"), name, names::port_name(name)),
                _ => errors.invalid(&path, "", "cannot set both port name & port number"),
            }
        }
    }
}
