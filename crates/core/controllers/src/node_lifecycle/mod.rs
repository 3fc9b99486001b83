//! Nodes that fall silent: their conditions become Unknown, taints keep pods away and drive them off, their pods are
//! told unready. A node is taken for silent when neither its lease nor its status moved for a while, by our own clock.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use coracle_meta::Resource;
use coracle_reconcile::{Controller, EventKind, EventNote, Index, Key, Outcome, Plan, View, Watch};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::pods::{PODS, is_ready};
use crate::shape::{Item, condition, rfc3339, set_condition, status_of};
use crate::taint_eviction::NODES;

const LEASES: Resource = Resource::new("coordination.k8s.io", "leases");
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Silence until a node counts as lost; upstream's `--node-monitor-grace-period`.
const SILENCE_MAX: Duration = Duration::from_secs(50);
/// As long for a node that has never told its status.
const STARTUP_MAX: Duration = Duration::from_secs(60);
/// Pods a decision tells unready; more follow in the next.
const PODS_MAX: usize = 500;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Conditions that keep new pods away while they hold.
const CONDITION_TAINTS: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Remembers when each node was last seen to move: its own clock may be wrong, and after a start every node gets the
/// full time.
#[derive(Default)]
pub struct NodeLifecycle {
    seen: Mutex<BTreeMap<String, Seen>>,
}

#[derive(Clone)]
struct Seen {
    uid: String,
    signs: (Value, Value),
    at: Timestamp,
}

fn removed(name: &str, uid: &str) -> EventNote {
    let message = format!("Node {name} event: Removing Node {name} from Controller");
    let regarding = json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid});
    EventNote { regarding, kind: EventKind::Normal, reason: "RemovingNode", message, of_write: None }
}

impl Controller for NodeLifecycle {
    fn name(&self) -> &'static str {
        "node-lifecycle-controller"
    }

    fn component(&self) -> &'static str {
        "node-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch { resource: NODES, keys: |_, node| vec![Key::of(node)] },
            Watch {
                resource: LEASES,
                keys: |_, lease| match lease.meta.namespace.as_str() {
                    LEASE_NAMESPACE => vec![Key::new("", lease.meta.name.clone())],
                    _ => Vec::new(),
                },
            },
        ]
    }

    fn reads(&self) -> Vec<Resource> {
        vec![PODS]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, now: Timestamp) -> Plan {
        let Some(node) = Item::get(view, &NODES, key) else {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(&key.name);
            let events = seen.map(|seen| removed(&key.name, &seen.uid)).into_iter().collect();
            return Plan { events, ..Plan::default() };
        };
        let (silent, first) = self.silence(view, &node, now);
        let mut plan = Plan::default();
        if first {
            let message = format!("Node {0} event: Registered Node {0} in Controller", node.name());
            plan.events.push(node.note(EventKind::Normal, "RegisteredNode", message));
        }
        let told = condition(node.at("/status"), "Ready").is_some();
        let bound = if told { SILENCE_MAX } else { STARTUP_MAX };
        let mut status = status_of(&node);
        if silent > bound {
            fall_silent(&node, &mut status, now);
            plan.writes.extend(node.status_write(&NODES, &status));
        } else {
            plan.wake_by(bound - silent + Duration::from_millis(1));
        }
        let was_ready = is_true(node.at("/status"), "Ready");
        if was_ready && !is_true(&status, "Ready") {
            let message = format!("Node {} status is now: NodeNotReady", node.name());
            plan.events.push(node.note(EventKind::Normal, "NodeNotReady", message));
        }
        taint(view, &node, &status, &mut plan, now);
        if !is_true(&status, "Ready") && condition(&status, "Ready").is_some() {
            unready_pods(view, &node, &mut plan, now);
        }
        plan
    }
}

impl NodeLifecycle {
    /// How long the node has not moved, and whether it was never seen before.
    fn silence(&self, view: &dyn View, node: &Item, now: Timestamp) -> (Duration, bool) {
        let lease = Item::get(view, &LEASES, &Key::new(LEASE_NAMESPACE, node.name()));
        let renewed = lease.map(|lease| lease.at("/spec/renewTime").clone()).unwrap_or_default();
        let ready = condition(node.at("/status"), "Ready");
        let heartbeat = ready.map(|ready| ready["lastHeartbeatTime"].clone()).unwrap_or_default();
        let signs = (renewed, heartbeat);
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(node.name()).cloned();
        let first = known.is_none();
        match known {
            Some(seen) if seen.signs == signs => {
                (Duration::from_secs_f64(now.duration_since(seen.at).as_secs_f64().max(0.0)), first)
            }
            _ => {
                all.insert(node.name().into(), Seen { uid: node.uid().into(), signs, at: now });
                (Duration::ZERO, first)
            }
        }
    }
}

fn is_true(status: &Value, kind: &str) -> bool {
    condition(status, kind).is_some_and(|condition| condition["status"] == "True")
}

/// Nothing is known any more of what the kubelet used to tell.
fn fall_silent(node: &Item, status: &mut Value, now: Timestamp) {
    for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        let new = match condition(status, kind) {
            Some(old) if old["status"] == "Unknown" => continue,
            Some(old) => json!({"type": kind, "status": "Unknown", "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status.",
                "lastHeartbeatTime": old["lastHeartbeatTime"], "lastTransitionTime": rfc3339(now)}),
            None => json!({"type": kind, "status": "Unknown", "reason": "NodeStatusNeverUpdated",
                "message": "Kubelet never posted node status.",
                "lastHeartbeatTime": node.at("/metadata/creationTimestamp"), "lastTransitionTime": rfc3339(now)}),
        };
        set_condition(status, new);
    }
}

/// The taints that conditions call for, the others as they are.
fn taint(view: &dyn View, node: &Item, status: &Value, plan: &mut Plan, now: Timestamp) {
    let ready = condition(status, "Ready").map(|ready| ready["status"].as_str().unwrap_or_default().to_owned());
    let silent_key = match ready.as_deref() {
        Some("True") | None => None,
        Some("False") => Some(NOT_READY),
        Some(_) => Some(UNREACHABLE),
    };
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    wanted.extend(silent_key.map(|key| (key, "NoSchedule")));
    let held = CONDITION_TAINTS.iter().filter(|(kind, _)| is_true(status, kind));
    wanted.extend(held.map(|(_, key)| (*key, "NoSchedule")));
    if node.at("/spec/unschedulable") == true {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    // With no node ready it is we who are cut off: nobody is driven away.
    let cut_off = silent_key.is_some() && !any_other_ready(view, node);
    if !cut_off {
        wanted.extend(silent_key.map(|key| (key, "NoExecute")));
    }
    let old = node.list("/spec/taints");
    let is = |taint: &Value, (key, effect): (&str, &str)| taint["key"] == key && taint["effect"] == effect;
    // Until a node has told anything, its taint of registration stays.
    let ours = |taint: &Value| {
        let key = taint["key"].as_str().unwrap_or_default();
        let silence = [NOT_READY, UNREACHABLE].contains(&key) && ready.is_some();
        silence || key == UNSCHEDULABLE || CONDITION_TAINTS.iter().any(|(_, known)| *known == key)
    };
    let keep = |taint: &&Value| !ours(taint) || wanted.iter().any(|entry| is(taint, *entry));
    let mut new: Vec<Value> = old.iter().filter(keep).cloned().collect();
    for (key, effect) in wanted {
        if !new.iter().any(|taint| is(taint, (key, effect))) {
            new.push(json!({"key": key, "effect": effect, "timeAdded": rfc3339(now)}));
        }
    }
    if new != old {
        let taints = if new.is_empty() { Value::Null } else { json!(new) };
        plan.writes.push(node.patch_this_version(&NODES, json!({"spec": {"taints": taints}})));
    }
}

fn any_other_ready(view: &dyn View, node: &Item) -> bool {
    let others = Item::all(view.list(&NODES, None));
    others.iter().any(|other| other.name() != node.name() && is_true(other.at("/status"), "Ready"))
}

/// Pods of a silent node serve nobody.
fn unready_pods(view: &dyn View, node: &Item, plan: &mut Plan, now: Timestamp) {
    let pods = Item::all(view.by_index(&PODS, Index::Node, node.name()));
    for pod in pods.iter().filter(|pod| is_ready(pod)).take(PODS_MAX) {
        let mut status = status_of(pod);
        let mut ready = condition(&status, "Ready").cloned().unwrap_or_default();
        ready["status"] = json!("False");
        ready["lastTransitionTime"] = json!(rfc3339(now));
        set_condition(&mut status, ready);
        plan.writes.extend(pod.status_write(&PODS, &status));
        plan.events.push(pod.note(EventKind::Warning, "NodeNotReady", "Node is not ready"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::{FakeView, Witness};

    fn at(seconds: u64) -> Timestamp {
        "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + Duration::from_secs(seconds)
    }

    fn node(name: &str, ready: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"conditions": [
            {"type": "Ready", "status": ready, "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}})
    }

    fn lease(renewed: &str) -> Value {
        json!({"metadata": {"name": "x", "namespace": LEASE_NAMESPACE}, "spec": {"renewTime": renewed}})
    }

    fn taints(view: &FakeView) -> Vec<String> {
        let node = view.json(&NODES, "", "x");
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        taints
            .iter()
            .map(|taint| format!("{}:{}", taint["key"].as_str().unwrap(), taint["effect"].as_str().unwrap()))
            .collect()
    }

    #[test]
    fn a_silent_node_is_unknown_and_drives_pods_away() {
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "x"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let view = FakeView::new()
            .with(NODES, node("x", "True"))
            .with(NODES, node("y", "True"))
            .with(LEASES, lease("a"))
            .with(PODS, pod);
        let (controller, key) = (NodeLifecycle::default(), Key::new("", "x"));
        assert!(view.settle(&controller, &key, at(0)).is_empty());
        view.put(&LEASES, lease("b"));
        assert!(view.settle(&controller, &key, at(49)).is_empty());
        let plan = controller.decide(&view, &key, &Outcome::default(), at(60));
        assert_eq!(plan.wake_after, Some(Duration::from_millis(39_001)));
        view.settle(&controller, &key, at(100));
        let status = view.json(&NODES, "", "x")["status"].clone();
        let ready = condition(&status, "Ready").unwrap();
        assert_eq!((&ready["status"], &ready["reason"]), (&json!("Unknown"), &json!("NodeStatusUnknown")));
        assert_eq!(taints(&view), [format!("{UNREACHABLE}:NoSchedule"), format!("{UNREACHABLE}:NoExecute")]);
        assert!(!is_true(&view.json(&PODS, "n", "p")["status"], "Ready"));
        view.remove(&NODES, "", "x");
        let gone = controller.decide(&view, &key, &Outcome::default(), at(100));
        assert_eq!((gone.events[0].reason, gone.events[0].regarding["name"].as_str()), ("RemovingNode", Some("x")));
        assert!(controller.decide(&view, &key, &Outcome::default(), at(100)).is_empty());
    }

    #[test]
    fn with_no_node_ready_nobody_is_driven_away() {
        let view = FakeView::new().with(NODES, node("x", "False"));
        let controller = NodeLifecycle::default();
        view.settle(&controller, &Key::new("", "x"), at(0));
        assert_eq!(taints(&view), [format!("{NOT_READY}:NoSchedule")]);
    }

    #[test]
    fn a_ready_node_loses_its_taints_and_a_cordoned_one_gets_one() {
        let mut tree = node("x", "True");
        tree["spec"] = json!({"unschedulable": true, "taints": [{"key": NOT_READY, "effect": "NoSchedule"}, {"key": "mine", "effect": "NoSchedule"}]});
        let view = FakeView::new().with(NODES, tree);
        view.settle(&NodeLifecycle::default(), &Key::new("", "x"), at(0));
        assert_eq!(taints(&view), ["mine:NoSchedule".to_owned(), format!("{UNSCHEDULABLE}:NoSchedule")]);
    }
}
