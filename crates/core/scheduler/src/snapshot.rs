//! The cluster as scheduling sees it, kept up to date change by change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use crate::node::NodeInfo;
use crate::pod::{PodInfo, PodKey};

#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: BTreeMap<String, NodeInfo>,
    /// How many of them the API knows.
    known: usize,
    /// Where each pod counts.
    placed: HashMap<PodKey, String>,
    /// Labels of namespaces, for affinity terms that select by them.
    namespaces: BTreeMap<String, Vec<(String, String)>>,
    /// How many placed pods carry required anti-affinity, so that most cycles need not look for them.
    anti_affine: usize,
}

impl Snapshot {
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values().filter(|node| node.known)
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.nodes.get(name).filter(|node| node.known)
    }

    pub fn node_count(&self) -> usize {
        self.known
    }

    pub fn has_anti_affinity(&self) -> bool {
        self.anti_affine > 0
    }

    pub fn namespace_labels(&self, namespace: &str) -> &[(String, String)] {
        self.namespaces.get(namespace).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn set_node(&mut self, node: &Node) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let info = self.nodes.entry(name).or_default();
        self.known += usize::from(!info.known);
        info.known = true;
        info.update(node);
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        self.known -= usize::from(node.known);
        node.known = false;
        if node.pods.is_empty() {
            self.nodes.remove(name);
        }
    }

    pub fn set_namespace(&mut self, name: &str, labels: Vec<(String, String)>) {
        self.namespaces.insert(name.to_owned(), labels);
    }

    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// Counts a pod at `node`, and nowhere else.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.lift(&pod.key);
        self.anti_affine += usize::from(!pod.anti_affinity.is_empty());
        self.placed.insert(pod.key.clone(), node.to_owned());
        let info = self.nodes.entry(node.to_owned()).or_default();
        if info.name.is_empty() {
            info.name = node.to_owned();
        }
        info.add(pod);
    }

    /// Stops counting a pod.
    pub fn lift(&mut self, key: &PodKey) {
        let Some(name) = self.placed.remove(key) else { return };
        let Some(node) = self.nodes.get_mut(&name) else { return };
        let was = node.pods.iter().find(|pod| pod.key == *key);
        self.anti_affine -= usize::from(was.is_some_and(|pod| !pod.anti_affinity.is_empty()));
        node.remove(key);
        if node.pods.is_empty() && !node.known {
            self.nodes.remove(&name);
        }
    }

    /// Where a pod counts, if anywhere.
    pub fn place_of(&self, key: &PodKey) -> Option<&str> {
        self.placed.get(key).map(String::as_str)
    }
}
