//! A pod that names its node goes there or nowhere.

use crate::framework::{Check, Plugin, Rejection, Wake};
use crate::{NodeInfo, PodInfo, Snapshot};

pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _snapshot: &'a Snapshot) -> Option<Box<dyn Check + 'a>> {
        (!pod.node_name.is_empty()).then(|| Box::new(Named(&pod.node_name)) as Box<dyn Check>)
    }

    fn wakes(&self) -> &'static [Wake] {
        &[Wake::NodeAdded]
    }
}

struct Named<'a>(&'a str);

impl Check for Named<'_> {
    fn filter(&self, node: &NodeInfo) -> Vec<Rejection> {
        match node.name == self.0 {
            true => Vec::new(),
            false => vec![Rejection::lasting("node(s) didn't match the requested node name")],
        }
    }
}
