//! The files of ConfigMaps, Secrets and the downward API.

use coracle_reconcile::ViewExt;
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, Container, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, SecretVolumeSource,
};

use super::atomic::{File, Payload};
use crate::act::Work;
use crate::fields::{field_value, resource_value};
use crate::node_context::{NodeContext, namespace_of};

const MODE_DEFAULT: i32 = 0o644;

/// Which keys to show, under which names, and whether anything may be missing.
pub(super) struct Selection<'a> {
    pub items: Option<&'a [KeyToPath]>,
    pub default_mode: Option<i32>,
    pub optional: bool,
}

pub(super) fn config_map(node: &NodeContext, pod: &Pod, source: &ConfigMapVolumeSource) -> Result<Payload, String> {
    let selection = Selection {
        items: source.items.as_deref(),
        default_mode: source.default_mode,
        optional: source.optional == Some(true),
    };
    config_map_named(node, pod, &source.name, &selection)
}

pub(super) fn config_map_named(
    node: &NodeContext,
    pod: &Pod,
    name: &str,
    selection: &Selection<'_>,
) -> Result<Payload, String> {
    let data = match node.view.get_as::<ConfigMap>(namespace_of(pod), name) {
        Some(map) => {
            let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
            let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
            text.chain(binary).collect()
        }
        None if selection.optional => Vec::new(),
        None => return Err(format!("configmap \"{name}\" not found")),
    };
    select(data, selection, "configmap")
}

pub(super) fn secret(node: &NodeContext, pod: &Pod, source: &SecretVolumeSource) -> Result<Payload, String> {
    let selection = Selection {
        items: source.items.as_deref(),
        default_mode: source.default_mode,
        optional: source.optional == Some(true),
    };
    secret_named(node, pod, source.secret_name.as_deref().unwrap_or_default(), &selection)
}

pub(super) fn secret_named(
    node: &NodeContext,
    pod: &Pod,
    name: &str,
    selection: &Selection<'_>,
) -> Result<Payload, String> {
    let data = match node.view.get_as::<Secret>(namespace_of(pod), name) {
        Some(secret) => secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect(),
        None if selection.optional => Vec::new(),
        None => return Err(format!("secret \"{name}\" not found")),
    };
    select(data, selection, "secret")
}

fn select(data: Vec<(String, Vec<u8>)>, selection: &Selection<'_>, kind: &str) -> Result<Payload, String> {
    let default_mode = selection.default_mode.unwrap_or(MODE_DEFAULT);
    let Some(items) = selection.items.filter(|items| !items.is_empty()) else {
        return Ok(data.into_iter().map(|(key, content)| (key, file(content, default_mode))).collect());
    };
    let mut payload = Payload::new();
    for item in items {
        match data.iter().find(|(key, _)| *key == item.key) {
            Some((_, content)) => {
                payload.insert(clean(&item.path), file(content.clone(), item.mode.unwrap_or(default_mode)));
            }
            None if selection.optional => {}
            None => return Err(format!("{kind} references non-existent {kind} key: {}", item.key)),
        }
    }
    Ok(payload)
}

pub(super) fn downward_api(
    work: &Work,
    items: &[DownwardAPIVolumeFile],
    default_mode: Option<i32>,
) -> Result<Payload, String> {
    let mut payload = Payload::new();
    for item in items {
        let node = &work.node;
        let text = if let Some(reference) = &item.field_ref {
            field_value(&work.pod, &node.options.node_ip, &work.pod_ips, &reference.field_path)?
        } else if let Some(reference) = &item.resource_field_ref {
            resource_value(&work.pod, &Container::default(), reference, &node.allocatable)?
        } else {
            continue;
        };
        let mode = item.mode.or(default_mode).unwrap_or(MODE_DEFAULT);
        payload.insert(clean(&item.path), file(text.into_bytes(), mode));
    }
    Ok(payload)
}

pub(super) fn file(content: Vec<u8>, mode: i32) -> File {
    File { content, mode: u32::try_from(mode).unwrap_or(0o644), owner: None }
}

pub(super) fn clean(path: &str) -> String {
    path.trim_start_matches("./").to_owned()
}
