//! Nodes that fall silent: their conditions become Unknown, taints keep pods away and drive them off, their pods are
//! told unready. A node is taken for silent when neither its lease nor its status moved for a while, by a clock that
//! nobody sets: a time of day that jumps says nothing of nodes.

mod taints;
#[cfg(test)]
mod tests;
mod zones;

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
use taints::{Driving, taint};
use zones::{Pace, Zones};

const LEASES: Resource = Resource::new("coordination.k8s.io", "leases");
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Silence until a node counts as lost; upstream's `--node-monitor-grace-period`.
const SILENCE_MAX: Duration = Duration::from_secs(50);
/// As long for a node that has never told its status.
const STARTUP_MAX: Duration = Duration::from_secs(60);
/// How often a node is looked at that is not ready, and how long it has been so before its pods are driven off: time in
/// which others may turn out to be so too. Upstream's `--node-monitor-period`.
const MONITOR: Duration = Duration::from_secs(5);
/// Pods a decision tells unready; more follow in the next.
const PODS_MAX: usize = 500;

/// Remembers when each node was last seen to move: its own clock may be wrong, and after a start every node gets the
/// full time.
#[derive(Default)]
pub struct NodeLifecycle {
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    seen: BTreeMap<String, Seen>,
    pace: Pace,
}

struct Seen {
    uid: String,
    signs: (Value, Value),
    at: Duration,
    /// The version of a ready node that needed nothing: while it stands, a lease that moves says all.
    settled: Option<u64>,
    /// Since when it is not ready.
    unready: Option<Duration>,
    /// Whether its pods have been told unready since.
    pods_told: bool,
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
            Watch::itself(NODES),
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

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, now: Timestamp) -> Plan {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let Memory { seen, pace } = &mut *memory;
        let Some(node) = Item::get(view, &NODES, key) else {
            let events = seen.remove(&key.name).map(|seen| removed(&key.name, &seen.uid)).into_iter().collect();
            return Plan { events, ..Plan::default() };
        };
        let mut plan = Plan::default();
        let renewed = renewed(view, &node);
        if seen.get_mut(node.name()).is_some_and(|seen| seen.goes_on(&node, &renewed, view.steady())) {
            plan.wake_by(SILENCE_MAX + Duration::from_millis(1));
            return plan;
        }
        let first = !seen.contains_key(node.name());
        let seen = seen.entry(node.name().into()).or_insert_with(|| Seen::new(&node));
        if first {
            let message = format!("Node {0} event: Registered Node {0} in Controller", node.name());
            plan.events.push(node.note(EventKind::Normal, "RegisteredNode", message));
        }
        let silent = seen.silence((renewed, heartbeat(&node)), view.steady(), first);
        let told = condition(node.at("/status"), "Ready").is_some();
        let bound = if told { SILENCE_MAX } else { STARTUP_MAX };
        let mut status = status_of(&node);
        if silent > bound {
            fall_silent(&node, &mut status, now);
            plan.writes.extend(node.status_write(&NODES, &status));
        } else {
            plan.wake_by(bound - silent + Duration::from_millis(1));
        }
        let ready = condition(&status, "Ready").is_some_and(|ready| ready["status"] == "True");
        if !ready && is_true(node.at("/status"), "Ready") {
            let message = format!("Node {} status is now: NodeNotReady", node.name());
            plan.events.push(node.note(EventKind::Normal, "NodeNotReady", message));
        }
        if last.error.is_some() || ready {
            seen.pods_told = false;
        }
        seen.unready = (!ready).then(|| seen.unready.unwrap_or(view.steady()));
        let driving = seen.driving(view, &node, pace, &mut plan);
        taint(&node, &status, driving, &mut plan, now);
        if !ready && condition(&status, "Ready").is_some() {
            seen.pods_told = seen.pods_told || unready_pods(view, &node, &mut plan, now);
            plan.wake_by(MONITOR);
        }
        let settled = ready && plan.writes.is_empty() && plan.events.is_empty();
        seen.settled = settled.then_some(node.object.revision);
        plan
    }
}

/// A living node renews its lease,
fn renewed(view: &dyn View, node: &Item) -> Value {
    let lease = Item::get(view, &LEASES, &Key::new(LEASE_NAMESPACE, node.name()));
    lease.map(|lease| lease.at("/spec/renewTime").clone()).unwrap_or_default()
}

/// and the time of its status.
fn heartbeat(node: &Item) -> Value {
    condition(node.at("/status"), "Ready").map(|ready| ready["lastHeartbeatTime"].clone()).unwrap_or_default()
}

impl Seen {
    fn new(node: &Item) -> Seen {
        let signs = (Value::Null, Value::Null);
        Seen { uid: node.uid().into(), signs, at: Duration::ZERO, settled: None, unready: None, pods_told: false }
    }

    /// Whether nothing but the lease of a settled node has moved, which is noted then. Of very many nodes nearly every
    /// look ends here.
    fn goes_on(&mut self, node: &Item, renewed: &Value, now: Duration) -> bool {
        let goes_on = self.settled == Some(node.object.revision) && self.signs.0 != *renewed;
        if goes_on {
            self.signs.0 = renewed.clone();
            self.at = now;
        }
        goes_on
    }

    /// How long the node has not moved.
    fn silence(&mut self, signs: (Value, Value), now: Duration, first: bool) -> Duration {
        if first || self.signs != signs {
            (self.signs, self.at) = (signs, now);
        }
        now.saturating_sub(self.at)
    }

    /// Whether the pods of a node that is not ready are driven off now.
    fn driving(&self, view: &dyn View, node: &Item, pace: &mut Pace, plan: &mut Plan) -> Driving {
        let Some(since) = self.unready else { return Driving::Out };
        let zones = Zones::of(view, node);
        // With no node ready anywhere it is we who are cut off: nobody is driven away.
        if zones.are_cut_off() {
            return Driving::Nobody;
        }
        let now = view.steady();
        if taints::drives(node) {
            return Driving::Out;
        }
        match zones.pause(node) {
            Some(pause) if now >= since + MONITOR => match pace.take(node, pause, now) {
                Ok(()) => Driving::Out,
                Err(wait) => {
                    plan.wake_by(wait);
                    Driving::NotYet
                }
            },
            _ => Driving::NotYet,
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

/// Pods of a node that is not ready serve nobody. They are told once: a kubelet that lives knows better. Answers whether
/// that was all of them.
fn unready_pods(view: &dyn View, node: &Item, plan: &mut Plan, now: Timestamp) -> bool {
    let mut pods = Item::all(view.by_index(&PODS, Index::Node, node.name()));
    pods.retain(is_ready);
    for pod in pods.iter().take(PODS_MAX) {
        let mut status = status_of(pod);
        let mut ready = condition(&status, "Ready").cloned().unwrap_or_default();
        ready["status"] = json!("False");
        ready["lastTransitionTime"] = json!(rfc3339(now));
        set_condition(&mut status, ready);
        plan.writes.extend(pod.status_write(&PODS, &status));
        plan.events.push(pod.note(EventKind::Warning, "NodeNotReady", "Node is not ready"));
    }
    pods.len() <= PODS_MAX
}
