//! What controllers ask of pods: phase, readiness, availability, and which to kill first.

use std::cmp::{Ordering, Reverse};
use std::sync::Arc;
use std::time::Duration;

use coracle_meta::{Resource, Status};
use coracle_reconcile::{EventKind, Outcome, Plan, PodFacts, Write};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::shape::{Item, rfc3339, set_condition, status_of};

pub const PODS: Resource = Resource::new("", "pods");

/// Why pods could not be made, killed or changed, where the last plan ended at that.
#[derive(Clone, Copy, Default)]
pub struct Refused<'a> {
    pub create: Option<&'a Status>,
    pub delete: Option<&'a Status>,
    pub change: Option<&'a Status>,
    /// Of the object; empty where its name was still to be made.
    pub name: &'a str,
}

impl<'a> Refused<'a> {
    /// Their volume claims count as part of pods.
    pub fn of(last: &'a Outcome) -> Refused<'a> {
        let is_ours = |resource: &Resource| {
            resource.group.is_empty() && ["pods", "persistentvolumeclaims"].contains(&&*resource.plural)
        };
        let name = match &last.refused {
            Some(Write::Create { object, .. }) => object["metadata"]["name"].as_str().unwrap_or_default(),
            Some(Write::Patch { name, .. } | Write::Replace { name, .. } | Write::Delete { name, .. }) => name,
            None => "",
        };
        Refused {
            create: last.refusal(|write| matches!(write, Write::Create { resource, .. } if is_ours(resource))),
            delete: last.refusal(|write| matches!(write, Write::Delete { resource, .. } if is_ours(resource))),
            change: last.refusal(
                |write| matches!(write, Write::Patch { resource, subresource: None, .. } if is_ours(resource)),
            ),
            name,
        }
    }

    /// Whether pods could not be made or killed, and why.
    pub fn replicas(&self) -> Option<&'a Status> {
        self.create.or(self.delete)
    }
}

/// Nothing can be made any more in a namespace that goes: that needs no telling.
pub fn is_namespace_terminating(error: &Status) -> bool {
    let causes = error.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// What is asked of every pod of an owner: its tree is not needed for that.
pub fn facts(pod: &Item) -> Arc<PodFacts> {
    PodFacts::of(&pod.object)
}

pub fn phase(pod: &Item) -> &'static str {
    facts(pod).phase
}

/// Neither finished nor on its way out.
pub fn is_active(pod: &Item) -> bool {
    !facts(pod).is_finished() && !pod.meta().is_deleting()
}

/// On its way out and not yet finished.
pub fn is_terminating(pod: &Item) -> bool {
    !facts(pod).is_finished() && pod.meta().is_deleting()
}

pub fn pod_condition<'a>(pod: &'a Item, kind: &str) -> Option<&'a Value> {
    pod.list("/status/conditions").iter().find(|condition| condition["type"] == kind)
}

pub fn is_ready(pod: &Item) -> bool {
    facts(pod).ready.is_some()
}

/// How a controller drives pods away: the reason and message of the pod's DisruptionTarget condition, and the event's
/// reason.
pub struct Disruption {
    pub reason: &'static str,
    pub message: &'static str,
    pub event: &'static str,
}

impl Disruption {
    /// Tells the pod why, deletes it, and says so in an event whose text is `note`.
    pub fn of(&self, pod: &Item, note: impl Into<String>, now: Timestamp) -> Plan {
        let mut status = status_of(pod);
        let condition = json!({"type": "DisruptionTarget", "status": "True", "lastTransitionTime": rfc3339(now),
            "reason": self.reason, "message": self.message});
        set_condition(&mut status, condition);
        let mut writes: Vec<_> = pod.status_write(&PODS, &status).into_iter().collect();
        let mut note = pod.note(EventKind::Normal, self.event, note);
        note.of_write = Some(writes.len());
        writes.push(pod.delete(&PODS));
        Plan { writes, events: vec![note], ..Plan::default() }
    }
}

pub fn ready_since(pod: &Item) -> Option<Timestamp> {
    facts(pod).ready?.0
}

/// How long until a ready pod counts as available; zero when it does, `None` when it is not ready.
pub fn until_available(pod: &Item, min_ready_seconds: i64, now: Timestamp) -> Option<Duration> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready_seconds == 0 {
        return Some(Duration::ZERO);
    }
    let passed = now.duration_since(ready_since(pod)?).as_secs_f64();
    Some(Duration::from_secs_f64((min_ready_seconds as f64 - passed).max(0.0)))
}

pub fn is_available(pod: &Item, min_ready_seconds: i64, now: Timestamp) -> bool {
    until_available(pod, min_ready_seconds, now) == Some(Duration::ZERO)
}

fn restarts_max(pod: &Item) -> i64 {
    let statuses = pod.list("/status/containerStatuses").iter();
    statuses.map(|status| status["restartCount"].as_i64().unwrap_or(0)).max().unwrap_or(0)
}

fn deletion_cost(pod: &Item) -> i32 {
    pod.annotation("controller.kubernetes.io/pod-deletion-cost").and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// Orders pods so that those to delete come first. `rank` counts the active relatives on the same node.
pub fn deletion_order(a: (&Item, usize), b: (&Item, usize), now: Timestamp) -> Ordering {
    let ((a, rank_a), (b, rank_b)) = (a, b);
    let phase_order = |pod: &Item| match phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let key = |pod: &Item, rank: usize| {
        let assigned = !facts(pod).node.is_empty();
        (assigned, phase_order(pod), is_ready(pod), deletion_cost(pod), Reverse(rank))
    };
    let age = |at: Timestamp| {
        let nanos = now.duration_since(at).as_nanos();
        if nanos > 0 { nanos.ilog2() + 1 } else { 0 }
    };
    key(a, rank_a)
        .cmp(&key(b, rank_b))
        .then_with(|| match (ready_since(a), ready_since(b)) {
            (Some(at_a), Some(at_b)) if at_a != at_b => age(at_a).cmp(&age(at_b)).then_with(|| a.uid().cmp(b.uid())),
            _ => Ordering::Equal,
        })
        .then_with(|| restarts_max(b).cmp(&restarts_max(a)))
        .then_with(|| age(a.created()).cmp(&age(b.created())).then_with(|| a.uid().cmp(b.uid())))
}

/// A pod as a template describes it, under its owner.
pub fn from_template(template: &Value, owner: &Item, owner_reference: Value) -> Value {
    let mut metadata = json!({"generateName": format!("{}-", owner.name()), "ownerReferences": [owner_reference]});
    for key in ["labels", "annotations", "finalizers"] {
        if !template["metadata"][key].is_null() {
            metadata[key] = template["metadata"][key].clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}
