//! Pods leave nodes whose NoExecute taints they do not tolerate, at once or when their patience ends.

use std::time::Duration;

use coracle_meta::{Object, Resource};
use coracle_reconcile::{Controller, Index, Key, Outcome, Plan, PodFacts, View, Watch};
use jiff::Timestamp;
use serde_json::Value;

use crate::pods::{Disruption, PODS};
use crate::shape::{Item, time};
use crate::tolerations::eviction_seconds;

pub const NODES: Resource = Resource::new("", "nodes");

const EVICTION: Disruption = Disruption {
    reason: "DeletionByTaintManager",
    message: "Taint manager: deleting due to NoExecute taint",
    event: "TaintManagerEviction",
};

pub struct TaintEviction;

impl Controller for TaintEviction {
    fn name(&self) -> &'static str {
        "taint-eviction-controller"
    }

    /// Upstream lets it act with the rights of the node controller.
    fn identity(&self) -> &'static str {
        "node-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch { resource: PODS, keys: pod_keys },
            Watch {
                resource: NODES,
                keys: |view, node| {
                    view.by_index(&PODS, Index::Node, &node.meta.name).iter().map(|pod| Key::of(pod)).collect()
                },
            },
        ]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, now: Timestamp) -> Plan {
        let pod = Item::get(view, &PODS, key).filter(|pod| !pod.meta().is_deleting());
        let Some(pod) = pod else { return Plan::default() };
        let Some(node) = Item::get(view, &NODES, &Key::new("", &*PodFacts::of(&pod.object).node)) else {
            return Plan::default();
        };
        let taints: Vec<&Value> =
            node.list("/spec/taints").iter().filter(|taint| taint["effect"] == "NoExecute").collect();
        let Some(seconds) = eviction_seconds(pod.list("/spec/tolerations"), &taints) else { return Plan::default() };
        let since = taints.iter().filter_map(|taint| time(&taint["timeAdded"])).max().unwrap_or(now);
        let left = seconds as f64 - now.duration_since(since).as_secs_f64();
        if seconds > 0 && left > 0.0 {
            return Plan::wake(Duration::from_secs_f64(left));
        }
        let message = format!("Marking for deletion Pod {}/{}", pod.namespace(), pod.name());
        EVICTION.of(&pod, message, now)
    }
}

/// Only pods on a node that drives any out.
fn pod_keys(view: &dyn View, pod: &Object) -> Vec<Key> {
    let node = view.get(&NODES, "", &PodFacts::of(pod).node);
    if node.is_some_and(|node| node.kept(drives_out).0) { vec![Key::of(pod)] } else { Vec::new() }
}

/// Whether a node has a taint that drives pods out.
struct DrivesOut(bool);

fn drives_out(node: &Object) -> DrivesOut {
    let tree = node.decode::<Value>().unwrap_or_default();
    let mut taints = tree["spec"]["taints"].as_array().into_iter().flatten();
    DrivesOut(taints.any(|taint| taint["effect"] == "NoExecute"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::{FakeView, Witness};
    use serde_json::json;

    #[test]
    fn patience_is_counted_from_the_taint() {
        let pod = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"nodeName": "x", "tolerations": [
            {"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]}});
        let node = json!({"metadata": {"name": "x"}, "spec": {"taints": [
            {"key": "k", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}]}});
        let view = FakeView::new().with(PODS, pod).with(NODES, node);
        let (key, start) = (Key::new("n", "a"), "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap());
        let early = TaintEviction.decide(&view, &key, &Outcome::default(), start + Duration::from_secs(100));
        assert_eq!(early, Plan::wake(Duration::from_secs(200)));
        view.settle(&TaintEviction, &key, start + Duration::from_secs(301));
        assert!(view.names(&PODS).is_empty());
    }
}
