//! Two pods cannot hold the same port of a node.

use crate::framework::{Check, Plugin, Rejection, Wake};
use crate::pod::HostPort;
use crate::{NodeInfo, PodInfo, Snapshot};

pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _snapshot: &'a Snapshot) -> Option<Box<dyn Check + 'a>> {
        (!pod.host_ports.is_empty()).then(|| Box::new(Ports(&pod.host_ports)) as Box<dyn Check>)
    }

    fn wakes(&self) -> &'static [Wake] {
        &[Wake::NodeAdded, Wake::PodGone]
    }
}

struct Ports<'a>(&'a [HostPort]);

impl Check for Ports<'_> {
    fn filter(&self, node: &NodeInfo) -> Vec<Rejection> {
        match self.0.iter().any(|port| node.holds_port(port)) {
            true => vec![Rejection::new("node(s) didn't have free ports for the requested pod ports")],
            false => Vec::new(),
        }
    }
}
