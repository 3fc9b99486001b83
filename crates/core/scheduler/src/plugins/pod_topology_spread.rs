//! Spreads pods over topologies: DoNotSchedule bounds the skew by rule, ScheduleAnyway lowers it by score.

use std::collections::HashMap;

use super::{matches_node, tolerates};
use crate::framework::{Check, Plugin, Rejection, SCORE_MAX, Wake};
use crate::pod::Spread;
use crate::{NodeInfo, PodInfo, Snapshot};

pub struct PodTopologySpread;

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Check + 'a>> {
        (!pod.spread.is_empty()).then(|| {
            let counted = pod.spread.iter().map(|constraint| Counted::over(constraint, pod, snapshot)).collect();
            Box::new(Even { pod, counted }) as Box<dyn Check>
        })
    }

    fn wakes(&self) -> &'static [Wake] {
        &[Wake::NodeAdded, Wake::NodeLabels, Wake::NodeTaints, Wake::PodPlaced, Wake::PodGone]
    }
}

struct Even<'a> {
    pod: &'a PodInfo,
    counted: Vec<Counted<'a>>,
}

/// Matching pods in each domain of one constraint.
struct Counted<'a> {
    constraint: &'a Spread,
    domains: HashMap<&'a str, i64>,
}

impl<'a> Counted<'a> {
    fn over(constraint: &'a Spread, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Counted<'a> {
        let mut domains = HashMap::new();
        let keys = || pod.spread.iter().filter(|other| other.required == constraint.required);
        for node in snapshot.nodes() {
            let has_all = keys().all(|other| node.label(&other.topology_key).is_some());
            if let (true, true, Some(value)) =
                (has_all, counts(constraint, pod, node), node.label(&constraint.topology_key))
            {
                *domains.entry(value).or_default() += matching(constraint, pod, node);
            }
        }
        Counted { constraint, domains }
    }

    /// Pods in the least filled domain; 0 while there are fewer domains than there must be.
    fn least(&self) -> i64 {
        if (self.domains.len() as i64) < self.constraint.min_domains {
            return 0;
        }
        self.domains.values().copied().min().unwrap_or(0)
    }
}

/// Whether the node's pods count for the constraint, by its policies on affinity and taints.
fn counts(constraint: &Spread, pod: &PodInfo, node: &NodeInfo) -> bool {
    let kept_away = || {
        let binding = node.taints.iter().filter(|taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute");
        binding.into_iter().any(|taint| !tolerates(&pod.tolerations, taint))
    };
    (!constraint.honor_affinity || matches_node(pod, node)) && (!constraint.honor_taints || !kept_away())
}

fn matching(constraint: &Spread, pod: &PodInfo, node: &NodeInfo) -> i64 {
    let same = |placed: &&std::sync::Arc<PodInfo>| {
        placed.key.namespace == pod.key.namespace && !placed.deleting && constraint.selector.matches(&placed.labels)
    };
    node.pods.iter().filter(same).count() as i64
}

impl Check for Even<'_> {
    fn filter(&self, node: &NodeInfo) -> Vec<Rejection> {
        const REASON: &str = "node(s) didn't match pod topology spread constraints";
        for counted in self.counted.iter().filter(|counted| counted.constraint.required) {
            let Some(value) = node.label(&counted.constraint.topology_key) else {
                return vec![Rejection::lasting(format!("{REASON} (missing required label)"))];
            };
            let itself = i64::from(counted.constraint.selector.matches(&self.pod.labels));
            let here = counted.domains.get(value).copied().unwrap_or(0);
            if here + itself - counted.least() > counted.constraint.max_skew {
                return vec![Rejection::new(REASON)];
            }
        }
        Vec::new()
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let mut score = 0.0;
        for counted in self.counted.iter().filter(|counted| !counted.constraint.required) {
            // Nodes outside every domain are the last choice.
            let Some(value) = node.label(&counted.constraint.topology_key) else { return i64::MAX };
            let here = counted.domains.get(value).copied().unwrap_or(0);
            // Few domains matter more than many, which balance by themselves.
            let weight = ((counted.domains.len() + 2) as f64).ln();
            score += here as f64 * weight + (counted.constraint.max_skew - 1) as f64;
        }
        score.round() as i64
    }

    fn normalise(&self, scores: &mut [i64]) {
        let inside = || scores.iter().copied().filter(|score| *score != i64::MAX);
        let (least, most) = (inside().min().unwrap_or(0), inside().max().unwrap_or(0));
        for score in scores {
            *score = match (*score, most) {
                (i64::MAX, _) => 0,
                (_, 0) => SCORE_MAX,
                (score, most) => SCORE_MAX * (most + least - score) / most,
            };
        }
    }
}
