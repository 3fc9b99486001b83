//! A pod that names its node goes there or nowhere.

use std::sync::Arc;

use crate::framework::{Change, Filter, Kind, Plugin, Point, PreFilter, Status};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn pre_filter(&self, pod: &PodInfo, _cluster: &Snapshot) -> PreFilter {
        match pod.node_name.is_empty() {
            true => PreFilter::Skip,
            false => PreFilter::Check(Box::new(Named(pod.node_name.clone()))),
        }
    }

    fn wakes(&self) -> &'static [Kind] {
        &[Kind::NodeAdded]
    }

    fn hint(&self, pod: &PodInfo, change: &Change) -> bool {
        matches!(change, Change::NodeAdded(node) if *node.name == *pod.node_name)
    }
}

struct Named(Arc<str>);

impl Filter for Named {
    fn filter(&self, _at: usize, node: &NodeInfo) -> Option<Status> {
        (*node.name != *self.0).then(|| Status::lasting("node(s) didn't match the requested node name"))
    }
}
