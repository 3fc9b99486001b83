//! Queries of the kubelet API, and the containers they are about.

use std::sync::Arc;

use coracle_podlife::Instance;
use coracle_reconcile::ViewExt;
use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;

use super::{Answer, text};
use crate::node_context::{NodeContext, uid_of};
use crate::observe::observe;

/// Decoded parameters, in their order.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub fn of(text: &str) -> Query {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Query(pairs.collect())
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    pub fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(known, _)| known == key).map(|(_, value)| value.clone()).collect()
    }

    /// `true` and `1` are yes, under either of two names: the API server's and the kubelet's own.
    pub fn is_set(&self, names: [&str; 2]) -> bool {
        names.into_iter().any(|name| matches!(self.get(name), Some("true" | "1")))
    }

    pub fn number(&self, key: &str) -> Result<Option<i64>, Answer> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| text(StatusCode::BAD_REQUEST, &format!("invalid {key}: {value}\n")))
    }
}

pub(super) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut place = 0;
    while place < bytes.len() {
        let hex = bytes.get(place + 1..place + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match (bytes[place], hex.and_then(|pair| u8::from_str_radix(pair, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                place += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        place += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(crate) fn find_pod(node: &NodeContext, namespace: &str, name: &str) -> Result<Arc<Pod>, Answer> {
    let pod = node
        .view
        .get_as::<Pod>(namespace, name)
        .filter(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(&node.options.node_name));
    pod.ok_or_else(|| text(StatusCode::NOT_FOUND, &format!("pod \"{name}\" does not exist\n")))
}

/// All lives of a container of the pod, the newest first.
pub(crate) async fn instances(node: &NodeContext, pod: &Pod, container: &str) -> Result<Vec<Instance>, Answer> {
    let observed = observe(node.runtime.as_ref(), &node.options.runtime_name, uid_of(pod)).await;
    let observed = observed.map_err(|status| text(StatusCode::INTERNAL_SERVER_ERROR, status.message()))?;
    Ok(observed.instances.into_iter().filter(|instance| instance.name == container).collect())
}

/// The container as it runs now.
pub(crate) async fn running(node: &NodeContext, pod: &Pod, container: &str) -> Result<Instance, Answer> {
    let newest = instances(node, pod, container).await?.into_iter().next();
    newest
        .filter(Instance::is_running)
        .ok_or_else(|| text(StatusCode::NOT_FOUND, &format!("container not found (\"{container}\")\n")))
}
