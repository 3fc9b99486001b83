//! Pods leave nodes whose NoExecute taints they do not tolerate, at once or when their patience ends.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use coracle_meta::{Object, Resource};
use coracle_reconcile::{Controller, EventKind, Index, Key, Outcome, Plan, PodFacts, View, Watch};
use jiff::Timestamp;
use serde_json::Value;

use crate::node::NodeFacts;
use crate::pods::{Disruption, PODS};
use crate::shape::Item;
use crate::tolerations::eviction_seconds;

pub const NODES: Resource = Resource::new("", "nodes");

const EVICTION: Disruption = Disruption {
    reason: "DeletionByTaintManager",
    message: "Taint manager: deleting due to NoExecute taint",
    event: "TaintManagerEviction",
};

/// Remembers since when each pod is on a node that drives it out: by a clock that nobody sets, since a taint may tell no
/// time, or that of a clock that was wrong.
#[derive(Default)]
pub struct TaintEviction {
    due: Mutex<BTreeMap<Key, (String, Duration)>>,
}

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
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let pod = Item::get(view, &PODS, key).filter(|pod| !pod.meta().is_deleting());
        let node =
            pod.as_ref().and_then(|pod| Item::get(view, &NODES, &Key::new("", &*PodFacts::of(&pod.object).node)));
        let (Some(pod), Some(node)) = (pod, node) else {
            due.remove(key);
            return Plan::default();
        };
        let taints: Vec<&Value> =
            node.list("/spec/taints").iter().filter(|taint| taint["effect"] == "NoExecute").collect();
        let name = format!("{}/{}", pod.namespace(), pod.name());
        let Some(seconds) = eviction_seconds(pod.list("/spec/tolerations"), &taints) else {
            let cancelled = due.remove(key).filter(|(uid, _)| uid == pod.uid());
            let note = || pod.note(EventKind::Normal, EVICTION.event, format!("Cancelling deletion of Pod {name}"));
            return Plan { events: cancelled.map(|_| note()).into_iter().collect(), ..Plan::default() };
        };
        let steady = view.steady();
        let entry = due.entry(key.clone()).or_insert_with(|| (pod.uid().to_owned(), steady));
        if entry.0 != pod.uid() {
            *entry = (pod.uid().to_owned(), steady);
        }
        let end = entry.1 + Duration::from_secs(seconds.unsigned_abs());
        if steady < end {
            return Plan::wake(end - steady);
        }
        EVICTION.of(&pod, format!("Marking for deletion Pod {name}"), now)
    }
}

/// Only pods on a node that drives any out.
fn pod_keys(view: &dyn View, pod: &Object) -> Vec<Key> {
    let node = view.get(&NODES, "", &PodFacts::of(pod).node);
    if node.is_some_and(|node| NodeFacts::of(&node).drives_out) { vec![Key::of(pod)] } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::{FakeView, Witness};
    use serde_json::json;

    fn pod(tolerations: Value) -> Value {
        json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"nodeName": "x", "tolerations": tolerations}})
    }

    #[test]
    fn patience_is_counted_from_when_the_taint_was_seen_whatever_time_it_is() {
        let patient = json!([{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]);
        // As `kubectl taint` writes it, without a time.
        let node = json!({"metadata": {"name": "x"}, "spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}});
        let view = FakeView::new().with(PODS, pod(patient)).with(NODES, node.clone());
        let (controller, key, start) = (TaintEviction::default(), Key::new("n", "a"), Timestamp::UNIX_EPOCH);
        let decide = |steady: u64, now: Timestamp| {
            controller.decide(view.at(Duration::from_secs(steady)), &key, &Outcome::default(), now)
        };
        assert_eq!(decide(1000, start), Plan::wake(Duration::from_secs(300)));
        let later = start + Duration::from_secs(1_000_000);
        assert_eq!(decide(1100, later), Plan::wake(Duration::from_secs(200)));
        let mut clean = node.clone();
        clean["spec"]["taints"] = json!([]);
        view.put(&NODES, clean);
        let cancelled = decide(1150, later);
        assert_eq!(cancelled.events[0].message, "Cancelling deletion of Pod n/a");
        view.put(&NODES, node);
        assert_eq!(decide(1200, start), Plan::wake(Duration::from_secs(300)));
        view.settle(&controller, &key, start);
        assert_eq!(view.names(&PODS), ["a"]);
        view.at(Duration::from_secs(1500)).settle(&controller, &key, start);
        assert!(view.names(&PODS).is_empty());
    }
}
