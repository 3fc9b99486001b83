//! Spreading by score: which nodes' pods count, how many match there, and how much the evenness of their domains is
//! worth. Only nodes with matching pods are remembered, so that a thousand workloads of a few pods each cost little.

use std::collections::HashMap;
use std::sync::Arc;

use crate::framework::{SCORE_MAX, Score};
use crate::node::{NodeFacts, NodeInfo};
use crate::plugins::matches_node;
use crate::pod::{PodInfo, Shape};
use crate::select::{Spread, repelled};
use crate::snapshot::Snapshot;
use crate::topology::{Domains, NOWHERE, bump};

pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// The raw score of a node outside every domain.
const IGNORED: i64 = -1;
/// So many changed nodes are looked at again before all is counted anew.
const FOLLOWED_MIN: usize = 8;

/// Whether pods of all nodes count, whatever the constraint's policies say.
pub fn includes_all(constraint: &Spread, shape: &Shape) -> bool {
    let chooses = !shape.node_selector.is_empty() || shape.node_affinity.is_some();
    !constraint.honor_taints && (!constraint.honor_affinity || !chooses)
}

/// Whether the node's pods count for the constraint, by its policies on affinity and taints.
pub fn includes(constraint: &Spread, shape: &Shape, node: &NodeFacts) -> bool {
    (!constraint.honor_affinity || matches_node(shape, node))
        && (!constraint.honor_taints || !repelled(&shape.tolerations, &node.taints))
}

pub fn matching(constraint: &Spread, namespace: &str, node: &NodeInfo) -> i64 {
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

/// Matching pods, for one constraint.
struct Tally {
    constraint: Spread,
    /// Whether the same pods match as for the constraint before.
    as_before: bool,
    is_host: bool,
    includes_all: bool,
    domains: Domains,
    /// Of nodes that have any: the domain they count in, and how many.
    of_node: HashMap<u32, (u32, i64)>,
    /// By place, where each host is a domain of its own; else by domain. Those that are not there have none.
    sums: Vec<i64>,
}

impl Tally {
    fn set(&mut self, at: u32, is: (u32, i64)) {
        let was = match is.1 {
            0 => self.of_node.remove(&at),
            _ => self.of_node.insert(at, is),
        };
        for (sign, (domain, pods)) in [(-1, was.unwrap_or((NOWHERE, 0))), (1, is)] {
            let sum = if self.is_host { at } else { domain };
            if sum != NOWHERE && pods != 0 {
                bump(&mut self.sums, sum, sign * pods);
            }
        }
    }

    fn domain(&self, at: usize, node: &NodeFacts, (shape, outside): (&Shape, bool)) -> u32 {
        let counts = !outside && (self.includes_all || includes(&self.constraint, shape, node));
        if counts { self.domains[at] } else { NOWHERE }
    }

    fn sum(&self, at: usize) -> i64 {
        let index = if self.is_host { at } else { self.domains[at] as usize };
        self.sums.get(index).copied().unwrap_or(0)
    }
}

/// The preference for nodes of less filled domains.
pub struct Even {
    shape: Arc<Shape>,
    each: Vec<Tally>,
    /// Whether a node counts only where it has the labels of all constraints.
    needs_all: bool,
    /// Of the domains.
    version: u64,
    /// By constraint: few domains matter more than many, which balance by themselves.
    weights: Vec<f64>,
    /// By domain: the last round in which it was seen.
    stamps: Vec<u32>,
    round: u32,
}

impl Even {
    pub fn new(pod: &PodInfo, constraints: Vec<Spread>, needs_all: bool, cluster: &Snapshot) -> Even {
        let mut each = Vec::<Tally>::new();
        for constraint in constraints {
            each.push(Tally {
                as_before: each.last().is_some_and(|before| before.constraint.selector == constraint.selector),
                is_host: constraint.topology_key == HOSTNAME,
                includes_all: includes_all(&constraint, pod),
                domains: cluster.domains(&constraint.topology_key),
                of_node: HashMap::new(),
                sums: Vec::new(),
                constraint,
            });
        }
        let (version, weights) = (cluster.domains_version(), vec![0.0; each.len()]);
        Even { shape: pod.shape.clone(), each, needs_all, version, weights, stamps: Vec::new(), round: 0 }
    }

    fn is_outside(&self, at: usize) -> bool {
        self.needs_all && self.each.iter().any(|tally| tally.domains[at] == NOWHERE)
    }

    fn renew_domains(&mut self, cluster: &Snapshot) {
        if self.version != cluster.domains_version() {
            self.version = cluster.domains_version();
            for tally in &mut self.each {
                tally.domains = cluster.domains(&tally.constraint.topology_key);
            }
        }
    }

    /// How many different domains the nodes are in; nodes in none make one of their own where they are not ignored.
    fn domains(&mut self, constraint: usize, feasible: &[u32]) -> usize {
        self.round = self.round.wrapping_add(1);
        let (mut count, mut nowhere) = (0, 0);
        for at in feasible.iter().map(|at| *at as usize) {
            if self.is_outside(at) {
                continue;
            }
            let domain = self.each[constraint].domains[at];
            if domain == NOWHERE {
                nowhere = 1;
                continue;
            }
            if domain as usize >= self.stamps.len() {
                self.stamps.resize(domain as usize + 1, 0);
            }
            let stamp = &mut self.stamps[domain as usize];
            count += usize::from(*stamp != self.round);
            *stamp = self.round;
        }
        count + nowhere
    }
}

impl Score for Even {
    fn is_local(&self) -> bool {
        false
    }

    fn observe_all(&mut self, cluster: &Snapshot) {
        self.renew_domains(cluster);
        let mut matching = HashMap::new();
        for index in 0..self.each.len() {
            let tally = &mut self.each[index];
            tally.of_node.clear();
            tally.sums.clear();
            if !tally.as_before {
                let selector = &tally.constraint.selector;
                let all = || cluster.matching(&self.shape.namespace, selector);
                matching = if selector.is_everything() { HashMap::new() } else { all() };
            }
            for (at, pods) in &matching {
                let (node, outside) = (&cluster.nodes()[*at as usize], self.is_outside(*at as usize));
                let domain = self.each[index].domain(*at as usize, node, (&self.shape, outside));
                self.each[index].set(*at, (domain, *pods));
            }
        }
    }

    fn follow(&mut self, places: &[u32], cluster: &Snapshot) {
        let known = self.each.iter().map(|tally| tally.of_node.len()).max().unwrap_or(0);
        if places.len() > known + FOLLOWED_MIN {
            return self.observe_all(cluster);
        }
        for at in places.iter().map(|at| *at as usize) {
            self.observe(at, &cluster.nodes()[at], cluster);
        }
    }

    fn observe(&mut self, at: usize, node: &NodeInfo, cluster: &Snapshot) {
        self.renew_domains(cluster);
        let (outside, mut pods) = (self.is_outside(at), 0);
        for tally in &mut self.each {
            if !tally.as_before {
                pods = matching(&tally.constraint, &self.shape.namespace, node);
            }
            let domain = tally.domain(at, node, (&self.shape, outside));
            tally.set(at as u32, (domain, pods));
        }
    }

    fn begin(&mut self, feasible: &[u32]) {
        for constraint in 0..self.each.len() {
            let size = match self.each[constraint].is_host {
                true if !self.needs_all => feasible.len(),
                true => feasible.iter().filter(|at| !self.is_outside(**at as usize)).count(),
                false => self.domains(constraint, feasible),
            };
            self.weights[constraint] = ((size + 2) as f64).ln();
        }
    }

    fn score(&self, at: usize, _node: &NodeInfo) -> i64 {
        if self.is_outside(at) {
            return IGNORED;
        }
        let mut score = 0.0;
        for (tally, weight) in self.each.iter().zip(&self.weights) {
            if tally.domains[at] != NOWHERE {
                score += tally.sum(at) as f64 * weight + (tally.constraint.max_skew - 1) as f64;
            }
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
