//! A node takes a pod only if what is left covers its requests; among those that can, a strategy over the shares in
//! use tells the best: the emptiest (the default), the fullest, or by a curve of one's own.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::framework::{Change, Filter, Kind, Plugin, Point, PreFilter, SCORE_MAX, Score, Status};
use crate::node::{NodeFacts, NodeInfo};
use crate::pod::{PodInfo, Shape};
use crate::resources::{Which, is_extended, is_scalar};
use crate::snapshot::Snapshot;

/// Scores of a configured curve go from 0 to this.
const CURVE_MAX: i64 = 10;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Args {
    ignored_resources: BTreeSet<String>,
    ignored_resource_groups: BTreeSet<String>,
    scoring_strategy: Strategy,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Strategy {
    #[serde(rename = "type")]
    kind: StrategyType,
    resources: Vec<Weighted>,
    requested_to_capacity_ratio: Curve,
}

impl Default for Strategy {
    fn default() -> Strategy {
        let kind = StrategyType::LeastAllocated;
        let resources = ["cpu", "memory"].map(|name| Weighted { name: name.into(), weight: 1 }).into();
        Strategy { kind, resources, requested_to_capacity_ratio: Curve::default() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum StrategyType {
    LeastAllocated,
    MostAllocated,
    RequestedToCapacityRatio,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    pub name: String,
    #[serde(default = "one")]
    pub weight: i64,
}

fn one() -> i64 {
    1
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Curve {
    shape: Vec<CurvePoint>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CurvePoint {
    utilization: i64,
    score: i64,
}

/// How many of a hundred parts of the whole it is.
fn percent(part: i64, whole: i64) -> i64 {
    match part.checked_mul(SCORE_MAX) {
        Some(scaled) => scaled / whole,
        None => part / (whole / SCORE_MAX).max(1),
    }
}

impl Strategy {
    fn check(&self) -> Result<(), String> {
        if self.resources.iter().any(|resource| !(1..=100).contains(&resource.weight)) {
            return Err("scoringStrategy.resources: resource weight not in valid range [1, 100]".into());
        }
        let shape = &self.requested_to_capacity_ratio.shape;
        if self.kind == StrategyType::RequestedToCapacityRatio {
            if shape.is_empty() {
                return Err("scoringStrategy.shape: at least one point must be specified".into());
            }
            let rising = shape.windows(2).all(|pair| pair[0].utilization < pair[1].utilization);
            let within =
                |point: &CurvePoint| (0..=100).contains(&point.utilization) && (0..=CURVE_MAX).contains(&point.score);
            if !rising || !shape.iter().all(within) {
                return Err(
                    "scoringStrategy.shape: utilization must rise within [0, 100], scores lie within [0, 10]".into()
                );
            }
        }
        Ok(())
    }

    /// The score of one resource.
    fn rate(&self, requested: i64, capacity: i64) -> i64 {
        match self.kind {
            StrategyType::LeastAllocated if requested > capacity => 0,
            StrategyType::LeastAllocated => percent(capacity.saturating_sub(requested), capacity),
            StrategyType::MostAllocated => percent(requested.min(capacity), capacity),
            StrategyType::RequestedToCapacityRatio if requested > capacity => self.curve_at(100),
            StrategyType::RequestedToCapacityRatio => self.curve_at(percent(requested, capacity)),
        }
    }

    /// The curve between its points, level beyond them.
    fn curve_at(&self, utilization: i64) -> i64 {
        let shape = &self.requested_to_capacity_ratio.shape;
        let score = |point: &CurvePoint| point.score * (SCORE_MAX / CURVE_MAX);
        let Some(next) = shape.iter().position(|point| utilization <= point.utilization) else {
            return shape.last().map_or(0, score);
        };
        let to = &shape[next];
        let Some(from) = next.checked_sub(1).map(|before| &shape[before]) else { return score(to) };
        score(from) + (score(to) - score(from)) * (utilization - from.utilization) / (to.utilization - from.utilization)
    }

    fn combine(&self, sum: i64, weights: i64) -> i64 {
        match (weights, self.kind) {
            (0, _) => 0,
            (_, StrategyType::RequestedToCapacityRatio) => (sum as f64 / weights as f64).round() as i64,
            _ => sum / weights,
        }
    }
}

pub struct NodeResourcesFit {
    ignored: Arc<(BTreeSet<String>, BTreeSet<String>)>,
    strategy: Arc<Strategy>,
}

impl NodeResourcesFit {
    pub fn make(args: Option<&Value>) -> Result<Arc<dyn Plugin>, String> {
        let args: Args = super::read(args)?;
        args.scoring_strategy.check()?;
        let ignored = Arc::new((args.ignored_resources, args.ignored_resource_groups));
        Ok(Arc::new(NodeResourcesFit { ignored, strategy: Arc::new(args.scoring_strategy) }))
    }
}

/// Whether an empty node could take the pod.
fn fits_empty(pod: &PodInfo, node: &NodeFacts) -> bool {
    let covers = |name: &str, amount: i64| amount <= node.allocatable.amount(name);
    node.pods_max >= 1
        && covers("cpu", pod.requests.cpu_milli)
        && covers("memory", pod.requests.memory)
        && covers("ephemeral-storage", pod.requests.ephemeral_storage)
        && pod.requests.others.iter().all(|(name, amount)| covers(name, *amount))
}

/// Whether the node now offers more of something that the pod asks for.
fn offers_more(pod: &PodInfo, old: &NodeFacts, new: &NodeFacts) -> bool {
    let asked = |name: &str, amount: i64| amount > 0 && new.allocatable.amount(name) > old.allocatable.amount(name);
    new.pods_max > old.pods_max
        || asked("cpu", pod.requests.cpu_milli)
        || asked("memory", pod.requests.memory)
        || asked("ephemeral-storage", pod.requests.ephemeral_storage)
        || pod.requests.others.iter().any(|(name, amount)| asked(name, *amount))
}

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn pre_filter(&self, pod: &PodInfo, _cluster: &Snapshot) -> PreFilter {
        PreFilter::Check(Box::new(Fit { shape: pod.shape.clone(), ignored: self.ignored.clone() }))
    }

    fn pre_score(&self, pod: &PodInfo, _cluster: &Snapshot) -> Option<Box<dyn Score>> {
        Some(Box::new(Shares::new(&pod.shape, self.strategy.clone())))
    }

    fn wakes(&self) -> &'static [Kind] {
        &[Kind::NodeAdded, Kind::NodeUpdated, Kind::PodGone, Kind::PodUpdated]
    }

    fn hint(&self, pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::NodeAdded(node) => fits_empty(pod, node),
            Change::NodeUpdated { old, new } => fits_empty(pod, new) && offers_more(pod, old, new),
            Change::PodGone(gone) => gone.is_assigned(),
            Change::PodUpdated { old, new } => {
                old.requests.shrinks_to(&new.requests) && (new.uid == pod.uid || !new.node_name.is_empty())
            }
            _ => false,
        }
    }
}

struct Fit {
    shape: Arc<Shape>,
    ignored: Arc<(BTreeSet<String>, BTreeSet<String>)>,
}

impl Fit {
    fn ignores(&self, name: &str) -> bool {
        let group = || name.split('/').next().unwrap_or_default();
        is_extended(name) && (self.ignored.0.contains(name) || self.ignored.1.contains(group()))
    }
}

impl Filter for Fit {
    fn filter(&self, _at: usize, node: &NodeInfo) -> Option<Status> {
        let (asked, used, whole) = (&self.shape.requests, &node.requested, &node.allocatable);
        let mut status = Status { reasons: Vec::new(), resolvable: true };
        if node.pods.len() as i64 + 1 > node.pods_max {
            status.reasons.push("Too many pods".into());
        }
        let mut need = |asked: i64, used: i64, whole: i64, reason: &dyn Fn() -> Cow<'static, str>| {
            if asked > 0 && asked > whole.saturating_sub(used) {
                status.reasons.push(reason());
                // A node too small when empty stays too small whoever is removed.
                status.resolvable &= asked <= whole;
            }
        };
        need(asked.cpu_milli, used.cpu_milli, whole.cpu_milli, &|| "Insufficient cpu".into());
        need(asked.memory, used.memory, whole.memory, &|| "Insufficient memory".into());
        let storage = (asked.ephemeral_storage, used.ephemeral_storage, whole.ephemeral_storage);
        need(storage.0, storage.1, storage.2, &|| "Insufficient ephemeral-storage".into());
        for (name, amount) in asked.others.iter().filter(|(name, _)| !self.ignores(name)) {
            need(*amount, used.amount(name), whole.amount(name), &|| format!("Insufficient {name}").into());
        }
        (!status.reasons.is_empty()).then_some(status)
    }
}

struct Shares {
    strategy: Arc<Strategy>,
    /// What the pod is taken to use of each resource, and how much that counts.
    asked: Vec<(Which, i64, i64)>,
}

impl Shares {
    fn new(shape: &Shape, strategy: Arc<Strategy>) -> Shares {
        let asked = strategy.resources.iter().filter_map(|resource| {
            let which = Which::new(&resource.name);
            let asked = match which {
                Which::Cpu => shape.assumed_ask.0,
                Which::Memory => shape.assumed_ask.1,
                _ => shape.requests.of(&which),
            };
            (asked != 0 || !is_scalar(&resource.name)).then_some((which, asked, resource.weight))
        });
        Shares { asked: asked.collect(), strategy }
    }
}

impl Score for Shares {
    fn score(&self, _at: usize, node: &NodeInfo) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for (which, asked, weight) in &self.asked {
            let used = match which {
                Which::Cpu => node.assumed.0,
                Which::Memory => node.assumed.1,
                other => node.requested.of(other),
            };
            let capacity = node.allocatable.of(which);
            if capacity == 0 {
                continue;
            }
            let rate = self.strategy.rate(used.saturating_add(*asked), capacity);
            if rate > 0 || self.strategy.kind != StrategyType::RequestedToCapacityRatio {
                sum += rate * weight;
                weights += weight;
            }
        }
        self.strategy.combine(sum, weights)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn strategy(json: Value) -> Result<Strategy, String> {
        let strategy: Strategy = serde_json::from_value(json).map_err(|error| error.to_string())?;
        strategy.check().map(|()| strategy)
    }

    #[test]
    fn strategies_rate_the_share_in_use() {
        let curve = json!({"type": "RequestedToCapacityRatio", "requestedToCapacityRatio": {"shape":
            [{"utilization": 0, "score": 0}, {"utilization": 50, "score": 10}, {"utilization": 100, "score": 5}]}});
        let table = [(json!({}), [100, 75, 0]), (json!({"type": "MostAllocated"}), [0, 25, 100]), (curve, [0, 50, 50])];
        for (json, rates) in table {
            let strategy = strategy(json.clone()).unwrap();
            assert_eq!([0, 25, 130].map(|used| strategy.rate(used, 100)), rates, "{json}");
        }
    }

    #[test]
    fn a_strategy_that_makes_no_sense_is_refused() {
        for bad in [
            json!({"type": "BestAllocated"}),
            json!({"resources": [{"name": "cpu", "weight": 0}]}),
            json!({"type": "RequestedToCapacityRatio"}),
        ] {
            assert!(strategy(bad.clone()).is_err(), "{bad}");
        }
    }
}
