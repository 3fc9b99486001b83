//! Pods for which room is being made, by the node where it is made: others of less importance must not take it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::pod::{PodInfo, PodKey};

#[derive(Clone, Debug, Default)]
pub struct Nominations {
    by_node: HashMap<String, Vec<Arc<PodInfo>>>,
    node_of: HashMap<PodKey, String>,
    /// Grows with every change.
    pub version: u64,
}

impl Nominations {
    /// Nominates a pod to a node, and to no other; an empty name ends it.
    pub fn set(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove(&pod.key);
        if node.is_empty() {
            return;
        }
        self.version += 1;
        self.node_of.insert(pod.key.clone(), node.to_owned());
        self.by_node.entry(node.to_owned()).or_default().push(pod);
    }

    pub fn remove(&mut self, key: &PodKey) {
        let Some(node) = self.node_of.remove(key) else { return };
        self.version += 1;
        if let Some(pods) = self.by_node.get_mut(&node) {
            pods.retain(|pod| pod.key != *key);
            if pods.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.by_node.is_empty()
    }

    /// The nodes that pods are nominated to.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        self.by_node.keys().map(String::as_str)
    }

    pub fn node_of(&self, key: &PodKey) -> Option<&str> {
        self.node_of.get(key).map(String::as_str)
    }

    pub fn at(&self, node: &str) -> &[Arc<PodInfo>] {
        self.by_node.get(node).map(Vec::as_slice).unwrap_or_default()
    }

    /// Those to which `pod` has to yield on the node.
    pub fn before<'a>(&'a self, pod: &'a PodInfo, node: &str) -> impl Iterator<Item = &'a Arc<PodInfo>> {
        self.at(node).iter().filter(|other| other.priority >= pod.priority && other.uid != pod.uid)
    }
}
