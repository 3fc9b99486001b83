//! Pods that nobody will ever finish: bound to a node that is gone, deleted before they were scheduled, or finished
//! beyond the number that is kept.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use coracle_meta::Object;
use coracle_reconcile::{Answer, Ask, Controller, Index, Key, Outcome, Plan, PodFacts, View, Watch, Write};
use jiff::Timestamp;
use serde_json::json;

use crate::pods::{self, PODS, phase};
use crate::shape::{Item, rfc3339, set_condition, status_of};
use crate::taint_eviction::NODES;

/// Finished pods that are kept in the cluster.
const FINISHED_MAX: usize = 12_500;
/// How long a node is missed before its pods are taken for lost, as upstream does.
const NODE_MISSED: Duration = Duration::from_secs(40);

/// Remembers since when each node is missed, by a clock that nobody sets: one that only registers anew keeps its pods.
#[derive(Default)]
pub struct PodGarbageCollector {
    missed: Mutex<BTreeMap<String, Duration>>,
}

impl Controller for PodGarbageCollector {
    fn name(&self) -> &'static str {
        "pod-garbage-collector-controller"
    }

    fn component(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch { resource: PODS, keys: pod_keys },
            Watch {
                resource: NODES,
                keys: |view, node| match view.get(&NODES, "", &node.meta.name) {
                    Some(_) => Vec::new(),
                    None => view.by_index(&PODS, Index::Node, &node.meta.name).iter().map(|pod| Key::of(pod)).collect(),
                },
            },
        ]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, now: Timestamp) -> Plan {
        let Some(pod) = Item::get(view, &PODS, key) else { return Plan::default() };
        let facts = PodFacts::of(&pod.object);
        let node = &*facts.node;
        if node.is_empty() {
            let unscheduled = pod.meta().is_deleting();
            return if unscheduled { remove(&pod, None, now) } else { Plan::default() };
        }
        let mut missed = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        if view.get(&NODES, "", node).is_some() {
            missed.remove(node);
            return surplus(view, &pod, now);
        }
        let steady = view.steady();
        if !missed.contains_key(node) {
            missed.retain(|node, _| !view.by_index(&PODS, Index::Node, node).is_empty());
        }
        let end = *missed.entry(node.to_owned()).or_insert(steady) + NODE_MISSED;
        if steady < end {
            return Plan::wake(end - steady);
        }
        let ask = Ask::Read { resource: NODES, namespace: String::new(), name: node.into() };
        match last.answer(&ask) {
            Some(Answer::Object(None)) => {
                let message = "PodGC: node no longer exists";
                remove(&pod, Some(message), now)
            }
            Some(_) => Plan::wake(NODE_MISSED),
            None => Plan { asks: vec![ask], ..Plan::default() },
        }
    }
}

/// Most pods are on a node that is there and have not finished: nothing is decided about them.
fn pod_keys(view: &dyn View, pod: &Object) -> Vec<Key> {
    let facts = PodFacts::of(pod);
    let is_at_home = || view.get(&NODES, "", &facts.node).is_some();
    let is_of_interest = match facts.node.is_empty() {
        true => pod.meta.is_deleting(),
        false => facts.is_finished() || !is_at_home(),
    };
    if is_of_interest { vec![Key::of(pod)] } else { Vec::new() }
}

/// One too many of the finished ones, the oldest first.
fn surplus(view: &dyn View, pod: &Item, now: Timestamp) -> Plan {
    let is_finished = |pod: &Item| pods::facts(pod).is_finished();
    if !is_finished(pod) || pod.meta().is_deleting() {
        return Plan::default();
    }
    if view.count(&PODS) <= FINISHED_MAX {
        return Plan::default();
    }
    let finished: Vec<Item> = Item::all(view.list(&PODS, None)).into_iter().filter(is_finished).collect();
    let older = finished.iter().filter(|other| (other.created(), other.name()) < (pod.created(), pod.name())).count();
    if older < finished.len().saturating_sub(FINISHED_MAX) { remove(pod, None, now) } else { Plan::default() }
}

/// Nobody else will tell how the pod ended: it failed, which whoever counts it by a finalizer waits to hear.
fn remove(pod: &Item, disruption: Option<&str>, now: Timestamp) -> Plan {
    let has_ended = matches!(phase(pod), "Succeeded" | "Failed");
    if has_ended && pod.at("/metadata/deletionGracePeriodSeconds").as_i64() == Some(0) {
        return Plan::default();
    }
    let mut writes = Vec::new();
    if !has_ended {
        let mut status = status_of(pod);
        status["phase"] = json!("Failed");
        status["observedGeneration"] = json!(pod.meta().generation);
        if let Some(message) = disruption {
            let condition = json!({"type": "DisruptionTarget", "status": "True", "lastTransitionTime": rfc3339(now),
                "reason": "DeletionByPodGC", "message": message});
            set_condition(&mut status, condition);
        }
        writes.extend(pod.status_write(&PODS, &status));
    }
    let mut delete = pod.delete(&PODS);
    if let Write::Delete { grace_seconds, .. } = &mut delete {
        *grace_seconds = Some(0);
    }
    writes.push(delete);
    Plan { writes, ..Plan::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::{FakeView, Witness};

    #[test]
    fn a_pod_deleted_before_it_had_a_node_failed() {
        let pod = json!({"metadata": {"name": "a", "namespace": "n", "finalizers": ["batch.kubernetes.io/job-tracking"],
            "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}, "status": {"phase": "Pending"}});
        let view = FakeView::new().with(PODS, pod);
        view.settle(&PodGarbageCollector::default(), &Key::new("n", "a"), Timestamp::UNIX_EPOCH);
        assert_eq!(view.json(&PODS, "n", "a")["status"]["phase"], "Failed");
    }

    #[test]
    fn pods_of_a_node_that_stays_away_are_removed_once_the_store_agrees() {
        let pod = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"nodeName": "x"}});
        let view = FakeView::new().with(PODS, pod);
        let (controller, key) = (PodGarbageCollector::default(), Key::new("n", "a"));
        let look = |seconds: u64, last: &Outcome| {
            controller.decide(view.at(Duration::from_secs(seconds)), &key, last, Timestamp::UNIX_EPOCH)
        };
        let none = Outcome::default();
        assert_eq!(look(5, &none), Plan::wake(NODE_MISSED));
        // It was back for a while.
        view.put(&NODES, json!({"metadata": {"name": "x"}}));
        assert_eq!(look(40, &none), Plan::default());
        view.remove(&NODES, "", "x");
        assert_eq!(look(44, &none), Plan::wake(NODE_MISSED));
        assert_eq!(look(64, &none), Plan::wake(NODE_MISSED / 2));
        let plan = look(84, &none);
        assert_eq!((plan.writes.len(), plan.asks.len()), (0, 1));
        let last = Outcome { asked: plan.asks, answers: vec![Answer::Object(None)], ..Outcome::default() };
        view.apply(&look(84, &last));
        assert!(view.names(&PODS).is_empty());
    }
}
