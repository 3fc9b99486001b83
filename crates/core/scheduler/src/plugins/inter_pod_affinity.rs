//! Pods choose the company of other pods, or keep away from it, within a topology: by rule and by score.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::framework::{Answer, Change, Kind, Plugin, Point, PreFilter, SCORE_MAX, Score, Wide};
use crate::node::{NodeFacts, NodeInfo};
use crate::pod::{PodInfo, Shape};
use crate::select::{Labels, PodTerm};
use crate::snapshot::Snapshot;
use crate::topology::{Domains, NOWHERE, bump};

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

fn any_about(terms: &[PodTerm], pod: &PodInfo) -> bool {
    terms.iter().any(|term| may_match(term, pod))
}

/// Where a term chooses namespaces by label, it may be about a pod in any.
fn may_match(term: &PodTerm, pod: &PodInfo) -> bool {
    let chosen = !term.namespace_selector.is_nothing();
    (chosen || term.namespaces.contains(&pod.shape.namespace)) && term.selector.matches(&pod.labels)
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
    // The first of a group is let in where none is left that it has to join.
    let is_last = |old: &PodInfo| all_about(with, old) && all_about(with, pod);
    match (old, new) {
        (Some(old), Some(new)) => {
            all_about(with, old) != all_about(with, new)
                || apart.iter().any(|term| may_match(term, old) && !may_match(term, new))
                || (old.terms != new.terms && any_about(&old.terms.anti_affinity, pod))
        }
        (None, Some(new)) => all_about(with, new),
        (Some(old), None) => any_about(apart, old) || any_about(&old.terms.anti_affinity, pod) || is_last(old),
        (None, None) => false,
    }
}

/// Others' terms may have kept the pod away, whose topologies are not known here: any label may be one.
fn after_node(old: Option<&NodeFacts>, new: &NodeFacts) -> bool {
    old.is_none_or(|old| old.labels != new.labels)
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn pre_filter(&self, pod: &PodInfo, cluster: &Snapshot) -> PreFilter {
        PreFilter::Wide(Box::new(Rules::new(pod, cluster)))
    }

    fn pre_score(&self, pod: &PodInfo, cluster: &Snapshot) -> Option<Box<dyn Score>> {
        let prefers = !pod.terms.preferred_affinity.is_empty() || !pod.terms.preferred_anti_affinity.is_empty();
        let counts = prefers || !self.args.ignore_preferred_terms_of_existing_pods;
        counts.then(|| {
            let incoming = Incoming::new(pod, cluster);
            let tallies = Tallies::new(1, cluster);
            Box::new(Liking { incoming, tallies, prefers, hard_weight: self.args.hard_pod_affinity_weight })
                as Box<dyn Score>
        })
    }

    fn wakes(&self) -> &'static [Kind] {
        &[Kind::NodeAdded, Kind::NodeUpdated, Kind::PodPlaced, Kind::PodUpdated, Kind::PodGone]
    }

    fn hint(&self, pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::NodeAdded(node) => after_node(None, node),
            Change::NodeUpdated { old, new } => after_node(Some(old), new),
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

/// Whether a term of the pod to be scheduled is about another. Kube-scheduler 1.36 asks the namespace selector of such a
/// term twice: about the namespace's labels, and about none. What it excludes by label it therefore takes in after all.
fn about(term: &PodTerm, placed: &PodInfo, cluster: &Snapshot) -> bool {
    let namespace = &placed.shape.namespace;
    term.matches(&placed.labels, namespace, cluster.namespace_labels(namespace))
        || term.matches(&placed.labels, namespace, &[])
}

/// Neighbours are often of one shape; each such run of pods, with its length.
fn runs(pods: &[Arc<PodInfo>]) -> impl Iterator<Item = (&PodInfo, i64)> {
    let same = |one: &Arc<PodInfo>, other: &Arc<PodInfo>| Arc::ptr_eq(&one.shape, &other.shape);
    pods.chunk_by(same).map(|run| (run[0].as_ref(), run.len() as i64))
}

/// Sums by topology and domain, of several sorts, kept up to date node by node.
struct Tallies {
    keys: Vec<String>,
    /// By topology, as of the version.
    domains: Vec<Domains>,
    version: u64,
    /// By sort, topology and domain.
    sums: Vec<Vec<Vec<i64>>>,
    /// By sort: how much the nodes contribute in all, without regard to sign.
    totals: Vec<i64>,
    /// Of the nodes that contribute anything.
    of_node: HashMap<u32, Vec<Share>>,
}

struct Share {
    sort: usize,
    topology: usize,
    domain: u32,
    amount: i64,
    /// Without regard to sign.
    gross: i64,
}

impl Tallies {
    fn new(sorts: usize, cluster: &Snapshot) -> Tallies {
        Tallies {
            keys: Vec::new(),
            domains: Vec::new(),
            version: cluster.domains_version(),
            sums: vec![Vec::new(); sorts],
            totals: vec![0; sorts],
            of_node: HashMap::new(),
        }
    }

    /// The number of a topology.
    fn topology(&mut self, key: &str, cluster: &Snapshot) -> usize {
        self.keys.iter().position(|known| known == key).unwrap_or_else(|| {
            self.keys.push(key.to_owned());
            self.domains.push(cluster.domains(key));
            self.sums.iter_mut().for_each(|sums| sums.push(Vec::new()));
            self.keys.len() - 1
        })
    }

    /// Whether anything is or was there to count, where only pods with terms are counted.
    fn may_change(&self, cluster: &Snapshot) -> bool {
        !self.of_node.is_empty() || cluster.has_affine()
    }

    /// Takes a node's shares back, before they are counted anew.
    fn withdraw(&mut self, at: usize, cluster: &Snapshot) {
        if self.version != cluster.domains_version() {
            self.version = cluster.domains_version();
            self.domains = self.keys.iter().map(|key| cluster.domains(key)).collect();
        }
        if self.of_node.is_empty() {
            return;
        }
        for share in self.of_node.remove(&(at as u32)).into_iter().flatten() {
            bump(&mut self.sums[share.sort][share.topology], share.domain, -share.amount);
            self.totals[share.sort] -= share.gross;
        }
    }

    fn add(&mut self, at: usize, cluster: &Snapshot, (sort, key, amount): (usize, &str, i64)) {
        let topology = self.topology(key, cluster);
        let domain = self.domains[topology][at];
        if domain == NOWHERE || amount == 0 {
            return;
        }
        bump(&mut self.sums[sort][topology], domain, amount);
        self.totals[sort] += amount.abs();
        let shares = self.of_node.entry(at as u32).or_default();
        match shares.iter_mut().find(|share| share.sort == sort && share.topology == topology) {
            Some(share) => {
                share.amount += amount;
                share.gross += amount.abs();
            }
            None => shares.push(Share { sort, topology, domain, amount, gross: amount.abs() }),
        }
    }

    fn sum(&self, sort: usize, topology: usize, at: usize) -> i64 {
        let domain = self.domains[topology][at];
        self.sums[sort][topology].get(domain as usize).copied().unwrap_or(0)
    }

    fn is_somewhere(&self, topology: usize, at: usize) -> bool {
        self.domains[topology][at] != NOWHERE
    }
}

/// Placed pods that match all terms of the pod's affinity.
const WANTED: usize = 0;
/// Placed pods that match a term of its anti-affinity.
const UNWANTED: usize = 1;
/// Terms of placed pods' anti-affinity that are about the pod.
const FORBIDDEN: usize = 2;

const ANSWERS: [Answer; 3] = [
    Answer::lasting("node(s) didn't match pod affinity rules"),
    Answer::new("node(s) didn't match pod anti-affinity rules"),
    Answer::new("node(s) didn't satisfy existing pods anti-affinity rules"),
];

struct Rules {
    incoming: Incoming,
    tallies: Tallies,
    /// The topologies of the pod's terms of affinity and of anti-affinity.
    with: Vec<usize>,
    apart: Vec<usize>,
    /// Whether all terms of affinity are about the pod itself.
    matches_itself: bool,
}

impl Rules {
    fn new(pod: &PodInfo, cluster: &Snapshot) -> Rules {
        let incoming = Incoming::new(pod, cluster);
        let mut tallies = Tallies::new(3, cluster);
        let mut topology = |term: &PodTerm| tallies.topology(&term.topology_key, cluster);
        let with = pod.terms.affinity.iter().map(&mut topology).collect();
        let apart = pod.terms.anti_affinity.iter().map(&mut topology).collect();
        let matches_itself = pod.terms.affinity.iter().all(|term| about(term, pod, cluster));
        Rules { incoming, tallies, with, apart, matches_itself }
    }

    fn has_terms(&self) -> bool {
        !self.with.is_empty() || !self.apart.is_empty()
    }

    fn count_own(&mut self, at: usize, (placed, count): (&PodInfo, i64), cluster: &Snapshot) {
        let shape = self.incoming.shape.clone();
        let (with, apart) = (&shape.terms.affinity, &shape.terms.anti_affinity);
        if !with.is_empty() && with.iter().all(|term| about(term, placed, cluster)) {
            with.iter().for_each(|term| self.tallies.add(at, cluster, (WANTED, &term.topology_key, count)));
        }
        for term in apart.iter().filter(|term| about(term, placed, cluster)) {
            self.tallies.add(at, cluster, (UNWANTED, &term.topology_key, count));
        }
    }

    /// Whether every required term finds company at the node. The first pod of a group that wants its own company is
    /// let in where the topology exists.
    fn finds_company(&self, at: usize) -> bool {
        if self.with.iter().any(|topology| !self.tallies.is_somewhere(*topology, at)) {
            return false;
        }
        let all = self.with.iter().all(|topology| self.tallies.sum(WANTED, *topology, at) > 0);
        all || (self.tallies.totals[WANTED] == 0 && self.matches_itself)
    }
}

impl Wide for Rules {
    fn answers(&self) -> &'static [Answer] {
        &ANSWERS
    }

    fn is_idle(&self) -> bool {
        !self.has_terms() && self.tallies.totals[FORBIDDEN] == 0
    }

    fn observe_all(&mut self, cluster: &Snapshot) {
        match self.has_terms() {
            true => (0..cluster.nodes().len()).for_each(|at| self.observe(at, &cluster.nodes()[at], cluster)),
            false => cluster.affine().for_each(|at| self.observe(at, &cluster.nodes()[at], cluster)),
        }
    }

    fn follow(&mut self, places: &[u32], cluster: &Snapshot) {
        if self.has_terms() || self.tallies.may_change(cluster) {
            places.iter().for_each(|at| self.observe(*at as usize, &cluster.nodes()[*at as usize], cluster));
        }
    }

    fn observe(&mut self, at: usize, node: &NodeInfo, cluster: &Snapshot) {
        self.tallies.withdraw(at, cluster);
        for (placed, count) in runs(&node.affine) {
            for term in placed.terms.anti_affinity.iter().filter(|term| self.incoming.matches(term)) {
                self.tallies.add(at, cluster, (FORBIDDEN, &term.topology_key, count));
            }
        }
        if self.has_terms() {
            runs(&node.pods).for_each(|run| self.count_own(at, run, cluster));
        }
    }

    fn filter(&self, at: usize, _node: &NodeInfo) -> Option<usize> {
        if !self.finds_company(at) {
            return Some(0);
        }
        if self.apart.iter().any(|topology| self.tallies.sum(UNWANTED, *topology, at) > 0) {
            return Some(1);
        }
        let forbidden = |topology| self.tallies.sum(FORBIDDEN, topology, at) > 0;
        (self.tallies.totals[FORBIDDEN] > 0 && (0..self.tallies.keys.len()).any(forbidden)).then_some(2)
    }
}

struct Liking {
    incoming: Incoming,
    tallies: Tallies,
    prefers: bool,
    hard_weight: i64,
}

impl Liking {
    fn count(&mut self, at: usize, (placed, count): (&PodInfo, i64), cluster: &Snapshot) {
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
            self.tallies.add(at, cluster, (0, key, amount * count));
        }
    }
}

impl Score for Liking {
    fn is_local(&self) -> bool {
        false
    }

    fn observe_all(&mut self, cluster: &Snapshot) {
        match self.prefers {
            true => (0..cluster.nodes().len()).for_each(|at| self.observe(at, &cluster.nodes()[at], cluster)),
            false => cluster.affine().for_each(|at| self.observe(at, &cluster.nodes()[at], cluster)),
        }
    }

    fn follow(&mut self, places: &[u32], cluster: &Snapshot) {
        if self.prefers || self.tallies.may_change(cluster) {
            places.iter().for_each(|at| self.observe(*at as usize, &cluster.nodes()[*at as usize], cluster));
        }
    }

    fn observe(&mut self, at: usize, node: &NodeInfo, cluster: &Snapshot) {
        self.tallies.withdraw(at, cluster);
        let placed = if self.prefers { &node.pods } else { &node.affine };
        runs(placed).for_each(|run| self.count(at, run, cluster));
    }

    fn is_idle(&self) -> bool {
        self.tallies.totals[0] == 0
    }

    fn score(&self, at: usize, _node: &NodeInfo) -> i64 {
        (0..self.tallies.keys.len()).map(|topology| self.tallies.sum(0, topology, at)).sum()
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
