//! The domains of one topology key: which value of a label each node has, as small numbers.

use std::collections::HashMap;

use crate::node::NodeInfo;

/// A node without the label.
pub const NOWHERE: u32 = u32::MAX;

#[derive(Debug, Default)]
pub struct Topology {
    pub key: String,
    of_node: Vec<u32>,
    values: HashMap<String, u32>,
}

impl Topology {
    pub fn new(key: &str) -> Topology {
        Topology { key: key.to_owned(), ..Topology::default() }
    }

    pub fn over(key: &str, nodes: &[NodeInfo]) -> Topology {
        let mut topology = Topology::new(key);
        for (at, node) in nodes.iter().enumerate() {
            topology.observe(at, node);
        }
        topology
    }

    /// Takes in the node's label and tells its domain.
    pub fn observe(&mut self, at: usize, node: &NodeInfo) -> u32 {
        let domain = match node.label(&self.key) {
            None => NOWHERE,
            Some(value) => match self.values.get(value) {
                Some(domain) => *domain,
                None => {
                    let domain = self.values.len() as u32;
                    self.values.insert(value.to_owned(), domain);
                    domain
                }
            },
        };
        if at >= self.of_node.len() {
            self.of_node.resize(at + 1, NOWHERE);
        }
        self.of_node[at] = domain;
        domain
    }

    pub fn domain(&self, at: usize) -> u32 {
        self.of_node.get(at).copied().unwrap_or(NOWHERE)
    }

    /// How many values were seen.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
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
