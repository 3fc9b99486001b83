//! One scheduling cycle: prepare the checks, filter nodes, score those left, choose.

use std::collections::{BTreeMap, BTreeSet};

use crate::framework::{Check, Plugin, Rejection};
use crate::message;
use crate::node::NodeInfo;
use crate::plugins::PLUGINS;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Bind { node: String },
    Unschedulable { message: String, by: BTreeSet<&'static str> },
}

/// Nodes that are always looked at; of more, a share is enough. Kube-scheduler's `numFeasibleNodesToFind`.
const FEASIBLE_MIN: usize = 100;

struct Prepared<'a> {
    plugin: &'static dyn Plugin,
    check: Box<dyn Check + 'a>,
}

/// Decides where the pod goes. `turn` moves the first node looked at, so that on large clusters all get their share,
/// and breaks ties.
pub fn schedule(pod: &PodInfo, snapshot: &Snapshot, turn: usize) -> Decision {
    let prepared: Vec<_> = PLUGINS
        .iter()
        .filter_map(|plugin| Some(Prepared { plugin: *plugin, check: plugin.prepare(pod, snapshot)? }))
        .collect();
    let nodes: Vec<&NodeInfo> = snapshot.nodes().collect();
    let wanted = enough(nodes.len());
    let mut feasible = Vec::new();
    let mut rejected = BTreeMap::new();
    let mut by = BTreeSet::new();
    for index in 0..nodes.len() {
        let node = nodes[(turn + index) % nodes.len()];
        match reject(&prepared, node) {
            None => feasible.push(node),
            Some((plugin, reasons)) => {
                by.insert(plugin);
                rejected.insert(node.name.clone(), reasons);
            }
        }
        if feasible.len() >= wanted {
            break;
        }
    }
    match feasible.len() {
        0 => Decision::Unschedulable { message: message::unschedulable(&rejected), by },
        1 => Decision::Bind { node: feasible[0].name.clone() },
        _ => Decision::Bind { node: best(&prepared, &feasible, turn).name.clone() },
    }
}

/// How many feasible nodes are enough: half of 100 nodes' worth falling to 5 % as the cluster grows.
fn enough(nodes: usize) -> usize {
    if nodes < FEASIBLE_MIN {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(FEASIBLE_MIN)
}

/// The first plugin against the node and its reasons.
fn reject(prepared: &[Prepared<'_>], node: &NodeInfo) -> Option<(&'static str, Vec<Rejection>)> {
    prepared.iter().find_map(|prepared| {
        let reasons = prepared.check.filter(node);
        (!reasons.is_empty()).then(|| (prepared.plugin.name(), reasons))
    })
}

fn best<'n>(prepared: &[Prepared<'_>], feasible: &[&'n NodeInfo], turn: usize) -> &'n NodeInfo {
    let mut totals = vec![0; feasible.len()];
    for prepared in prepared.iter().filter(|prepared| prepared.plugin.weight() > 0) {
        let mut scores: Vec<i64> = feasible.iter().map(|node| prepared.check.score(node)).collect();
        prepared.check.normalise(&mut scores);
        for (total, score) in totals.iter_mut().zip(&scores) {
            *total += score * prepared.plugin.weight();
        }
    }
    let most = totals.iter().copied().max().unwrap_or(0);
    let equals: Vec<_> = feasible.iter().zip(&totals).filter(|(_, total)| **total == most).collect();
    equals[turn % equals.len()].0
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Node, Pod};
    use serde_json::{Value, json};

    use super::*;

    fn cluster(nodes: &[Value], placed: &[Value]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for node in nodes {
            snapshot.set_node(&serde_json::from_value::<Node>(node.clone()).unwrap());
        }
        for pod in placed {
            let pod = PodInfo::new(&serde_json::from_value::<Pod>(pod.clone()).unwrap());
            let node = pod.node_name.clone();
            snapshot.place(pod, &node);
        }
        snapshot
    }

    fn node(name: &str, extra: Value) -> Value {
        let mut node = json!({
            "metadata": {"name": name, "labels": {"zone": name}},
            "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}},
        });
        merge(&mut node, extra);
        node
    }

    fn pod(extra: Value) -> Value {
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "default", "labels": {"app": "a"}},
            "spec": {"containers": [{"name": "c"}]},
        });
        merge(&mut pod, extra);
        pod
    }

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
            }
            (into, from) => *into = from,
        }
    }

    fn decide(nodes: &[Value], placed: &[Value], pod: Value) -> Result<String, String> {
        let pod = PodInfo::new(&serde_json::from_value::<Pod>(pod).unwrap());
        match schedule(&pod, &cluster(nodes, placed), 0) {
            Decision::Bind { node } => Ok(node),
            Decision::Unschedulable { message, .. } => Err(message),
        }
    }

    #[test]
    fn the_emptier_node_is_chosen() {
        let nodes = [node("a", json!({})), node("b", json!({}))];
        let busy = pod(json!({
            "metadata": {"name": "busy"},
            "spec": {"nodeName": "a", "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
        }));
        assert_eq!(decide(&nodes, &[busy], pod(json!({}))), Ok("b".into()));
    }

    #[test]
    fn requests_beyond_what_is_left_are_refused_with_the_count() {
        let nodes = [node("a", json!({}))];
        let large = pod(json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "3"}}}]}}));
        assert_eq!(
            decide(&nodes, &[], large).unwrap_err(),
            "0/1 nodes are available: 1 Insufficient cpu. \
             preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
        );
    }

    #[test]
    fn a_taint_needs_its_toleration() {
        let nodes = [node("a", json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]}}))];
        let message = decide(&nodes, &[], pod(json!({}))).unwrap_err();
        assert!(message.starts_with("0/1 nodes are available: 1 node(s) had untolerated taint(s)."), "{message}");
        let tolerant = pod(json!({"spec": {"tolerations": [{"key": "k", "operator": "Exists"}]}}));
        assert_eq!(decide(&nodes, &[], tolerant), Ok("a".into()));
    }

    #[test]
    fn anti_affinity_keeps_pods_apart_and_affinity_together() {
        let nodes = [node("a", json!({})), node("b", json!({}))];
        let placed = pod(json!({"metadata": {"name": "first"}, "spec": {"nodeName": "a"}}));
        let term = json!([{"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": "zone"}]);
        let with = |side: &str| {
            pod(json!({"spec": {"affinity": {side: {"requiredDuringSchedulingIgnoredDuringExecution": term}}}}))
        };
        assert_eq!(decide(&nodes, std::slice::from_ref(&placed), with("podAntiAffinity")), Ok("b".into()));
        assert_eq!(decide(&nodes, &[placed], with("podAffinity")), Ok("a".into()));
    }

    #[test]
    fn the_first_of_a_group_that_wants_its_own_company_is_let_in() {
        let term = json!([{"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": "zone"}]);
        let first = pod(
            json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}}}),
        );
        assert_eq!(decide(&[node("a", json!({}))], &[], first), Ok("a".into()));
    }

    #[test]
    fn spreading_bounds_the_skew() {
        let nodes = [node("a", json!({})), node("b", json!({"spec": {"unschedulable": true}}))];
        let placed = pod(json!({"metadata": {"name": "first"}, "spec": {"nodeName": "a"}}));
        let spread = pod(json!({"spec": {"topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "a"}},
        }]}}));
        let message = decide(&nodes, &[placed], spread).unwrap_err();
        assert!(message.contains("1 node(s) didn't match pod topology spread constraints"), "{message}");
    }
}
