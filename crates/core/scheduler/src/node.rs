//! A node as scheduling sees it, with the pods that are on it and what they use.

use std::sync::Arc;

use coracle_meta::quantity::Quantity;

use crate::pod::{HostPort, PodInfo, PodKey};
use crate::resources::Resources;
use crate::select::{Labels, Taint, label};
use crate::text::NodeText;

/// What the Node object says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    pub name: String,
    pub labels: Labels,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    pub pods_max: i64,
    /// Name and size of every image that is there.
    pub images: Vec<(String, i64)>,
    pub declared_features: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// Its own as long as the node is there.
    pub serial: u64,
    pub facts: Arc<NodeFacts>,
    pub requested: Resources,
    /// CPU and memory that the pods are taken to use, for scores.
    pub assumed: (i64, i64),
    pub pods: Vec<Arc<PodInfo>>,
    /// Those with terms about other pods.
    pub affine: Vec<Arc<PodInfo>>,
    /// The least of its pods' priorities; the largest number where there are none.
    pub least_priority: i32,
}

impl Default for NodeInfo {
    fn default() -> NodeInfo {
        NodeInfo {
            serial: 0,
            facts: Arc::default(),
            requested: Resources::default(),
            assumed: (0, 0),
            pods: Vec::new(),
            affine: Vec::new(),
            least_priority: i32::MAX,
        }
    }
}

impl std::ops::Deref for NodeInfo {
    type Target = NodeFacts;

    fn deref(&self) -> &NodeFacts {
        &self.facts
    }
}

impl NodeFacts {
    pub fn new(text: NodeText) -> NodeFacts {
        let pods = text.status.allocatable.get("pods").and_then(|text| text.0.parse::<Quantity>().ok());
        let images = text.status.images.into_iter().flat_map(|image| {
            let size = image.size_bytes;
            image.names.into_iter().map(move |name| (name, size))
        });
        NodeFacts {
            name: text.metadata.name,
            labels: text.metadata.labels.into_iter().collect(),
            taints: text.spec.taints,
            unschedulable: text.spec.unschedulable,
            allocatable: Resources::from_list(&text.status.allocatable),
            pods_max: pods.map_or(0, |quantity| quantity.units()),
            images: images.collect(),
            declared_features: text.status.declared_features,
        }
    }

    /// From the object's JSON; `None` where it is no node at all.
    pub fn read(json: &[u8]) -> Option<NodeFacts> {
        serde_json::from_slice(json).ok().map(NodeFacts::new)
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        label(&self.labels, key)
    }

    /// The region and zone by which nodes are taken in turn.
    pub fn zone(&self) -> (&str, &str) {
        let either = |old, new| self.label(old).or_else(|| self.label(new)).unwrap_or_default();
        (
            either("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
            either("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
        )
    }
}

impl NodeInfo {
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.hold(&pod.requests);
        self.assumed.0 = self.assumed.0.wrapping_add(pod.assumed.0);
        self.assumed.1 = self.assumed.1.wrapping_add(pod.assumed.1);
        if !pod.terms.is_empty() {
            self.affine.push(pod.clone());
        }
        self.least_priority = self.least_priority.min(pod.priority);
        self.pods.push(pod);
    }

    pub fn remove(&mut self, key: &PodKey) -> Option<Arc<PodInfo>> {
        let index = self.pods.iter().position(|pod| pod.key == *key)?;
        let pod = self.pods.swap_remove(index);
        self.requested.release(&pod.requests);
        self.assumed.0 = self.assumed.0.wrapping_sub(pod.assumed.0);
        self.assumed.1 = self.assumed.1.wrapping_sub(pod.assumed.1);
        self.affine.retain(|affine| affine.key != *key);
        if pod.priority == self.least_priority {
            self.least_priority = self.pods.iter().map(|pod| pod.priority).min().unwrap_or(i32::MAX);
        }
        Some(pod)
    }

    /// Whether a pod on this node holds the port, or one that overlaps it.
    pub fn holds_port(&self, wanted: &HostPort) -> bool {
        self.pods.iter().any(|pod| pod.host_ports.iter().any(|held| held.overlaps(wanted)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Shapes;

    #[test]
    fn the_least_priority_is_that_of_the_pods_that_are_there() {
        let mut shapes = Shapes::default();
        let mut node = NodeInfo::default();
        let pods = [("a", 5), ("b", -1), ("c", -1)].map(|(name, priority)| {
            let text = format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"priority":{priority}}}}}"#);
            PodInfo::read(text.as_bytes(), &mut shapes).unwrap()
        });
        let mut seen = vec![node.least_priority];
        for pod in &pods {
            node.add(pod.clone());
            seen.push(node.least_priority);
        }
        for pod in pods.iter().rev() {
            node.remove(&pod.key);
            seen.push(node.least_priority);
        }
        assert_eq!(seen, [i32::MAX, 5, -1, -1, -1, 5, i32::MAX]);
    }
}
