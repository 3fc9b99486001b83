//! What a plugin is. A plugin looks at a pod once and, where it has anything to say, hands back a check that then
//! judges nodes: a pod that uses no feature pays for none.

use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

/// The best score a node can get from one plugin.
pub const SCORE_MAX: i64 = 100;

/// Why a node cannot take a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// As the FailedScheduling message counts it.
    pub reason: String,
    /// Whether removing pods from the node could change the answer.
    pub preemptible: bool,
}

impl Rejection {
    pub fn new(reason: impl Into<String>) -> Rejection {
        Rejection { reason: reason.into(), preemptible: true }
    }

    /// A rejection that no preemption can lift.
    pub fn lasting(reason: impl Into<String>) -> Rejection {
        Rejection { reason: reason.into(), preemptible: false }
    }
}

/// Changes of the cluster that may make a rejected pod schedulable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    NodeAdded,
    NodeTaints,
    NodeLabels,
    NodeAllocatable,
    PodPlaced,
    PodGone,
}

pub trait Plugin: Sync {
    fn name(&self) -> &'static str;

    /// How much its scores count; 0 where it never scores.
    fn weight(&self) -> i64 {
        0
    }

    /// What to judge nodes by for this pod; `None` where nothing of the plugin applies.
    fn prepare<'a>(&self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Check + 'a>>;

    /// The changes after which pods that this plugin rejected are worth another try.
    fn wakes(&self) -> &'static [Wake];
}

/// A plugin's judgement for one pod.
pub trait Check {
    /// Every reason against the node; empty where the pod fits.
    fn filter(&self, _node: &NodeInfo) -> Vec<Rejection> {
        Vec::new()
    }

    /// Larger is better; `normalise` brings the scores of all feasible nodes to 0..=100.
    fn score(&self, _node: &NodeInfo) -> i64 {
        0
    }

    fn normalise(&self, _scores: &mut [i64]) {}
}

/// Scales scores so that the largest becomes 100; `reverse` makes the smallest raw score the best.
pub fn scale(scores: &mut [i64], reverse: bool) {
    let most = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if most == 0 { 0 } else { *score * SCORE_MAX / most };
        *score = if reverse { SCORE_MAX - scaled } else { scaled };
    }
}
