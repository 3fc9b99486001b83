//! Taints keep pods away that do not tolerate them: NoSchedule and NoExecute by rule, PreferNoSchedule by score.

use std::sync::Arc;

use crate::framework::{Change, Filter, Kind, Plugin, Point, PreFilter, Score, Status, scale};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, Shape};
use crate::select::{repelled, tolerates};
use crate::snapshot::Snapshot;

pub struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn pre_filter(&self, pod: &PodInfo, _cluster: &Snapshot) -> PreFilter {
        PreFilter::Check(Box::new(Tolerated(pod.shape.clone())))
    }

    fn pre_score(&self, pod: &PodInfo, _cluster: &Snapshot) -> Option<Box<dyn Score>> {
        Some(Box::new(Tolerated(pod.shape.clone())))
    }

    fn wakes(&self) -> &'static [Kind] {
        &[Kind::NodeAdded, Kind::NodeUpdated, Kind::PodUpdated]
    }

    fn hint(&self, pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::NodeAdded(node) => !repelled(&pod.tolerations, &node.taints),
            Change::NodeUpdated { old, new } => {
                repelled(&pod.tolerations, &old.taints) && !repelled(&pod.tolerations, &new.taints)
            }
            Change::PodUpdated { old, new } => new.uid == pod.uid && old.tolerations != new.tolerations,
            _ => false,
        }
    }
}

struct Tolerated(Arc<Shape>);

impl Filter for Tolerated {
    fn filter(&self, _at: usize, node: &NodeInfo) -> Option<Status> {
        repelled(&self.0.tolerations, &node.taints).then(|| Status::lasting("node(s) had untolerated taint(s)"))
    }
}

impl Score for Tolerated {
    fn score(&self, _at: usize, node: &NodeInfo) -> i64 {
        let disliked = node
            .taints
            .iter()
            .filter(|taint| taint.effect == "PreferNoSchedule" && !tolerates(&self.0.tolerations, taint));
        disliked.count() as i64
    }

    fn is_final(&self) -> bool {
        false
    }

    fn normalise(&self, scores: &mut [i64]) {
        scale(scores, true);
    }
}
