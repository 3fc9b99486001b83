//! What a pod can tell about itself: fields and resources, for variables and for downward API files.

use std::collections::BTreeMap;

use coracle_meta::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

/// The value of a `fieldPath`.
pub(crate) fn field_value(pod: &Pod, node_ip: &str, pod_ips: &[String], path: &str) -> Result<String, String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &pod.metadata.labels,
            "metadata.annotations" => &pod.metadata.annotations,
            _ => return Err(format!("fieldPath \"{path}\" does not support subscript")),
        };
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => text(&pod.metadata.name),
        "metadata.namespace" => text(&pod.metadata.namespace),
        "metadata.uid" => text(&pod.metadata.uid),
        "metadata.labels" => lines(pod.metadata.labels.as_ref()),
        "metadata.annotations" => lines(pod.metadata.annotations.as_ref()),
        "spec.nodeName" => text(&spec.node_name),
        "spec.serviceAccountName" => text(&spec.service_account_name),
        "status.hostIP" | "status.hostIPs" => node_ip.to_owned(),
        "status.podIP" => pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => pod_ips.join(","),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// `metadata.labels['key']` in its two parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// `key="value"` lines, ordered by key, the value quoted as Go quotes it.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let quoted = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quote(value)));
    quoted.collect::<Vec<_>>().join("\n")
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other if other.is_control() => out.push_str(&format!("\\x{:02x}", other as u32)),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// The value of a `resourceFieldRef`, divided and rounded up. A limit that is not set is what the node can give.
pub(crate) fn resource_value(
    pod: &Pod,
    container: &Container,
    reference: &ResourceFieldSelector,
    allocatable: &BTreeMap<String, String>,
) -> Result<String, String> {
    let container = match reference.container_name.as_deref().filter(|name| !name.is_empty()) {
        None => container.clone(),
        Some(name) => match coracle_podlife::find_container(pod, name) {
            Some((_, container)) => container,
            None => return Err(format!("container {name} not found")),
        },
    };
    let resources = container.resources.clone().unwrap_or_default();
    let (list, resource, is_limit) = match reference.resource.split_once('.') {
        Some(("limits", resource)) => (resources.limits, resource, true),
        Some(("requests", resource)) => (resources.requests.or(resources.limits), resource, false),
        _ => return Err(format!("unsupported container resource : {}", reference.resource)),
    };
    let set = list.as_ref().and_then(|list| list.get(resource)).map(|quantity| quantity.0.clone());
    let fallback = || if is_limit { allocatable.get(resource).cloned() } else { None };
    let amount = quantity(&set.or_else(fallback).unwrap_or_else(|| "0".to_owned()));
    let divisor = reference.divisor.as_ref().map(|divisor| quantity(&divisor.0)).filter(|nanos| *nanos > 0);
    let divisor = divisor.unwrap_or(1_000_000_000);
    Ok(((amount + divisor - 1) / divisor).to_string())
}

/// Billionths; what does not parse counts as nothing, the API server has checked it.
pub(crate) fn quantity(text: &str) -> i128 {
    text.parse::<Quantity>().map_or(0, |quantity| quantity.nanos())
}
