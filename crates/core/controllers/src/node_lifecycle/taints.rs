//! The taints of a node that its conditions call for.

use coracle_reconcile::Plan;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::is_true;
use crate::shape::{Item, condition, rfc3339};
use crate::taint_eviction::NODES;

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that keep new pods away while they hold.
const CONDITION_TAINTS: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// What becomes of the pods of a node that is not ready.
#[derive(Clone, Copy, PartialEq)]
pub enum Driving {
    Out,
    /// They stay until it is this node's turn.
    NotYet,
    /// Nobody is driven away, and nobody is to be any more.
    Nobody,
}

/// Whether pods are driven off already.
pub fn drives(node: &Item) -> bool {
    node.list("/spec/taints").iter().any(|taint| taint["effect"] == "NoExecute" && is_of_silence(taint))
}

fn is_of_silence(taint: &Value) -> bool {
    taint["key"] == NOT_READY || taint["key"] == UNREACHABLE
}

/// The taints that conditions call for, the others as they are.
pub fn taint(node: &Item, status: &Value, driving: Driving, plan: &mut Plan, now: Timestamp) {
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
    if driving == Driving::Out {
        wanted.extend(silent_key.map(|key| (key, "NoExecute")));
    }
    let old = node.list("/spec/taints");
    let is = |taint: &Value, (key, effect): (&str, &str)| taint["key"] == key && taint["effect"] == effect;
    // Until a node has told anything, its taint of registration stays.
    let ours = |taint: &Value| match taint["effect"].as_str() {
        _ if is_of_silence(taint) => ready.is_some(),
        Some("NoSchedule") => {
            taint["key"] == UNSCHEDULABLE || CONDITION_TAINTS.iter().any(|(_, known)| taint["key"] == *known)
        }
        _ => false,
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
