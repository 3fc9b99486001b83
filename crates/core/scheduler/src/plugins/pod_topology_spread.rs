//! Spreads pods over topologies: DoNotSchedule bounds the skew by rule, ScheduleAnyway lowers it by score. Pods that
//! ask for nothing are spread by the profile's default constraints, counted by what their Services and workloads
//! select.

use std::sync::Arc;

use coracle_meta::selector::LabelSelector;
use k8s_openapi::api::core::v1 as api;
use serde::Deserialize;
use serde_json::Value;

use super::node_affinity::matches_node;
use crate::framework::{Change, Filter, Kind, Plugin, Point, PreFilter, SCORE_MAX, Score, Status};
use crate::node::{NodeFacts, NodeInfo};
use crate::pod::{PodInfo, Shape};
use crate::select::{Spread, repelled};
use crate::snapshot::Snapshot;
use crate::topology::{NOWHERE, Topology, bump};

const HOSTNAME: &str = "kubernetes.io/hostname";
const REASON: &str = "node(s) didn't match pod topology spread constraints";
const REASON_NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";
/// The raw score of a node outside every domain.
const IGNORED: i64 = -1;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
enum Defaulting {
    #[default]
    System,
    List,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Args {
    default_constraints: Vec<api::TopologySpreadConstraint>,
    defaulting_type: Defaulting,
}

pub struct PodTopologySpread {
    defaults: Vec<Spread>,
    defaulting: Defaulting,
}

fn soft(topology_key: &str, max_skew: i64) -> Spread {
    Spread {
        max_skew,
        topology_key: topology_key.into(),
        required: false,
        selector: LabelSelector::nothing(),
        min_domains: 1,
        honor_affinity: true,
        honor_taints: false,
    }
}

impl PodTopologySpread {
    pub fn make(args: Option<&Value>) -> Result<Arc<dyn Plugin>, String> {
        let args: Args = super::read(args)?;
        if args.default_constraints.iter().any(|constraint| constraint.label_selector.is_some()) {
            return Err(
                "defaultConstraints.labelSelector: constraint must not define a selector, as they deduced for each pod"
                    .into(),
            );
        }
        let defaults = match args.defaulting_type {
            Defaulting::System if !args.default_constraints.is_empty() => {
                return Err("defaultingType: when .defaultConstraints are not empty".into());
            }
            Defaulting::System => vec![soft(HOSTNAME, 3), soft("topology.kubernetes.io/zone", 5)],
            Defaulting::List => args.default_constraints.iter().map(|text| Spread::new(text, &[])).collect(),
        };
        Ok(Arc::new(PodTopologySpread { defaults, defaulting: args.defaulting_type }))
    }

    fn constraints(&self, shape: &Shape, cluster: &Snapshot, required: bool) -> Vec<Spread> {
        let chosen = |constraint: &&Spread| constraint.required == required;
        if !shape.spread.is_empty() {
            return shape.spread.iter().filter(chosen).cloned().collect();
        }
        let defaults: Vec<_> = self.defaults.iter().filter(chosen).collect();
        if defaults.is_empty() {
            return Vec::new();
        }
        let Some(selector) = cluster.workloads.selector_of(shape) else { return Vec::new() };
        defaults.into_iter().map(|constraint| Spread { selector: selector.clone(), ..constraint.clone() }).collect()
    }

    /// The pod's own rules; a change that touches default ones turns the world for every pod.
    fn own_rules<'a>(&self, pod: &'a PodInfo) -> impl Iterator<Item = &'a Spread> {
        pod.shape.spread.iter().filter(|constraint| constraint.required)
    }

    fn after_node(&self, pod: &PodInfo, old: Option<&NodeFacts>, new: Option<&NodeFacts>) -> bool {
        let has_all = |node: &NodeFacts| self.own_rules(pod).all(|rule| node.label(&rule.topology_key).is_some());
        let (was, is) = (old.is_some_and(has_all), new.is_some_and(has_all));
        let (Some(old), Some(new)) = (old, new) else { return was || is };
        let moved = || self.own_rules(pod).any(|rule| old.label(&rule.topology_key) != new.label(&rule.topology_key));
        was != is || (is && (moved() || old.taints != new.taints))
    }

    fn after_pod(&self, pod: &PodInfo, old: Option<&PodInfo>, new: Option<&PodInfo>) -> bool {
        let involved = |other: &PodInfo| {
            other.uid == pod.uid || (other.is_assigned() && other.shape.namespace == pod.shape.namespace)
        };
        if [old, new].into_iter().flatten().any(|other| !involved(other)) {
            return false;
        }
        let matched = |other: &PodInfo, rule: &Spread| rule.selector.matches(&other.labels);
        match (old, new) {
            (Some(old), Some(new)) => {
                let tolerates_more = new.uid == pod.uid
                    && old.tolerations != new.tolerations
                    && self.own_rules(pod).any(|rule| rule.honor_taints);
                tolerates_more || self.own_rules(pod).any(|rule| matched(old, rule) != matched(new, rule))
            }
            (one, other) => one.or(other).is_some_and(|other| self.own_rules(pod).any(|rule| matched(other, rule))),
        }
    }
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn pre_filter(&self, pod: &PodInfo, cluster: &Snapshot) -> PreFilter {
        let constraints = self.constraints(pod, cluster, true);
        match constraints.is_empty() {
            true => PreFilter::Skip,
            false => PreFilter::Check(Box::new(Bounded(Counts::new(pod, constraints, true, cluster)))),
        }
    }

    fn pre_score(&self, pod: &PodInfo, cluster: &Snapshot) -> Option<Box<dyn Score>> {
        let constraints = self.constraints(pod, cluster, false);
        let needs_all = !pod.shape.spread.is_empty() || self.defaulting == Defaulting::List;
        (!constraints.is_empty()).then(|| {
            let counts = Counts::new(pod, constraints, needs_all, cluster);
            Box::new(Even { weights: vec![0.0; counts.each.len()], counts, stamps: Vec::new(), round: 0 })
                as Box<dyn Score>
        })
    }

    fn wakes(&self) -> &'static [Kind] {
        &[Kind::NodeAdded, Kind::NodeUpdated, Kind::NodeGone, Kind::PodPlaced, Kind::PodUpdated, Kind::PodGone]
    }

    fn hint(&self, pod: &PodInfo, change: &Change) -> bool {
        match change {
            // Rules that are not the pod's own are counted by what the cluster selects.
            _ if pod.shape.spread.is_empty() => true,
            Change::NodeAdded(node) => self.after_node(pod, None, Some(node)),
            Change::NodeUpdated { old, new } => self.after_node(pod, Some(old), Some(new)),
            Change::NodeGone(node) => self.after_node(pod, Some(node), None),
            Change::PodPlaced(new) => self.after_pod(pod, None, Some(new)),
            Change::PodUpdated { old, new } => self.after_pod(pod, Some(old), Some(new)),
            Change::PodGone(old) => self.after_pod(pod, Some(old), None),
            _ => false,
        }
    }
}

/// Matching pods by domain, for each constraint, kept up to date node by node.
struct Counts {
    shape: Arc<Shape>,
    each: Vec<Counted>,
    /// Whether a node counts only where it has the labels of all constraints.
    needs_all: bool,
}

struct Counted {
    constraint: Spread,
    matches_itself: bool,
    topology: Topology,
    /// By domain: matching pods, and nodes that count.
    pods: Vec<i64>,
    members: Vec<i64>,
    /// By node: the domain it counts in, and its matching pods.
    of_node: Vec<(u32, i64)>,
}

impl Counts {
    fn new(pod: &PodInfo, constraints: Vec<Spread>, needs_all: bool, cluster: &Snapshot) -> Counts {
        let nodes = cluster.nodes().len();
        let each = constraints.into_iter().map(|constraint| Counted {
            matches_itself: constraint.selector.matches(&pod.labels),
            topology: Topology::new(&constraint.topology_key),
            pods: Vec::new(),
            members: Vec::new(),
            of_node: vec![(NOWHERE, 0); nodes],
            constraint,
        });
        Counts { shape: pod.shape.clone(), each: each.collect(), needs_all }
    }

    fn observe(&mut self, at: usize, node: &NodeInfo) {
        let has_all =
            !self.needs_all || self.each.iter().all(|counted| node.label(&counted.constraint.topology_key).is_some());
        for counted in &mut self.each {
            let (domain, pods) = counted.of_node[at];
            if domain != NOWHERE {
                bump(&mut counted.pods, domain, -pods);
                bump(&mut counted.members, domain, -1);
            }
            let pods = matching(&counted.constraint, &self.shape.namespace, node);
            let domain = counted.topology.observe(at, node);
            let counts = has_all && domain != NOWHERE && includes(&counted.constraint, &self.shape, node);
            counted.of_node[at] = (if counts { domain } else { NOWHERE }, pods);
            if counts {
                bump(&mut counted.pods, domain, pods);
                bump(&mut counted.members, domain, 1);
            }
        }
    }
}

impl Counted {
    fn pods_at(&self, domain: u32) -> i64 {
        self.pods.get(domain as usize).copied().unwrap_or(0)
    }

    /// Pods in the least filled domain; 0 while there are fewer domains than there must be.
    fn least(&self) -> i64 {
        let counting = self.members.iter().zip(&self.pods).filter(|(members, _)| **members > 0);
        let (mut domains, mut least) = (0, i64::MAX);
        for (_, pods) in counting {
            domains += 1;
            least = least.min(*pods);
        }
        match domains {
            0 => i64::from(i32::MAX),
            fewer if fewer < self.constraint.min_domains => 0,
            _ => least,
        }
    }
}

/// Whether the node's pods count for the constraint, by its policies on affinity and taints.
fn includes(constraint: &Spread, shape: &Shape, node: &NodeFacts) -> bool {
    (!constraint.honor_affinity || matches_node(shape, node))
        && (!constraint.honor_taints || !repelled(&shape.tolerations, &node.taints))
}

fn matching(constraint: &Spread, namespace: &str, node: &NodeInfo) -> i64 {
    if constraint.selector.is_everything() {
        return 0;
    }
    // Neighbours are often of one shape, and then of one answer.
    let mut last: Option<(&Arc<Shape>, bool)> = None;
    let mut count = 0;
    for pod in node.pods.iter().filter(|pod| !pod.deleting) {
        let matches = match last {
            Some((shape, matches)) if Arc::ptr_eq(shape, &pod.shape) => matches,
            _ => pod.shape.namespace == namespace && constraint.selector.matches(&pod.labels),
        };
        last = Some((&pod.shape, matches));
        count += i64::from(matches);
    }
    count
}

struct Bounded(Counts);

impl Filter for Bounded {
    fn is_local(&self) -> bool {
        false
    }

    fn observe(&mut self, at: usize, node: &NodeInfo, _cluster: &Snapshot) {
        self.0.observe(at, node);
    }

    fn filter(&self, at: usize, _node: &NodeInfo) -> Option<Status> {
        for counted in &self.0.each {
            let domain = counted.topology.domain(at);
            if domain == NOWHERE {
                return Some(Status::lasting(REASON_NO_LABEL));
            }
            let skew = counted.pods_at(domain) + i64::from(counted.matches_itself) - counted.least();
            if skew > counted.constraint.max_skew {
                return Some(Status::new(REASON));
            }
        }
        None
    }
}

struct Even {
    counts: Counts,
    /// By constraint: few domains matter more than many, which balance by themselves.
    weights: Vec<f64>,
    /// By domain: the last round in which it was seen.
    stamps: Vec<u32>,
    round: u32,
}

impl Even {
    fn is_ignored(&self, at: usize) -> bool {
        self.counts.needs_all && self.counts.each.iter().any(|counted| counted.topology.domain(at) == NOWHERE)
    }

    /// How many different domains the nodes are in; nodes in none make one of their own where they are not ignored.
    fn domains(&mut self, constraint: usize, feasible: &[u32]) -> usize {
        self.round += 1;
        let topology = &self.counts.each[constraint].topology;
        self.stamps.resize(self.stamps.len().max(topology.len()), 0);
        let (mut count, mut nowhere) = (0, 0);
        for at in feasible.iter().map(|at| *at as usize) {
            if self.is_ignored(at) {
                continue;
            }
            match self.counts.each[constraint].topology.domain(at) {
                NOWHERE => nowhere = 1,
                domain => {
                    let stamp = &mut self.stamps[domain as usize];
                    count += usize::from(*stamp != self.round);
                    *stamp = self.round;
                }
            }
        }
        count + nowhere
    }
}

impl Score for Even {
    fn is_local(&self) -> bool {
        false
    }

    fn observe(&mut self, at: usize, node: &NodeInfo, _cluster: &Snapshot) {
        self.counts.observe(at, node);
    }

    fn begin(&mut self, feasible: &[u32]) {
        for constraint in 0..self.counts.each.len() {
            let size = match self.counts.each[constraint].constraint.topology_key == HOSTNAME {
                true if !self.counts.needs_all => feasible.len(),
                true => feasible.iter().filter(|at| !self.is_ignored(**at as usize)).count(),
                false => self.domains(constraint, feasible),
            };
            self.weights[constraint] = ((size + 2) as f64).ln();
        }
    }

    fn score(&self, at: usize, _node: &NodeInfo) -> i64 {
        if self.is_ignored(at) {
            return IGNORED;
        }
        let mut score = 0.0;
        for (counted, weight) in self.counts.each.iter().zip(&self.weights) {
            let domain = counted.topology.domain(at);
            if domain == NOWHERE {
                continue;
            }
            let here = match counted.constraint.topology_key == HOSTNAME {
                true => counted.of_node[at].1,
                false => counted.pods_at(domain),
            };
            score += here as f64 * weight + (counted.constraint.max_skew - 1) as f64;
        }
        score.round() as i64
    }

    fn is_final(&self) -> bool {
        false
    }

    fn normalise(&self, scores: &mut [i64]) {
        let inside = || scores.iter().copied().filter(|score| *score != IGNORED);
        let (least, most) = (inside().min().unwrap_or(0), inside().max().unwrap_or(0));
        for score in scores {
            *score = match (*score, most) {
                (IGNORED, _) => 0,
                (_, 0) => SCORE_MAX,
                (score, most) => SCORE_MAX * (most + least - score) / most,
            };
        }
    }
}
