//! Pods choose the company of other pods, or keep away from it, within a topology: by rule and by score.

use std::collections::HashMap;

use crate::framework::{Check, Plugin, Rejection, SCORE_MAX, Wake};
use crate::pod::PodTerm;
use crate::{NodeInfo, PodInfo, Snapshot};

/// How much an existing pod's required affinity for this pod counts in the score (`hardPodAffinityWeight`).
const HARD_WEIGHT: i64 = 1;

pub struct InterPodAffinity;

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Check + 'a>> {
        let own = !pod.affinity.is_empty()
            || !pod.anti_affinity.is_empty()
            || !pod.preferred_affinity.is_empty()
            || !pod.preferred_anti_affinity.is_empty();
        let others =
            snapshot.has_anti_affinity() || snapshot.nodes().any(|node| node.pods.iter().any(|pod| prefers(pod)));
        (own || others).then(|| Box::new(Company::count(pod, snapshot)) as Box<dyn Check>)
    }

    fn wakes(&self) -> &'static [Wake] {
        &[Wake::NodeAdded, Wake::NodeLabels, Wake::PodPlaced, Wake::PodGone]
    }
}

/// Whether a placed pod has terms that count for the score of others.
fn prefers(pod: &PodInfo) -> bool {
    !pod.preferred_affinity.is_empty() || !pod.preferred_anti_affinity.is_empty() || !pod.affinity.is_empty()
}

/// A value of a topology label: `(key, value)`.
type Domain<'a> = (&'a str, &'a str);

/// What was counted over all placed pods, once for the pod to be scheduled.
#[derive(Default)]
struct Company<'a> {
    pod: Option<&'a PodInfo>,
    /// Domains that some placed pod's required anti-affinity forbids.
    forbidden: HashMap<Domain<'a>, usize>,
    /// Placed pods per domain that match all required affinity terms, and each anti-affinity term.
    wanted: HashMap<Domain<'a>, usize>,
    unwanted: HashMap<Domain<'a>, usize>,
    scores: HashMap<Domain<'a>, i64>,
}

impl<'a> Company<'a> {
    fn count(pod: &'a PodInfo, snapshot: &'a Snapshot) -> Company<'a> {
        let mut company = Company { pod: Some(pod), ..Company::default() };
        for node in snapshot.nodes() {
            for placed in &node.pods {
                company.count_required(pod, placed, node, snapshot);
                company.count_preferred(pod, placed, node, snapshot);
            }
        }
        company
    }

    fn count_required(&mut self, pod: &'a PodInfo, placed: &'a PodInfo, node: &'a NodeInfo, snapshot: &Snapshot) {
        for term in placed.anti_affinity.iter().filter(|term| matches(term, pod, snapshot)) {
            add(&mut self.forbidden, node, &term.topology_key, 1);
        }
        for term in pod.anti_affinity.iter().filter(|term| matches(term, placed, snapshot)) {
            add(&mut self.unwanted, node, &term.topology_key, 1);
        }
        if !pod.affinity.is_empty() && pod.affinity.iter().all(|term| matches(term, placed, snapshot)) {
            for term in &pod.affinity {
                add(&mut self.wanted, node, &term.topology_key, 1);
            }
        }
    }

    fn count_preferred(&mut self, pod: &'a PodInfo, placed: &'a PodInfo, node: &'a NodeInfo, snapshot: &Snapshot) {
        let scores = &mut self.scores;
        let mut count = |terms: &'a [(i64, PodTerm)], about: &PodInfo, sign: i64| {
            for (weight, term) in terms.iter().filter(|(_, term)| matches(term, about, snapshot)) {
                add(scores, node, &term.topology_key, sign * weight);
            }
        };
        count(&pod.preferred_affinity, placed, 1);
        count(&pod.preferred_anti_affinity, placed, -1);
        count(&placed.preferred_affinity, pod, 1);
        count(&placed.preferred_anti_affinity, pod, -1);
        for term in placed.affinity.iter().filter(|term| matches(term, pod, snapshot)) {
            add(&mut self.scores, node, &term.topology_key, HARD_WEIGHT);
        }
    }

    /// Whether every required term finds company at the node. The first pod of a group that wants its own company is
    /// let in where the topology exists.
    fn finds_company(&self, pod: &PodInfo, node: &NodeInfo, snapshot_is_empty: bool) -> bool {
        let mut all = true;
        for term in &pod.affinity {
            let Some(value) = node.label(&term.topology_key) else { return false };
            all &= self.wanted.get(&(term.topology_key.as_str(), value)).is_some_and(|count| *count > 0);
        }
        all || (snapshot_is_empty && pod.affinity.iter().all(|term| matches_own(term, pod)))
    }
}

impl Check for Company<'_> {
    fn filter(&self, node: &NodeInfo) -> Vec<Rejection> {
        let Some(pod) = self.pod else { return Vec::new() };
        if !self.finds_company(pod, node, self.wanted.is_empty()) {
            return vec![Rejection::lasting("node(s) didn't match pod affinity rules")];
        }
        let meets = |counts: &HashMap<Domain<'_>, usize>, key: &str| {
            node.label(key).is_some_and(|value| counts.get(&(key, value)).is_some_and(|count| *count > 0))
        };
        if pod.anti_affinity.iter().any(|term| meets(&self.unwanted, &term.topology_key)) {
            return vec![Rejection::new("node(s) didn't match pod anti-affinity rules")];
        }
        if self.forbidden.keys().any(|(key, value)| node.label(key) == Some(value)) {
            return vec![Rejection::new("node(s) didn't satisfy existing pods anti-affinity rules")];
        }
        Vec::new()
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let here = self.scores.iter().filter(|((key, value), _)| node.label(key) == Some(value));
        here.map(|(_, score)| score).sum()
    }

    /// Stretches the scores over the whole range, from the least to the most.
    fn normalise(&self, scores: &mut [i64]) {
        let (least, most) = (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        for score in scores {
            *score = if most > least { SCORE_MAX * (*score - least) / (most - least) } else { 0 };
        }
    }
}

fn add<'a, N: std::ops::AddAssign + Default>(
    counts: &mut HashMap<Domain<'a>, N>,
    node: &'a NodeInfo,
    key: &'a str,
    amount: N,
) {
    if let Some(value) = node.label(key) {
        *counts.entry((key, value)).or_default() += amount;
    }
}

fn matches(term: &PodTerm, pod: &PodInfo, snapshot: &Snapshot) -> bool {
    let listed = term.namespaces.contains(&pod.key.namespace);
    let chosen = || {
        let labels = snapshot.namespace_labels(&pod.key.namespace);
        term.namespace_selector.as_ref().is_some_and(|selector| selector.matches(labels))
    };
    (listed || chosen()) && term.selector.matches(&pod.labels)
}

fn matches_own(term: &PodTerm, pod: &PodInfo) -> bool {
    let here = term.namespaces.contains(&pod.key.namespace) || term.namespace_selector.is_some();
    here && term.selector.matches(&pod.labels)
}
