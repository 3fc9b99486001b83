//! A node as scheduling sees it, with the pods that are on it and what they use.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::pod::{HostPort, PodInfo, PodKey};
use crate::resources::Resources;

#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub name: String,
    /// Whether the API knows it; others only carry pods that were bound to them.
    pub known: bool,
    pub labels: Vec<(String, String)>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    pub pods_max: i64,
    /// Name and size of every image that is there.
    pub images: Vec<(String, i64)>,
    pub requested: Resources,
    /// What the pods are taken to use, for scores.
    pub assumed: Resources,
    pub pods: Vec<Arc<PodInfo>>,
}

impl NodeInfo {
    /// Takes over everything that the object says, and leaves the pods.
    pub fn update(&mut self, node: &Node) {
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.clone().unwrap_or_default();
        self.name = node.metadata.name.clone().unwrap_or_default();
        self.labels = node.metadata.labels.clone().unwrap_or_default().into_iter().collect();
        self.taints = spec.taints.unwrap_or_default();
        self.unschedulable = spec.unschedulable.unwrap_or(false);
        let allocatable = status.allocatable.unwrap_or_default();
        self.allocatable = Resources::from_list(&allocatable);
        self.pods_max = allocatable
            .get("pods")
            .and_then(|text| text.0.parse::<coracle_meta::quantity::Quantity>().ok())
            .map_or(0, |quantity| quantity.units());
        self.images = status
            .images
            .into_iter()
            .flatten()
            .flat_map(|image| {
                let size = image.size_bytes.unwrap_or(0);
                image.names.unwrap_or_default().into_iter().map(move |name| (name, size))
            })
            .collect();
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.assumed.add(&pod.assumed);
        self.pods.push(pod);
    }

    pub fn remove(&mut self, key: &PodKey) {
        if let Some(index) = self.pods.iter().position(|pod| pod.key == *key) {
            let pod = self.pods.swap_remove(index);
            self.requested.subtract(&pod.requests);
            self.assumed.subtract(&pod.assumed);
        }
    }

    /// Whether a pod on this node holds the port, or one that overlaps it.
    pub fn holds_port(&self, wanted: &HostPort) -> bool {
        let overlaps = |held: &HostPort| {
            held.port == wanted.port
                && held.protocol == wanted.protocol
                && (held.ip == wanted.ip || held.ip.is_empty() || wanted.ip.is_empty())
        };
        self.pods.iter().any(|pod| pod.host_ports.iter().any(overlaps))
    }
}
