//! Two pods cannot hold the same port of a node.

use std::sync::Arc;

use crate::framework::{Change, Filter, Kind, Plugin, Point, PreFilter, Status};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, Shape};
use crate::snapshot::Snapshot;

pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn pre_filter(&self, pod: &PodInfo, _cluster: &Snapshot) -> PreFilter {
        match pod.host_ports.is_empty() {
            true => PreFilter::Skip,
            false => PreFilter::Check(Box::new(Ports(pod.shape.clone()))),
        }
    }

    fn wakes(&self) -> &'static [Kind] {
        &[Kind::NodeAdded, Kind::PodGone]
    }

    fn hint(&self, pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::NodeAdded(_) => true,
            Change::PodGone(gone) => {
                let held = |wanted| gone.host_ports.iter().any(|held| held.overlaps(wanted));
                gone.is_assigned() && pod.host_ports.iter().any(held)
            }
            _ => false,
        }
    }
}

struct Ports(Arc<Shape>);

impl Filter for Ports {
    fn filter(&self, _at: usize, node: &NodeInfo) -> Option<Status> {
        let taken = self.0.host_ports.iter().any(|port| node.holds_port(port));
        taken.then(|| Status::new("node(s) didn't have free ports for the requested pod ports"))
    }
}
