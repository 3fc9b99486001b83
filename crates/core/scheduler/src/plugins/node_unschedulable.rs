//! A cordoned node takes only pods that tolerate its taint.

use crate::framework::{Change, Filter, Kind, Plugin, Point, PreFilter, Status};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::select::{Taint, tolerates};
use crate::snapshot::Snapshot;

const TAINT: &str = "node.kubernetes.io/unschedulable";

pub struct NodeUnschedulable;

fn tolerant(pod: &PodInfo) -> bool {
    let taint = Taint { key: TAINT.into(), effect: "NoSchedule".into(), ..Taint::default() };
    tolerates(&pod.tolerations, &taint)
}

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn pre_filter(&self, pod: &PodInfo, _cluster: &Snapshot) -> PreFilter {
        if tolerant(pod) { PreFilter::Skip } else { PreFilter::Check(Box::new(Cordon)) }
    }

    fn wakes(&self) -> &'static [Kind] {
        &[Kind::NodeAdded, Kind::NodeUpdated, Kind::PodUpdated]
    }

    fn hint(&self, pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::NodeAdded(node) => !node.unschedulable,
            Change::NodeUpdated { old, new } => old.unschedulable && !new.unschedulable,
            Change::PodUpdated { new, .. } => new.uid == pod.uid && tolerant(new),
            _ => false,
        }
    }
}

struct Cordon;

impl Filter for Cordon {
    fn filter(&self, _at: usize, node: &NodeInfo) -> Option<Status> {
        node.unschedulable.then(|| Status::lasting("node(s) were unschedulable"))
    }
}
