//! Pods choose the company of other pods, or keep away from it, within a topology: by rule and by score.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::framework::{Change, Filter, Kind, Plugin, Point, PreFilter, SCORE_MAX, Score, Status};
use crate::node::{NodeFacts, NodeInfo};
use crate::pod::{PodInfo, Shape};
use crate::select::{Labels, PodTerm};
use crate::snapshot::Snapshot;
use crate::topology::{NOWHERE, Topology, bump};

#[derive(Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Args {
    /// How much a placed pod's required affinity for this pod counts in the score.
    hard_pod_affinity_weight: i64,
    ignore_preferred_terms_of_existing_pods: bool,
}

impl Default for Args {
    fn default() -> Args {
        Args { hard_pod_affinity_weight: 1, ignore_preferred_terms_of_existing_pods: false }
    }
}

pub struct InterPodAffinity {
    args: Args,
}

impl InterPodAffinity {
    pub fn make(args: Option<&Value>) -> Result<Arc<dyn Plugin>, String> {
        let args: Args = super::read(args)?;
        match (0..=100).contains(&args.hard_pod_affinity_weight) {
            true => Ok(Arc::new(InterPodAffinity { args })),
            false => Err("hardPodAffinityWeight: not in valid range [0, 100]".into()),
        }
    }
}

/// Whether all terms are about the pod; the namespace's labels are not known here.
fn all_about(terms: &[PodTerm], pod: &PodInfo) -> bool {
    !terms.is_empty() && terms.iter().all(|term| may_match(term, pod))
}

/// Where a term chooses namespaces by label, it may be about a pod in any.
fn may_match(term: &PodTerm, pod: &PodInfo) -> bool {
    let chosen = !term.namespace_selector.is_nothing();
    (chosen || term.namespaces.contains(&pod.key.namespace)) && term.selector.matches(&pod.labels)
}

fn after_pod(pod: &PodInfo, old: Option<&PodInfo>, new: Option<&PodInfo>) -> bool {
    if let (Some(_), Some(new)) = (old, new)
        && new.uid == pod.uid
    {
        return true;
    }
    if [old, new].into_iter().flatten().any(|other| !other.is_assigned()) {
        return false;
    }
    let (with, apart) = (&pod.terms.affinity, &pod.terms.anti_affinity);
    match (old, new) {
        (Some(old), Some(new)) => {
            (!all_about(with, old) && all_about(with, new)) || (all_about(apart, old) && !all_about(apart, new))
        }
        (None, Some(new)) => all_about(with, new),
        (Some(old), None) => all_about(apart, old) || all_about(&old.terms.anti_affinity, pod),
        (None, None) => false,
    }
}

fn after_node(pod: &PodInfo, old: Option<&NodeFacts>, new: &NodeFacts) -> bool {
    let Some(old) = old else {
        let joins = pod.terms.affinity.iter().any(|term| new.label(&term.topology_key).is_some());
        return joins || !pod.terms.anti_affinity.is_empty();
    };
    let moved = |term: &PodTerm| old.label(&term.topology_key) != new.label(&term.topology_key);
    let joins = |term: &PodTerm| moved(term) && new.label(&term.topology_key).is_some();
    let leaves = |term: &PodTerm| moved(term) && old.label(&term.topology_key).is_some();
    pod.terms.affinity.iter().any(joins) || pod.terms.anti_affinity.iter().any(leaves)
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn pre_filter(&self, pod: &PodInfo, cluster: &Snapshot) -> PreFilter {
        PreFilter::Check(Box::new(Rules {
            incoming: Incoming::new(pod, cluster),
            tallies: Tallies::new(3, cluster.nodes().len()),
        }))
    }

    fn pre_score(&self, pod: &PodInfo, cluster: &Snapshot) -> Option<Box<dyn Score>> {
        let prefers = !pod.terms.preferred_affinity.is_empty() || !pod.terms.preferred_anti_affinity.is_empty();
        let counts = prefers || !self.args.ignore_preferred_terms_of_existing_pods;
        counts.then(|| {
            let incoming = Incoming::new(pod, cluster);
            let tallies = Tallies::new(1, cluster.nodes().len());
            Box::new(Liking { incoming, tallies, prefers, hard_weight: self.args.hard_pod_affinity_weight })
                as Box<dyn Score>
        })
    }

    fn wakes(&self) -> &'static [Kind] {
        &[Kind::NodeAdded, Kind::NodeUpdated, Kind::PodPlaced, Kind::PodUpdated, Kind::PodGone]
    }

    fn hint(&self, pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::NodeAdded(node) => after_node(pod, None, node),
            Change::NodeUpdated { old, new } => after_node(pod, Some(old), new),
            Change::PodPlaced(new) => after_pod(pod, None, Some(new)),
            Change::PodUpdated { old, new } => after_pod(pod, Some(old), Some(new)),
            Change::PodGone(old) => after_pod(pod, Some(old), None),
            _ => false,
        }
    }
}

/// The pod to be scheduled, as terms of others see it.
struct Incoming {
    shape: Arc<Shape>,
    namespace_labels: Labels,
}

impl Incoming {
    fn new(pod: &PodInfo, cluster: &Snapshot) -> Incoming {
        let namespace_labels = cluster.namespace_labels(&pod.shape.namespace).to_vec();
        Incoming { shape: pod.shape.clone(), namespace_labels }
    }

    fn matches(&self, term: &PodTerm) -> bool {
        term.matches(&self.shape.labels, &self.shape.namespace, &self.namespace_labels)
    }
}

fn about(term: &PodTerm, placed: &PodInfo, cluster: &Snapshot) -> bool {
    term.matches(&placed.labels, &placed.shape.namespace, cluster.namespace_labels(&placed.shape.namespace))
}

/// Sums by topology and domain, of several sorts, kept up to date node by node.
struct Tallies {
    topologies: Vec<Topology>,
    /// By sort, topology and domain.
    sums: Vec<Vec<Vec<i64>>>,
    /// By sort: how much the nodes contribute in all, without regard to sign.
    totals: Vec<i64>,
    of_node: Vec<Vec<Share>>,
}

#[derive(Clone, Copy)]
struct Share {
    sort: usize,
    topology: usize,
    domain: u32,
    amount: i64,
}

impl Tallies {
    fn new(sorts: usize, nodes: usize) -> Tallies {
        let (sums, totals) = (vec![Vec::new(); sorts], vec![0; sorts]);
        Tallies { topologies: Vec::new(), sums, totals, of_node: vec![Vec::new(); nodes] }
    }

    /// Takes a node's shares back, before they are counted anew.
    fn withdraw(&mut self, at: usize, node: &NodeInfo) {
        for share in std::mem::take(&mut self.of_node[at]) {
            bump(&mut self.sums[share.sort][share.topology], share.domain, -share.amount);
            self.totals[share.sort] -= share.amount.abs();
        }
        for topology in &mut self.topologies {
            topology.observe(at, node);
        }
    }

    fn add(&mut self, at: usize, cluster: &Snapshot, (sort, key, amount): (usize, &str, i64)) {
        let topology = self.topologies.iter().position(|topology| topology.key == key).unwrap_or_else(|| {
            self.topologies.push(Topology::over(key, cluster.nodes()));
            self.sums.iter_mut().for_each(|sums| sums.push(Vec::new()));
            self.topologies.len() - 1
        });
        let domain = self.topologies[topology].domain(at);
        if domain == NOWHERE || amount == 0 {
            return;
        }
        bump(&mut self.sums[sort][topology], domain, amount);
        self.totals[sort] += amount.abs();
        self.of_node[at].push(Share { sort, topology, domain, amount });
    }

    fn sum(&self, sort: usize, topology: usize, at: usize) -> i64 {
        let domain = self.topologies[topology].domain(at);
        self.sums[sort][topology].get(domain as usize).copied().unwrap_or(0)
    }

    fn sum_by_key(&self, sort: usize, key: &str, at: usize) -> i64 {
        let topology = self.topologies.iter().position(|topology| topology.key == key);
        topology.map_or(0, |topology| self.sum(sort, topology, at))
    }
}

/// Placed pods that match all terms of the pod's affinity.
const WANTED: usize = 0;
/// Placed pods that match a term of its anti-affinity.
const UNWANTED: usize = 1;
/// Terms of placed pods' anti-affinity that are about the pod.
const FORBIDDEN: usize = 2;

struct Rules {
    incoming: Incoming,
    tallies: Tallies,
}

impl Rules {
    fn has_terms(&self) -> bool {
        !self.incoming.shape.terms.affinity.is_empty() || !self.incoming.shape.terms.anti_affinity.is_empty()
    }

    fn count_own(&mut self, at: usize, placed: &PodInfo, cluster: &Snapshot) {
        let shape = self.incoming.shape.clone();
        let (with, apart) = (&shape.terms.affinity, &shape.terms.anti_affinity);
        if !with.is_empty() && with.iter().all(|term| about(term, placed, cluster)) {
            with.iter().for_each(|term| self.tallies.add(at, cluster, (WANTED, &term.topology_key, 1)));
        }
        for term in apart.iter().filter(|term| about(term, placed, cluster)) {
            self.tallies.add(at, cluster, (UNWANTED, &term.topology_key, 1));
        }
    }

    /// Whether every required term finds company at the node. The first pod of a group that wants its own company is
    /// let in where the topology exists.
    fn finds_company(&self, at: usize, node: &NodeInfo) -> bool {
        let terms = &self.incoming.shape.terms.affinity;
        if terms.iter().any(|term| node.label(&term.topology_key).is_none()) {
            return false;
        }
        let all = terms.iter().all(|term| self.tallies.sum_by_key(WANTED, &term.topology_key, at) > 0);
        all || (self.tallies.totals[WANTED] == 0 && terms.iter().all(|term| self.incoming.matches(term)))
    }
}

impl Filter for Rules {
    fn is_local(&self) -> bool {
        false
    }

    fn is_idle(&self) -> bool {
        !self.has_terms() && self.tallies.totals[FORBIDDEN] == 0
    }

    fn observe(&mut self, at: usize, node: &NodeInfo, cluster: &Snapshot) {
        self.tallies.withdraw(at, node);
        for placed in &node.affine {
            for term in placed.terms.anti_affinity.iter().filter(|term| self.incoming.matches(term)) {
                self.tallies.add(at, cluster, (FORBIDDEN, &term.topology_key, 1));
            }
        }
        if self.has_terms() {
            node.pods.iter().for_each(|placed| self.count_own(at, placed, cluster));
        }
    }

    fn filter(&self, at: usize, node: &NodeInfo) -> Option<Status> {
        if !self.finds_company(at, node) {
            return Some(Status::lasting("node(s) didn't match pod affinity rules"));
        }
        let apart = &self.incoming.shape.terms.anti_affinity;
        if apart.iter().any(|term| self.tallies.sum_by_key(UNWANTED, &term.topology_key, at) > 0) {
            return Some(Status::new("node(s) didn't match pod anti-affinity rules"));
        }
        let mut topologies = 0..self.tallies.topologies.len();
        topologies
            .any(|topology| self.tallies.sum(FORBIDDEN, topology, at) > 0)
            .then(|| Status::new("node(s) didn't satisfy existing pods anti-affinity rules"))
    }
}

struct Liking {
    incoming: Incoming,
    tallies: Tallies,
    prefers: bool,
    hard_weight: i64,
}

impl Liking {
    fn count(&mut self, at: usize, placed: &PodInfo, cluster: &Snapshot) {
        let shape = self.incoming.shape.clone();
        let mut shares: Vec<(&str, i64)> = Vec::new();
        let (own, others) = (&shape.terms, &placed.terms);
        for (terms, sign) in [(&own.preferred_affinity, 1), (&own.preferred_anti_affinity, -1)] {
            let about = terms.iter().filter(|(_, term)| about(term, placed, cluster));
            shares.extend(about.map(|(weight, term)| (term.topology_key.as_str(), sign * weight)));
        }
        let hard = others.affinity.iter().filter(|term| self.incoming.matches(term));
        shares.extend(hard.map(|term| (term.topology_key.as_str(), self.hard_weight)));
        for (terms, sign) in [(&others.preferred_affinity, 1), (&others.preferred_anti_affinity, -1)] {
            let about = terms.iter().filter(|(_, term)| self.incoming.matches(term));
            shares.extend(about.map(|(weight, term)| (term.topology_key.as_str(), sign * weight)));
        }
        for (key, amount) in shares {
            self.tallies.add(at, cluster, (0, key, amount));
        }
    }
}

impl Score for Liking {
    fn is_local(&self) -> bool {
        false
    }

    fn observe(&mut self, at: usize, node: &NodeInfo, cluster: &Snapshot) {
        self.tallies.withdraw(at, node);
        let placed = if self.prefers { &node.pods } else { &node.affine };
        placed.iter().for_each(|placed| self.count(at, placed, cluster));
    }

    fn is_idle(&self) -> bool {
        self.tallies.totals[0] == 0
    }

    fn score(&self, at: usize, _node: &NodeInfo) -> i64 {
        (0..self.tallies.topologies.len()).map(|topology| self.tallies.sum(0, topology, at)).sum()
    }

    fn is_final(&self) -> bool {
        false
    }

    /// Stretches the scores over the whole range, from the least to the most.
    fn normalise(&self, scores: &mut [i64]) {
        let (least, most) = (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        for score in scores {
            *score = match most > least {
                true => (SCORE_MAX as f64 * ((*score - least) as f64 / (most - least) as f64)) as i64,
                false => 0,
            };
        }
    }
}
