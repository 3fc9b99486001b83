//! One scheduling cycle: filter nodes, score those left, choose.

use std::collections::{BTreeSet, HashSet};

use crate::class::{Class, Verdict};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

/// Nodes that are always looked at; of more, a share is enough.
const FEASIBLE_MIN: usize = 100;
const PERCENT_MIN: usize = 5;

/// How a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// How many of all nodes to find, in per cent; 0 lets the number of nodes decide.
    pub percent: u32,
    /// Where in the order of nodes to begin.
    pub start: usize,
    /// Breaks ties.
    pub turn: usize,
}

/// What a search found.
#[derive(Debug, Default)]
pub struct Found {
    pub feasible: Vec<u32>,
    pub rejected: Vec<(u32, Verdict)>,
    /// The plugin that rejected the node that the pod is nominated to.
    pub against_nominated: Option<&'static str>,
}

impl Found {
    pub fn looked_at(&self) -> usize {
        self.feasible.len() + self.rejected.len()
    }
}

/// How many feasible nodes are enough. Kube-scheduler's `numFeasibleNodesToFind`.
pub fn enough(nodes: usize, percent: u32) -> usize {
    if nodes < FEASIBLE_MIN {
        return nodes;
    }
    let percent = match percent {
        0 => 50usize.saturating_sub(nodes / 125).max(PERCENT_MIN),
        percent => percent as usize,
    };
    (nodes * percent / 100).max(FEASIBLE_MIN)
}

/// Looks for nodes that can take the pod: first at the one it is nominated to, then in turn until enough are found.
pub fn find(pod: &PodInfo, class: &mut Class, cluster: &Snapshot, order: &[u32], search: Search) -> Found {
    class.begin();
    // The node where room was made is likely the only one; where it fits, nothing else is looked at.
    let nominated = nominated(pod, cluster).map(|at| (at as u32, judge(pod, class, cluster, at)));
    if let Some((at, None)) = nominated {
        return Found { feasible: vec![at], ..Found::default() };
    }
    let mut found = find_anywhere(pod, class, cluster, order, search);
    // What stands against it counts, though the pod may name other nodes.
    if let Some((at, Some(verdict))) = nominated
        && found.feasible.is_empty()
    {
        found.against_nominated = Some(class.status(verdict).0);
        if found.rejected.iter().all(|(other, _)| *other != at) {
            found.rejected.push((at, verdict));
        }
    }
    found
}

/// Looks for nodes in turn until enough are found, in a round that has begun.
pub fn find_anywhere(pod: &PodInfo, class: &mut Class, cluster: &Snapshot, order: &[u32], search: Search) -> Found {
    let named: Option<Vec<u32>> =
        class.among().map(|(names, _)| names.iter().filter_map(|name| Some(cluster.place(name)? as u32)).collect());
    let order = named.as_deref().unwrap_or(order);
    let wanted = enough(order.len(), search.percent);
    let promised = promised(pod, cluster);
    let mut found = Found::default();
    let (before, from) = order.split_at(search.start % order.len().max(1));
    for at in from.iter().chain(before).copied() {
        let verdict = match promised.is_empty() || !promised.contains(&at) {
            true => class.verdict(at as usize, cluster),
            false => judge(pod, class, cluster, at as usize),
        };
        match verdict {
            None => found.feasible.push(at),
            Some(verdict) => found.rejected.push((at, verdict)),
        }
        if found.feasible.len() >= wanted {
            break;
        }
    }
    found
}

/// The places of nodes on which the pod has to leave room for others.
fn promised(pod: &PodInfo, cluster: &Snapshot) -> HashSet<u32> {
    let nodes = cluster.nominations.nodes().filter(|node| cluster.nominations.before(pod, node).next().is_some());
    nodes.filter_map(|node| Some(cluster.place(node)? as u32)).collect()
}

/// Where the pod is nominated to.
fn nominated(pod: &PodInfo, cluster: &Snapshot) -> Option<usize> {
    cluster.place(cluster.nominations.node_of(&pod.key).unwrap_or(pod.nominated()))
}

/// The verdict on a node. Where pods of no less importance are nominated to it, the pod has to fit with and without
/// them.
pub fn judge(pod: &PodInfo, class: &mut Class, cluster: &Snapshot, at: usize) -> Option<Verdict> {
    let node = &cluster.nodes()[at];
    if !cluster.nominations.is_empty()
        && let Some((plugin, status)) = with_nominated(pod, class, cluster, at, node)
    {
        return Some(class.number(plugin, status));
    }
    class.verdict(at, cluster)
}

/// Judges a node, given as it is or as it might be, with the pods nominated to it; `None` where they do not stand in
/// the way.
pub fn with_nominated(
    pod: &PodInfo,
    class: &mut Class,
    cluster: &Snapshot,
    at: usize,
    node: &NodeInfo,
) -> Option<(&'static str, crate::framework::Status)> {
    let mut full = None;
    for other in cluster.nominations.before(pod, &node.name) {
        full.get_or_insert_with(|| node.clone()).add(other.clone());
    }
    let full = full?;
    class.pretend(at, &full, cluster);
    let judged = class.judge(at, &full);
    class.pretend(at, node, cluster);
    judged
}

/// The best of the feasible nodes.
pub fn choose(class: &mut Class, cluster: &Snapshot, feasible: &[u32], turn: usize) -> u32 {
    if let [only] = feasible {
        return *only;
    }
    pick(feasible, &class.totals(feasible, cluster.nodes()), turn)
}

/// The node with the greatest total; of equals, by turns.
pub fn pick(feasible: &[u32], totals: &[i64], turn: usize) -> u32 {
    let most = totals.iter().copied().max().unwrap_or(0);
    let equals = totals.iter().filter(|total| **total == most).count();
    let chosen = feasible.iter().zip(totals).filter(|(_, total)| **total == most).nth(turn % equals.max(1));
    *chosen.expect("some node has the most").0
}

/// The plugins that rejected nodes.
pub fn rejectors(class: &Class, found: &Found) -> BTreeSet<&'static str> {
    let verdicts: BTreeSet<Verdict> = found.rejected.iter().map(|(_, verdict)| *verdict).collect();
    let mut by: BTreeSet<_> = verdicts.into_iter().map(|verdict| class.status(verdict).0).collect();
    by.extend(class.among().into_iter().flat_map(|(_, by)| by).copied());
    by
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_clusters_are_searched_in_part() {
        for (nodes, percent, wanted) in
            [(99, 0, 99), (100, 0, 100), (1000, 0, 420), (5000, 0, 500), (10_000, 0, 500), (1000, 30, 300)]
        {
            assert_eq!(enough(nodes, percent), wanted, "{nodes} nodes, {percent} %");
        }
    }
}
