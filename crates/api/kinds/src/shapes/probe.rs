//! Probes and lifecycle hooks.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use super::network::validate_port;
use crate::object_meta::not_negative;

const HANDLERS: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc", "sleep"];

/// The three probes of a container.
pub fn validate_probes(container: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let (probe, path) = (container.get(name), path.child(name));
        if probe.is_null() {
            continue;
        }
        validate_probe(probe, &path, errors);
        let is_readiness = name == "readinessProbe";
        if !is_readiness && probe.int_at(&["successThreshold"]) != Some(1) {
            let threshold = probe.int_at(&["successThreshold"]).unwrap_or_default();
            errors.invalid(&path.child("successThreshold"), threshold, "must be 1");
        }
        let grace = probe.get("terminationGracePeriodSeconds");
        if is_readiness && !grace.is_null() {
            let detail = "must not be set for readinessProbes";
            errors.invalid(&path.child("terminationGracePeriodSeconds"), grace, detail);
        }
    }
}

fn validate_probe(probe: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    validate_handler(probe, None, path, errors);
    for name in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        not_negative(probe.get(name), &path.child(name), errors);
    }
    if let Some(grace) = probe.int_at(&["terminationGracePeriodSeconds"]).filter(|grace| *grace <= 0) {
        errors.invalid(&path.child("terminationGracePeriodSeconds"), grace, "must be greater than 0");
    }
}

/// `lifecycle` of a container.
pub fn validate_lifecycle(lifecycle: &Value, grace: Option<i64>, path: &Path<'_>, errors: &mut ErrorList) {
    for hook in ["postStart", "preStop"] {
        let handler = lifecycle.get(hook);
        if !handler.is_null() {
            validate_handler(handler, grace, &path.child(hook), errors);
        }
    }
}

fn validate_handler(handler: &Value, grace: Option<i64>, path: &Path<'_>, errors: &mut ErrorList) {
    let mut named = HANDLERS.iter().filter(|name| !handler.get(name).is_null());
    let Some(first) = named.next() else {
        errors.required(path, "must specify a handler type");
        return;
    };
    let (action, action_path) = (handler.get(first), path.child(first));
    match *first {
        "exec" if action.list_at(&["command"]).is_empty() => errors.required(&action_path.child("command"), ""),
        "httpGet" => validate_http_get(action, &action_path, errors),
        "tcpSocket" | "grpc" => validate_port(action.get("port"), &action_path.child("port"), errors),
        "sleep" => validate_sleep(action, grace, &action_path, errors),
        _ => {}
    }
    for name in named {
        errors.forbidden(&path.child(name), "may not specify more than 1 handler type");
    }
}

fn validate_http_get(action: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    if action.str_at(&["path"]).is_empty() {
        errors.required(&path.child("path"), "");
    }
    validate_port(action.get("port"), &path.child("port"), errors);
    let scheme = action.str_at(&["scheme"]);
    if !["HTTP", "HTTPS"].contains(&scheme) {
        errors.not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    for header in action.list_at(&["httpHeaders"]) {
        let name = header.str_at(&["name"]);
        errors.invalid_each(&path.child("httpHeaders"), name, names::http_header(name));
    }
}

fn validate_sleep(action: &Value, grace: Option<i64>, path: &Path<'_>, errors: &mut ErrorList) {
    let seconds = action.int_at(&["seconds"]).unwrap_or_default();
    let grace = grace.unwrap_or(seconds);
    if !(0..=grace).contains(&seconds) {
        let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.invalid(path, seconds, detail);
    }
}
