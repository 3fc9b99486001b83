//! A pod that needs a feature of the kubelet goes only where the node declares it.

use std::sync::Arc;

use crate::framework::{Change, Filter, Kind, Plugin, Point, PreFilter, Status};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, Shape};
use crate::snapshot::Snapshot;

pub struct NodeDeclaredFeatures;

impl Plugin for NodeDeclaredFeatures {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatures"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn pre_filter(&self, pod: &PodInfo, _cluster: &Snapshot) -> PreFilter {
        match pod.features.is_empty() {
            true => PreFilter::Skip,
            false => PreFilter::Check(Box::new(Needs(pod.shape.clone()))),
        }
    }

    fn wakes(&self) -> &'static [Kind] {
        &[Kind::NodeAdded, Kind::NodeUpdated, Kind::PodUpdated]
    }

    fn hint(&self, pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::NodeAdded(_) => true,
            Change::NodeUpdated { old, new } => old.declared_features != new.declared_features,
            Change::PodUpdated { old, new } => new.uid == pod.uid && old.features != new.features,
            _ => false,
        }
    }
}

struct Needs(Arc<Shape>);

impl Filter for Needs {
    fn filter(&self, _at: usize, node: &NodeInfo) -> Option<Status> {
        let declared = |need: &&str| node.declared_features.iter().any(|feature| feature == need);
        (!self.0.features.iter().all(declared)).then(|| Status::lasting("node(s) didn't match Pod's required features"))
    }
}
