//! Spreads pods over topologies: DoNotSchedule bounds the skew by rule, ScheduleAnyway lowers it by score. Pods that
//! ask for nothing are spread by the profile's default constraints, counted by what their Services and workloads
//! select.

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_meta::selector::LabelSelector;
use k8s_openapi::api::core::v1 as api;
use serde::Deserialize;
use serde_json::Value;

use crate::framework::{Answer, Change, Kind, Plugin, Point, PreFilter, Score, Wide};
use crate::node::{NodeFacts, NodeInfo};
use crate::pod::{PodInfo, Shape};
use crate::select::Spread;
use crate::snapshot::Snapshot;
use crate::spreading::{Even, HOSTNAME, includes, includes_all, matching};
use crate::topology::{Domains, NOWHERE, bump};

const ANSWERS: [Answer; 2] = [
    Answer::lasting("node(s) didn't match pod topology spread constraints (missing required label)"),
    Answer::new("node(s) didn't match pod topology spread constraints"),
];

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

    fn topologies(&self) -> Vec<&str> {
        self.defaults.iter().map(|constraint| constraint.topology_key.as_str()).collect()
    }

    fn pre_filter(&self, pod: &PodInfo, cluster: &Snapshot) -> PreFilter {
        let constraints = self.constraints(pod, cluster, true);
        match constraints.is_empty() {
            true => PreFilter::Skip,
            false => PreFilter::Wide(Box::new(Bounded(Counts::new(pod, constraints, true, cluster)))),
        }
    }

    fn pre_score(&self, pod: &PodInfo, cluster: &Snapshot) -> Option<Box<dyn Score>> {
        let constraints = self.constraints(pod, cluster, false);
        let needs_all = !pod.shape.spread.is_empty() || self.defaulting == Defaulting::List;
        (!constraints.is_empty()).then(|| Box::new(Even::new(pod, constraints, needs_all, cluster)) as Box<dyn Score>)
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
    /// Of the domains.
    version: u64,
}

struct Counted {
    constraint: Spread,
    matches_itself: bool,
    /// Whether all nodes are included, whatever the policies say.
    includes_all: bool,
    domains: Domains,
    /// By domain: matching pods, and nodes that count.
    pods: Vec<i64>,
    members: Vec<i64>,
    /// By node: the domain it counts in, and its matching pods.
    of_node: Vec<(u32, i64)>,
    /// How many domains have each number of matching pods, of those that count.
    levels: BTreeMap<i64, usize>,
    filled: i64,
    /// Pods in the least filled domain; 0 while there are fewer domains than there must be.
    least: i64,
}

impl Counts {
    fn new(pod: &PodInfo, constraints: Vec<Spread>, needs_all: bool, cluster: &Snapshot) -> Counts {
        let each = constraints.into_iter().map(|constraint| Counted::new(constraint, pod, cluster)).collect();
        Counts { shape: pod.shape.clone(), each, needs_all, version: cluster.domains_version() }
    }

    fn is_outside(&self, at: usize) -> bool {
        self.needs_all && self.each.iter().any(|counted| counted.domains[at] == NOWHERE)
    }

    fn observe_all(&mut self, cluster: &Snapshot) {
        for (at, node) in cluster.nodes().iter().enumerate() {
            let outside = self.is_outside(at);
            self.each.iter_mut().for_each(|counted| counted.set(at, counted.judge(at, node, &self.shape, outside)));
        }
        self.each.iter_mut().for_each(Counted::count_levels);
    }

    fn observe(&mut self, at: usize, node: &NodeInfo, cluster: &Snapshot) {
        if self.version != cluster.domains_version() {
            self.version = cluster.domains_version();
            for counted in &mut self.each {
                counted.domains = cluster.domains(&counted.constraint.topology_key);
            }
        }
        let outside = self.is_outside(at);
        for counted in &mut self.each {
            let (was, is) = (counted.of_node[at], counted.judge(at, node, &self.shape, outside));
            if was != is {
                let touched = || [Some(was.0), Some(is.0).filter(|domain| *domain != was.0)].into_iter().flatten();
                touched().for_each(|domain| counted.take_level(domain));
                counted.set(at, is);
                touched().for_each(|domain| counted.add_level(domain));
                counted.least = counted.least();
            }
        }
    }
}

impl Counted {
    fn new(constraint: Spread, pod: &PodInfo, cluster: &Snapshot) -> Counted {
        Counted {
            matches_itself: constraint.selector.matches(&pod.labels),
            includes_all: includes_all(&constraint, pod),
            domains: cluster.domains(&constraint.topology_key),
            pods: Vec::new(),
            members: Vec::new(),
            of_node: vec![(NOWHERE, 0); cluster.nodes().len()],
            levels: BTreeMap::new(),
            filled: 0,
            least: 0,
            constraint,
        }
    }

    /// The domain that a node counts in, and its matching pods.
    fn judge(&self, at: usize, node: &NodeInfo, shape: &Shape, outside: bool) -> (u32, i64) {
        let counts = !outside && (self.includes_all || includes(&self.constraint, shape, node));
        (if counts { self.domains[at] } else { NOWHERE }, matching(&self.constraint, &shape.namespace, node))
    }

    fn set(&mut self, at: usize, is: (u32, i64)) {
        let was = std::mem::replace(&mut self.of_node[at], is);
        for (sign, (domain, pods)) in [(-1, was), (1, is)] {
            if domain != NOWHERE {
                bump(&mut self.pods, domain, sign * pods);
                bump(&mut self.members, domain, sign);
            }
        }
    }

    fn count_levels(&mut self) {
        self.levels.clear();
        self.filled = 0;
        (0..self.members.len() as u32).for_each(|domain| self.add_level(domain));
        self.least = self.least();
    }

    fn add_level(&mut self, domain: u32) {
        if self.members.get(domain as usize).is_some_and(|members| *members > 0) {
            *self.levels.entry(self.pods[domain as usize]).or_default() += 1;
            self.filled += 1;
        }
    }

    fn take_level(&mut self, domain: u32) {
        if self.members.get(domain as usize).is_some_and(|members| *members > 0) {
            let pods = self.pods[domain as usize];
            let domains = self.levels.get_mut(&pods).expect("a domain that counts has a level");
            *domains -= 1;
            if *domains == 0 {
                self.levels.remove(&pods);
            }
            self.filled -= 1;
        }
    }

    fn pods_at(&self, domain: u32) -> i64 {
        self.pods.get(domain as usize).copied().unwrap_or(0)
    }

    fn least(&self) -> i64 {
        match self.levels.first_key_value() {
            None => i64::from(i32::MAX),
            Some(_) if self.filled < self.constraint.min_domains => 0,
            Some((least, _)) => *least,
        }
    }
}

struct Bounded(Counts);

impl Wide for Bounded {
    fn answers(&self) -> &'static [Answer] {
        &ANSWERS
    }

    fn observe_all(&mut self, cluster: &Snapshot) {
        self.0.observe_all(cluster);
    }

    fn observe(&mut self, at: usize, node: &NodeInfo, cluster: &Snapshot) {
        self.0.observe(at, node, cluster);
    }

    fn filter(&self, at: usize, _node: &NodeInfo) -> Option<usize> {
        for counted in &self.0.each {
            let domain = counted.domains[at];
            if domain == NOWHERE {
                return Some(0);
            }
            let skew = counted.pods_at(domain) + i64::from(counted.matches_itself) - counted.least;
            if skew > counted.constraint.max_skew {
                return Some(1);
            }
        }
        None
    }
}
