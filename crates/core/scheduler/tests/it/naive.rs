//! Scheduling done the long way: every plugin asked anew about every node, and the two rules that look at the whole
//! cluster written down as their definitions have them.

use std::collections::BTreeMap;

use coracle_scheduler::cycle::{Search, enough};
use coracle_scheduler::framework::{Point, PreFilter, Status};
use coracle_scheduler::plugins::by_name;
use coracle_scheduler::profile::Enabled;
use coracle_scheduler::select::{PodTerm, Spread, repelled};
use coracle_scheduler::{NodeInfo, PodInfo, Snapshot};

/// Who rejects a node, and how.
pub type Rejection = (&'static str, Status);

#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// With the sum of all scores.
    pub feasible: Vec<(u32, i64)>,
    pub rejected: Vec<(u32, Rejection)>,
}

/// What `find` and `totals` have to come to, for a pod that no plugin rejects as a whole.
pub fn decide(pod: &PodInfo, plugins: &[Enabled], cluster: &Snapshot, order: &[u32], search: Search) -> Outcome {
    let mut outcome = Outcome::default();
    let wanted = enough(order.len(), search.percent);
    let turned = (0..order.len()).map(|index| order[(search.start + index) % order.len()]);
    let mut feasible = Vec::new();
    for at in turned {
        if feasible.len() == wanted {
            break;
        }
        match with_and_without_promised(pod, plugins, cluster, at as usize) {
            None => feasible.push(at),
            Some(rejection) => outcome.rejected.push((at, rejection)),
        }
    }
    let totals = scores(pod, plugins, cluster, &feasible);
    outcome.feasible = feasible.into_iter().zip(totals).collect();
    outcome
}

fn with_and_without_promised(pod: &PodInfo, plugins: &[Enabled], cluster: &Snapshot, at: usize) -> Option<Rejection> {
    let nodes = cluster.nodes();
    let promised = cluster.nominations.at(&nodes[at].name).iter();
    let promised: Vec<_> =
        promised.filter(|other| other.priority >= pod.priority && other.uid != pod.uid).cloned().collect();
    let crowded = (!promised.is_empty()).then(|| {
        let mut full = nodes.to_vec();
        promised.into_iter().for_each(|other| full[at].add(other));
        judge(pod, plugins, (cluster, &full), at)
    });
    crowded.flatten().or_else(|| judge(pod, plugins, (cluster, nodes), at))
}

fn judge(
    pod: &PodInfo,
    plugins: &[Enabled],
    (cluster, nodes): (&Snapshot, &[NodeInfo]),
    at: usize,
) -> Option<Rejection> {
    let plugins = plugins.iter().filter(|enabled| enabled.at(Point::Filter)).map(|enabled| &enabled.plugin);
    plugins.into_iter().find_map(|plugin| {
        let status = match plugin.name() {
            "PodTopologySpread" => spread(pod, nodes, at),
            "InterPodAffinity" => company(pod, cluster, nodes, at),
            _ => match plugin.pre_filter(pod, cluster) {
                PreFilter::Check(check) | PreFilter::Among(_, check) => check.filter(at, &nodes[at]),
                PreFilter::Wide(mut check) => {
                    nodes.iter().enumerate().for_each(|(at, node)| check.observe(at, node, cluster));
                    check.filter(at, &nodes[at]).map(|answer| check.answers()[answer].status())
                }
                PreFilter::Skip | PreFilter::Reject(_) => None,
            },
        };
        status.map(|status| (plugin.name(), status))
    })
}

/// Kubernetes, "Pod Topology Spread Constraints": the skew of each constraint that must hold.
fn spread(pod: &PodInfo, nodes: &[NodeInfo], at: usize) -> Option<Status> {
    let rules: Vec<&Spread> = pod.spread.iter().filter(|rule| rule.required).collect();
    rules.iter().find_map(|rule| {
        let Some(own) = nodes[at].label(&rule.topology_key) else {
            let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
            return Some(Status::lasting(reason));
        };
        let mut domains: BTreeMap<&str, i64> = BTreeMap::new();
        for node in nodes.iter().filter(|node| rules.iter().all(|rule| node.label(&rule.topology_key).is_some())) {
            let admitted = pod.node_selector.iter().all(|(key, value)| node.label(key) == Some(value.as_str()));
            if (rule.honor_affinity && !admitted) || (rule.honor_taints && repelled(&pod.tolerations, &node.taints)) {
                continue;
            }
            let counted = node.pods.iter().filter(|placed| {
                !placed.deleting
                    && placed.shape.namespace == pod.shape.namespace
                    && rule.selector.matches(&placed.labels)
            });
            *domains.entry(node.label(&rule.topology_key)?).or_default() += counted.count() as i64;
        }
        let least = match domains.values().min() {
            None => i64::from(i32::MAX),
            Some(_) if (domains.len() as i64) < rule.min_domains => 0,
            Some(least) => *least,
        };
        let here = domains.get(own).copied().unwrap_or(0) + i64::from(rule.selector.matches(&pod.labels));
        let reason = "node(s) didn't match pod topology spread constraints";
        (here - least > rule.max_skew).then(|| Status::new(reason))
    })
}

/// Kubernetes, "Inter-pod affinity and anti-affinity": the terms that must hold, the pod's and those of placed pods.
fn company(pod: &PodInfo, cluster: &Snapshot, nodes: &[NodeInfo], at: usize) -> Option<Status> {
    let about = |term: &PodTerm, other: &PodInfo| {
        let namespace = &other.shape.namespace;
        term.matches(&other.labels, namespace, cluster.namespace_labels(namespace))
    };
    let together = |term: &PodTerm, node: &NodeInfo| {
        let here = nodes[at].label(&term.topology_key);
        here.is_some() && here == node.label(&term.topology_key)
    };
    let placed = || nodes.iter().flat_map(|node| node.pods.iter().map(move |placed| (node, placed)));
    let with = &pod.terms.affinity;
    let all_about = |placed: &PodInfo| with.iter().all(|term| about(term, placed));
    let found = |term: &PodTerm| placed().any(|(node, placed)| together(term, node) && all_about(placed));
    let nobody = || {
        let counts = |node: &NodeInfo| with.iter().any(|term| node.label(&term.topology_key).is_some());
        !placed().any(|(node, placed)| counts(node) && all_about(placed))
    };
    let known = with.iter().all(|term| nodes[at].label(&term.topology_key).is_some());
    if !known || !(with.iter().all(found) || (nobody() && all_about(pod))) {
        return Some(Status::lasting("node(s) didn't match pod affinity rules"));
    }
    let apart = &pod.terms.anti_affinity;
    if placed().any(|(node, placed)| apart.iter().any(|term| together(term, node) && about(term, placed))) {
        return Some(Status::new("node(s) didn't match pod anti-affinity rules"));
    }
    let unwanted = |(node, placed): (&NodeInfo, &std::sync::Arc<PodInfo>)| {
        placed.terms.anti_affinity.iter().any(|term| together(term, node) && about(term, pod))
    };
    placed().any(unwanted).then(|| Status::new("node(s) didn't satisfy existing pods anti-affinity rules"))
}

fn scores(pod: &PodInfo, plugins: &[Enabled], cluster: &Snapshot, feasible: &[u32]) -> Vec<i64> {
    let mut totals = vec![0; feasible.len()];
    for enabled in plugins.iter().filter(|enabled| enabled.at(Point::Score)) {
        assert!(by_name(enabled.plugin.name(), coracle_meta::Gates::default()).is_some());
        let Some(mut check) = enabled.plugin.pre_score(pod, cluster) else { continue };
        check.observe_all(cluster);
        check.begin(feasible);
        let score = |at: &u32| check.score(*at as usize, &cluster.nodes()[*at as usize]);
        let mut scores: Vec<i64> = feasible.iter().map(score).collect();
        if !check.is_idle() {
            check.normalise(&mut scores);
            totals.iter_mut().zip(scores).for_each(|(total, score)| *total += score * enabled.weight);
        }
    }
    totals
}
