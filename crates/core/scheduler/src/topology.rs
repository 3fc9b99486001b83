//! Topologies: which value of a label each node has, as small numbers. There is one column for each key, kept up to date
//! with the nodes and shared by everything that counts by domain.

use std::collections::HashMap;
use std::sync::Arc;

use crate::node::NodeInfo;

/// A node without the label.
pub const NOWHERE: u32 = u32::MAX;

/// Keys for which a column is kept; columns of further ones are made whenever they are asked for.
const KEYS_MAX: usize = 64;

/// The domain of each place.
pub type Domains = Arc<Vec<u32>>;

#[derive(Clone, Debug, Default)]
struct Topology {
    domains: Domains,
    values: HashMap<String, u32>,
}

impl Topology {
    fn over(key: &str, nodes: &[NodeInfo]) -> Topology {
        let mut topology = Topology::default();
        let domains = nodes.iter().map(|node| topology.number(node.label(key))).collect();
        topology.domains = Arc::new(domains);
        topology
    }

    fn number(&mut self, value: Option<&str>) -> u32 {
        let Some(value) = value else { return NOWHERE };
        if let Some(domain) = self.values.get(value) {
            return *domain;
        }
        let domain = self.values.len() as u32;
        self.values.insert(value.to_owned(), domain);
        domain
    }
}

#[derive(Clone, Debug, Default)]
pub struct Topologies {
    by_key: HashMap<String, Topology>,
    /// Grows whenever a column of whatever key may have changed.
    pub version: u64,
}

impl Topologies {
    /// Keeps a column from now on.
    pub fn track(&mut self, key: &str, nodes: &[NodeInfo]) {
        if self.by_key.len() < KEYS_MAX && !self.by_key.contains_key(key) {
            self.by_key.insert(key.to_owned(), Topology::over(key, nodes));
        }
    }

    pub fn domains(&self, key: &str, nodes: &[NodeInfo]) -> Domains {
        match self.by_key.get(key) {
            Some(topology) => topology.domains.clone(),
            None => Topology::over(key, nodes).domains,
        }
    }

    /// Takes in a node that came last in the row.
    pub fn add(&mut self, node: &NodeInfo) {
        self.version += 1;
        for (key, topology) in &mut self.by_key {
            let domain = topology.number(node.label(key));
            Arc::make_mut(&mut topology.domains).push(domain);
        }
    }

    /// Takes in new labels of a node. False where domains may have been numbered anew, as they are when many values have
    /// come and gone, and whenever a column is made that is not kept: then nothing counted by domain is good any more.
    pub fn change(&mut self, at: usize, nodes: &[NodeInfo]) -> bool {
        self.version += 1;
        let mut same = self.by_key.len() < KEYS_MAX;
        for (key, topology) in &mut self.by_key {
            let domain = topology.number(nodes[at].label(key));
            if topology.domains[at] != domain {
                Arc::make_mut(&mut topology.domains)[at] = domain;
            }
            if topology.values.len() > 2 * nodes.len() + 64 {
                *topology = Topology::over(key, nodes);
                same = false;
            }
        }
        same
    }

    /// Forgets a node; those behind it move up.
    pub fn remove(&mut self, at: usize) {
        self.version += 1;
        for topology in self.by_key.values_mut() {
            Arc::make_mut(&mut topology.domains).remove(at);
        }
    }
}

/// Adds to a row that grows as needed.
pub fn bump(row: &mut Vec<i64>, at: u32, by: i64) {
    let at = at as usize;
    if at >= row.len() {
        row.resize(at + 1, 0);
    }
    row[at] += by;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::NodeFacts;

    fn node(zone: &str) -> NodeInfo {
        let labels = if zone.is_empty() { Vec::new() } else { vec![("zone".to_owned(), zone.to_owned())] };
        NodeInfo { facts: Arc::new(NodeFacts { labels, ..NodeFacts::default() }), ..NodeInfo::default() }
    }

    #[test]
    fn a_column_follows_the_nodes() {
        let mut nodes = vec![node("a"), node("b"), node("")];
        let mut topologies = Topologies::default();
        topologies.track("zone", &nodes);
        let held = topologies.domains("zone", &nodes);
        nodes.push(node("b"));
        topologies.add(&nodes[3]);
        nodes[0] = node("b");
        assert!(topologies.change(0, &nodes));
        assert_eq!(*topologies.domains("zone", &nodes), [1, 1, NOWHERE, 1]);
        nodes.remove(1);
        topologies.remove(1);
        assert_eq!(*topologies.domains("zone", &nodes), [1, NOWHERE, 1]);
        assert_eq!(*held, [0, 1, NOWHERE], "what was handed out stays as it was");
    }

    #[test]
    fn values_that_are_gone_are_let_go() {
        let mut nodes = vec![node("a")];
        let mut topologies = Topologies::default();
        topologies.track("zone", &nodes);
        let renumbered = (0..100).filter(|turn| {
            nodes[0] = node(&format!("z{turn}"));
            !topologies.change(0, &nodes)
        });
        assert_eq!(renumbered.count(), 1);
        assert!(topologies.by_key["zone"].values.len() < 67);
    }

    #[test]
    fn a_key_beyond_the_bound_is_worked_out_each_time() {
        let nodes = vec![node("a")];
        let mut topologies = Topologies::default();
        (0..KEYS_MAX).for_each(|key| topologies.track(&format!("k{key}"), &nodes));
        topologies.track("zone", &nodes);
        assert_eq!(topologies.by_key.len(), KEYS_MAX);
        assert_eq!(*topologies.domains("zone", &nodes), [0]);
    }

    #[test]
    fn a_column_that_is_not_kept_may_be_numbered_anew() {
        let mut nodes = vec![node("a"), node("b")];
        let mut topologies = Topologies::default();
        (0..KEYS_MAX).for_each(|key| topologies.track(&format!("k{key}"), &nodes));
        assert_eq!(*topologies.domains("zone", &nodes), [0, 1]);
        nodes[0] = node("b");
        assert!(!topologies.change(0, &nodes));
        assert_eq!(*topologies.domains("zone", &nodes), [0, 0], "the other node has another number than before");
    }
}
