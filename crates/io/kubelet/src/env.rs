//! The environment of a container, and the expansion of `$(NAME)` in it, in commands and in arguments.

use std::collections::BTreeMap;

use coracle_reconcile::{View, ViewExt};
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, EnvVarSource, Pod, Secret, Service};

use crate::fields::{field_value, resource_value};

/// A container cannot be described; the message is what users of Kubernetes read.
pub(crate) type ConfigError = String;

/// What environments are made from.
pub(crate) struct Sources<'a> {
    pub view: &'a dyn View,
    pub pod: &'a Pod,
    pub node_ip: &'a str,
    pub pod_ips: &'a [String],
    /// Allocatable of the node, for limits that are not set.
    pub allocatable: &'a BTreeMap<String, String>,
}

/// Names and values, in the order of the container's list after what it takes from elsewhere.
pub(crate) fn environment(sources: &Sources<'_>, container: &Container) -> Result<Vec<(String, String)>, ConfigError> {
    let namespace = namespace(sources.pod);
    let services = service_variables(sources);
    let mut taken: Vec<(String, String)> = Vec::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            match sources.view.get_as::<ConfigMap>(namespace, &reference.name) {
                Some(map) => {
                    add_all(&mut taken, prefix, map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone())))
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap \"{}\" not found", reference.name)),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match sources.view.get_as::<Secret>(namespace, &reference.name) {
                Some(secret) => {
                    let data = secret.data.iter().flatten();
                    let pairs = data.map(|(k, v)| (k.clone(), String::from_utf8_lossy(&v.0).into_owned()));
                    add_all(&mut taken, prefix, pairs);
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("secret \"{}\" not found", reference.name)),
            }
        }
    }
    let mut known: BTreeMap<String, String> = services.clone();
    known.extend(taken.iter().cloned());
    for variable in container.env.iter().flatten() {
        if let Some(value) = value_of(sources, container, variable, &known)? {
            known.insert(variable.name.clone(), value.clone());
            set(&mut taken, &variable.name, value);
        }
    }
    for (name, value) in services {
        if !taken.iter().any(|(taken, _)| *taken == name) {
            taken.push((name, value));
        }
    }
    Ok(taken)
}

/// `$(NAME)` becomes the value of NAME; unknown names stay as they are written, `$$` is a dollar sign.
pub(crate) fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inner) = tail.strip_prefix('(')
            && let Some(end) = inner.find(')')
        {
            let name = &inner[..end];
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = &inner[end + 1..];
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

fn value_of(
    sources: &Sources<'_>,
    container: &Container,
    variable: &EnvVar,
    known: &BTreeMap<String, String>,
) -> Result<Option<String>, ConfigError> {
    match &variable.value_from {
        Some(source) => from_source(sources, container, source),
        None => {
            let text = variable.value.as_deref().unwrap_or_default();
            Ok(Some(expand(text, |name| known.get(name).cloned())))
        }
    }
}

fn from_source(
    sources: &Sources<'_>,
    container: &Container,
    source: &EnvVarSource,
) -> Result<Option<String>, ConfigError> {
    let namespace = namespace(sources.pod);
    if let Some(reference) = &source.field_ref {
        return field_value(sources.pod, sources.node_ip, sources.pod_ips, &reference.field_path).map(Some);
    }
    if let Some(reference) = &source.resource_field_ref {
        return resource_value(sources.pod, container, reference, sources.allocatable).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional == Some(true);
        let Some(map) = sources.view.get_as::<ConfigMap>(namespace, &reference.name) else {
            return absent(optional, format!("configmap \"{}\" not found", reference.name));
        };
        let value = map.data.as_ref().and_then(|data| data.get(&reference.key)).cloned();
        return match value {
            Some(value) => Ok(Some(value)),
            None => absent(
                optional,
                format!("couldn't find key {} in ConfigMap {namespace}/{}", reference.key, reference.name),
            ),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional == Some(true);
        let Some(secret) = sources.view.get_as::<Secret>(namespace, &reference.name) else {
            return absent(optional, format!("secret \"{}\" not found", reference.name));
        };
        let value = secret.data.as_ref().and_then(|data| data.get(&reference.key));
        return match value {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None => absent(
                optional,
                format!("couldn't find key {} in Secret {namespace}/{}", reference.key, reference.name),
            ),
        };
    }
    Err("environment variable source is not supported".to_owned())
}

fn absent(optional: bool, message: String) -> Result<Option<String>, ConfigError> {
    if optional { Ok(None) } else { Err(message) }
}

/// What points at the services of the pod's namespace, and at the API server always.
fn service_variables(sources: &Sources<'_>) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    let namespace = namespace(sources.pod);
    let links = sources.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    if let Some(master) = sources.view.get_as::<Service>("default", "kubernetes") {
        add_service(&mut variables, &master);
    }
    if links {
        for service in sources.view.list_as::<Service>(Some(namespace)) {
            add_service(&mut variables, &service);
        }
    }
    variables
}

fn add_service(variables: &mut BTreeMap<String, String>, service: &Service) {
    let Some(spec) = &service.spec else { return };
    let ip = spec.cluster_ip.as_deref().unwrap_or_default();
    let Some(first) = spec.ports.as_ref().and_then(|ports| ports.first()) else { return };
    if ip.is_empty() || ip == "None" {
        return;
    }
    let shown_ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let name = shell_name(service.metadata.name.as_deref().unwrap_or_default());
    variables.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
    variables.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for (place, port) in spec.ports.iter().flatten().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{shown_ip}:{}", protocol.to_lowercase(), port.port);
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            variables.insert(format!("{name}_SERVICE_PORT_{}", shell_name(port_name)), port.port.to_string());
        }
        if place == 0 {
            variables.insert(format!("{name}_PORT"), url.clone());
        }
        let prefix = format!("{name}_PORT_{}_{protocol}", port.port);
        variables.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
        variables.insert(format!("{prefix}_PORT"), port.port.to_string());
        variables.insert(format!("{prefix}_ADDR"), ip.to_owned());
        variables.insert(prefix, url);
    }
}

fn shell_name(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

fn add_all(into: &mut Vec<(String, String)>, prefix: &str, pairs: impl Iterator<Item = (String, String)>) {
    for (name, value) in pairs {
        set(into, &format!("{prefix}{name}"), value);
    }
}

fn set(into: &mut Vec<(String, String)>, name: &str, value: String) {
    match into.iter_mut().find(|(taken, _)| taken == name) {
        Some(entry) => entry.1 = value,
        None => into.push((name.to_owned(), value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_expand_as_in_kubernetes() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, expected) in
            [("$(A)", "1"), ("x$(A)y$(B)", "x1y$(B)"), ("$$(A)", "$(A)"), ("$A $", "$A $"), ("$(A", "$(A")]
        {
            assert_eq!(expand(text, lookup), expected);
        }
    }
}
