//! ReplicaSets, and ReplicationControllers with the same decision: as many pods as asked for, of one template.

use std::collections::HashMap;
use std::time::Duration;

use coracle_meta::{Object, Resource};
use coracle_reconcile::{Controller, EventKind, Key, Outcome, Plan, View, Watch, Write};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::claim::{Claim, Claimed};
use crate::pods::{self, PODS, Refused};
use crate::selector::Selector;
use crate::shape::{Item, condition, controller_key, remove_condition, rfc3339, set_condition, set_count, status_of};

pub const REPLICA_SETS: Resource = Resource::new("apps", "replicasets");
const REPLICATION_CONTROLLERS: Resource = Resource::new("", "replicationcontrollers");
/// Pods created or deleted by one decision.
const BURST_MAX: usize = 500;

pub struct ReplicaSet;
pub struct ReplicationController;

/// What tells the two kinds apart.
struct Kind {
    resource: Resource,
    api_version: &'static str,
    kind: &'static str,
    selector: fn(&Item) -> Selector,
    terminating: bool,
}

const SET: Kind = Kind {
    resource: REPLICA_SETS,
    api_version: "apps/v1",
    kind: "ReplicaSet",
    selector: |set| Selector::parse(set.at("/spec/selector")),
    terminating: true,
};
const CONTROLLER: Kind = Kind {
    resource: REPLICATION_CONTROLLERS,
    api_version: "v1",
    kind: "ReplicationController",
    selector: |set| Selector::labels(set.at("/spec/selector")),
    terminating: false,
};

impl Controller for ReplicaSet {
    fn name(&self) -> &'static str {
        "replicaset-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::itself(REPLICA_SETS), Watch { resource: PODS, keys: |view, pod| pod_keys(view, pod, &SET) }]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, now: Timestamp) -> Plan {
        Decision::make(&SET, view, key, last, now).unwrap_or_default()
    }
}

impl Controller for ReplicationController {
    fn name(&self) -> &'static str {
        "replicationcontroller-controller"
    }

    fn component(&self) -> &'static str {
        "replication-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::itself(REPLICATION_CONTROLLERS),
            Watch { resource: PODS, keys: |view, pod| pod_keys(view, pod, &CONTROLLER) },
        ]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, now: Timestamp) -> Plan {
        Decision::make(&CONTROLLER, view, key, last, now).unwrap_or_default()
    }
}

/// The owner of a pod, or all that might adopt an orphan.
fn pod_keys(view: &dyn View, pod: &Object, kind: &Kind) -> Vec<Key> {
    if pod.meta.controller().is_some() {
        let group = kind.resource.group.as_ref();
        return controller_key(pod, group, kind.kind).into_iter().collect();
    }
    let sets = Item::all(view.list(&kind.resource, Some(&pod.meta.namespace)));
    let adopting = sets.iter().filter(|set| (kind.selector)(set).matches(&pod.meta));
    adopting.map(|set| Key::of(&set.object)).collect()
}

struct Decision<'a> {
    kind: &'a Kind,
    set: Item,
    active: Vec<Item>,
    refused: Refused<'a>,
    now: Timestamp,
}

impl<'a> Decision<'a> {
    fn make(kind: &'a Kind, view: &dyn View, key: &Key, last: &'a Outcome, now: Timestamp) -> Option<Plan> {
        let set = Item::get(view, &kind.resource, key)?;
        let selector = (kind.selector)(&set);
        let claim = Claim {
            owner: &set,
            owners: &kind.resource,
            api_version: kind.api_version,
            kind: kind.kind,
            selector: &selector,
            resource: &PODS,
            finalizer: None,
            last,
        };
        let Claimed { items, writes, wait } = claim.run(view, |pod| !pods::facts(pod).is_finished());
        if wait.is_some() {
            return wait;
        }
        let (terminating, active): (Vec<Item>, Vec<Item>) = items.into_iter().partition(pods::is_terminating);
        let refused = Refused::of(last);
        let mut plan = Plan { writes, ..Plan::default() };
        let decision = Decision { kind, set, active, refused, now };
        decision.count(view, &mut plan, terminating.len() as i64);
        decision.wait_for_availability(&mut plan);
        Some(plan)
    }

    /// Creates what is missing, deletes what is too much, and tells the status. After a failure the status comes
    /// first, since the next attempt may fail as well.
    fn count(&self, view: &dyn View, plan: &mut Plan, terminating: i64) {
        let wanted = self.set.at("/spec/replicas").as_i64().unwrap_or(1);
        let difference = self.active.len() as i64 - wanted;
        let status = self.set.status_write(&self.kind.resource, &self.status(difference, terminating));
        if self.refused.replicas().is_some() {
            plan.writes.extend(status.clone());
        }
        if !self.set.meta().is_deleting() && difference < 0 {
            self.create(plan, difference.unsigned_abs() as usize);
        } else if !self.set.meta().is_deleting() && difference > 0 {
            self.delete(view, plan, difference as usize);
        }
        if self.refused.replicas().is_none() {
            plan.writes.extend(status);
        }
    }

    fn create(&self, plan: &mut Plan, missing: usize) {
        if let Some(error) = self.refused.create {
            if pods::is_namespace_terminating(error) {
                return;
            }
            let message = format!("Error creating: {}", error.message);
            plan.events.push(self.set.note(EventKind::Warning, "FailedCreate", message));
        }
        let owner = self.set.controller_reference(self.kind.api_version, self.kind.kind);
        let pod = pods::from_template(self.set.at("/spec/template"), &self.set, owner);
        for _ in 0..missing.min(BURST_MAX) {
            let mut note = self.set.note(EventKind::Normal, "SuccessfulCreate", "Created pod: {name}");
            note.of_write = Some(plan.writes.len());
            plan.events.push(note);
            let namespace = self.set.namespace().into();
            plan.writes.push(Write::Create { resource: PODS, namespace, object: pod.clone() });
        }
    }

    fn delete(&self, view: &dyn View, plan: &mut Plan, surplus: usize) {
        if let Some(error) = self.refused.delete {
            let message = format!("Error deleting: {}", error.message);
            plan.events.push(self.set.note(EventKind::Warning, "FailedDelete", message));
        }
        let per_node = self.relatives_per_node(view);
        let rank = |pod: &Item| per_node.get(&*pods::facts(pod).node).copied().unwrap_or(0);
        let mut ranked: Vec<(&Item, usize)> = self.active.iter().map(|pod| (pod, rank(pod))).collect();
        ranked.sort_by(|a, b| pods::deletion_order(*a, *b, self.now));
        for (pod, _) in ranked.into_iter().take(surplus.min(BURST_MAX)) {
            let mut note = self.set.note(EventKind::Normal, "SuccessfulDelete", "Deleted pod: {name}");
            note.of_write = Some(plan.writes.len());
            plan.events.push(note);
            plan.writes.push(pod.delete(&PODS));
        }
    }

    /// Active pods by node of all sets under the same controller (the revisions of one Deployment).
    fn relatives_per_node(&self, view: &dyn View) -> HashMap<String, usize> {
        let owner = self.set.meta().controller().map(|owner| owner.uid.clone());
        let uids: Vec<String> = match owner {
            Some(owner) => {
                let sets = view.by_index(&self.kind.resource, coracle_reconcile::Index::Owner, &owner);
                sets.iter().map(|set| set.meta.uid.clone()).collect()
            }
            None => vec![self.set.uid().to_owned()],
        };
        let mut counts = HashMap::new();
        for uid in uids {
            let pods = Item::all(view.by_index(&PODS, coracle_reconcile::Index::Owner, &uid));
            for pod in pods.iter().filter(|pod| pods::is_active(pod)) {
                *counts.entry(pods::facts(pod).node.to_string()).or_default() += 1;
            }
        }
        counts
    }

    fn status(&self, difference: i64, terminating: i64) -> Value {
        let min_ready = self.set.int("/spec/minReadySeconds");
        let template = json!({"matchLabels": self.set.at("/spec/template/metadata/labels")});
        let template = Selector::parse(&template);
        let count = |wanted: &dyn Fn(&Item) -> bool| self.active.iter().filter(|pod| wanted(pod)).count() as i64;
        let mut status = status_of(&self.set);
        status["replicas"] = json!(self.active.len());
        set_count(&mut status, "fullyLabeledReplicas", count(&|pod| template.matches(pod.meta())));
        set_count(&mut status, "readyReplicas", count(&pods::is_ready));
        set_count(&mut status, "availableReplicas", count(&|pod| pods::is_available(pod, min_ready, self.now)));
        if self.kind.terminating {
            status["terminatingReplicas"] = json!(terminating);
        }
        set_count(&mut status, "observedGeneration", self.set.meta().generation);
        self.tell_failure(&mut status, difference);
        status
    }

    fn tell_failure(&self, status: &mut Value, difference: i64) {
        if difference == 0 {
            remove_condition(status, "ReplicaFailure");
        } else if let Some(error) = self.refused.replicas().filter(|_| condition(status, "ReplicaFailure").is_none()) {
            let reason = if difference < 0 { "FailedCreate" } else { "FailedDelete" };
            let failure = json!({"type": "ReplicaFailure", "status": "True", "lastTransitionTime": rfc3339(self.now),
                "reason": reason, "message": error.message});
            set_condition(status, failure);
        }
    }

    fn wait_for_availability(&self, plan: &mut Plan) {
        let min_ready = self.set.int("/spec/minReadySeconds");
        let waits = self.active.iter().filter_map(|pod| pods::until_available(pod, min_ready, self.now));
        if let Some(wait) = waits.filter(|wait| !wait.is_zero()).min() {
            plan.wake_by(wait + Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_meta::Status;
    use coracle_reconcile::Answer;
    use coracle_testkit::{FakeView, Witness};

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().unwrap()
    }

    fn set(replicas: i64) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": "web", "namespace": "n", "generation": 2},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}}})
    }

    fn pod(name: &str, ready: bool) -> Value {
        let status = if ready { "True" } else { "False" };
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n",
                "labels": {"app": "web"}, "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                "name": "web", "uid": "web-uid", "controller": true}]},
            "spec": {"nodeName": "a"}, "status": {"phase": "Running",
                "conditions": [{"type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
    }

    #[test]
    fn missing_pods_are_created_and_counted() {
        let view = FakeView::new().with(REPLICA_SETS, set(3));
        let plans = view.settle(&ReplicaSet, &Key::new("n", "web"), now());
        assert_eq!(view.names(&PODS).len(), 3);
        assert_eq!(plans[0].events[0].reason, "SuccessfulCreate");
        let status = view.json(&REPLICA_SETS, "n", "web")["status"].clone();
        let expected =
            json!({"replicas": 3, "fullyLabeledReplicas": 3, "terminatingReplicas": 0, "observedGeneration": 2});
        assert_eq!(status, expected);
    }

    #[test]
    fn surplus_pods_die_unready_first() {
        let view = FakeView::new()
            .with(REPLICA_SETS, set(1))
            .with(PODS, pod("a", true))
            .with(PODS, pod("b", false))
            .with(PODS, pod("c", false));
        view.settle(&ReplicaSet, &Key::new("n", "web"), now());
        assert_eq!(view.names(&PODS), ["a"]);
    }

    #[test]
    fn orphans_are_adopted_and_strangers_released() {
        let mut orphan = pod("a", true);
        orphan["metadata"]["ownerReferences"] = json!([]);
        let mut stranger = pod("b", true);
        stranger["metadata"]["labels"] = json!({"app": "other"});
        let view = FakeView::new().with(REPLICA_SETS, set(1)).with(PODS, orphan).with(PODS, stranger);
        view.settle(&ReplicaSet, &Key::new("n", "web"), now());
        assert_eq!(view.json(&PODS, "n", "a")["metadata"]["ownerReferences"][0]["uid"], "web-uid");
        assert!(view.json(&PODS, "n", "b")["metadata"]["ownerReferences"].is_null());
        assert_eq!(view.names(&PODS).len(), 2);
    }

    #[test]
    fn an_owner_that_only_the_view_still_shows_adopts_nobody() {
        let mut orphan = pod("a", true);
        orphan["metadata"]["ownerReferences"] = json!([]);
        let view = FakeView::new().with(REPLICA_SETS, set(1)).with(PODS, orphan);
        let key = Key::new("n", "web");
        let first = ReplicaSet.decide(&view, &key, &Outcome::default(), now());
        assert_eq!((first.writes.len(), first.asks.len()), (0, 1), "neither adopted nor replaced yet");
        let going = json!({"metadata": {"uid": "web-uid", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let another = json!({"metadata": {"uid": "another"}});
        let adopts = |answer: Answer| {
            let last = Outcome { asked: first.asks.clone(), answers: vec![answer], ..Outcome::default() };
            let plan = ReplicaSet.decide(&view, &key, &last, now());
            let adopts = plan.writes.iter().any(|write| matches!(write, Write::Patch { subresource: None, .. }));
            (adopts, plan.writes.is_empty())
        };
        assert_eq!(adopts(Answer::Object(None)), (false, false));
        assert_eq!(adopts(Answer::Object(Some(going))), (false, false));
        assert_eq!(adopts(Answer::Object(Some(another))), (false, false));
        assert_eq!(adopts(Answer::Failed(Status::internal("no"))), (false, true));
        assert_eq!(adopts(Answer::Object(Some(json!({"metadata": {"uid": "web-uid"}})))), (true, false));
    }

    #[test]
    fn replication_controllers_do_the_same() {
        let mut controller = set(2);
        controller["kind"] = json!("ReplicationController");
        controller["spec"]["selector"] = json!({"app": "web"});
        let mut own = pod("a", true);
        own["metadata"]["ownerReferences"][0]["kind"] = json!("ReplicationController");
        own["metadata"]["ownerReferences"][0]["apiVersion"] = json!("v1");
        let view = FakeView::new().with(REPLICATION_CONTROLLERS, controller).with(PODS, own);
        let key = Key::new("n", "web");
        let decide = |last: &Outcome| ReplicationController.decide(&view, &key, last, now());
        let refused = |at: usize| {
            let refused = decide(&Outcome::default()).writes.get(at).cloned();
            Outcome { error: Some(Status::new(403, "Forbidden", "no")), refused, ..Outcome::default() }
        };
        let told = decide(&refused(0));
        assert_eq!(told.events[0].reason, "FailedCreate");
        view.apply(&told);
        view.settle(&ReplicationController, &key, now());
        let status = view.json(&REPLICATION_CONTROLLERS, "n", "web")["status"].clone();
        assert_eq!(
            (&status["replicas"], &status["readyReplicas"], &status["availableReplicas"]),
            (&json!(2), &json!(1), &json!(1))
        );
        let mut fewer = view.json(&REPLICATION_CONTROLLERS, "n", "web");
        fewer["spec"]["replicas"] = json!(0);
        view.put(&REPLICATION_CONTROLLERS, fewer);
        assert_eq!(decide(&refused(0)).events[0].reason, "FailedDelete");
        view.settle(&ReplicationController, &key, now());
        assert!(view.names(&PODS).is_empty());
    }

    #[test]
    fn a_refused_deletion_is_told() {
        let error = || Some(Status::new(500, "InternalError", "no"));
        let view = FakeView::new().with(REPLICA_SETS, set(0)).with(PODS, pod("a", true));
        let first = ReplicaSet.decide(&view, &Key::new("n", "web"), &Outcome::default(), now());
        let last = Outcome { error: error(), refused: first.writes.first().cloned(), ..Outcome::default() };
        let plan = ReplicaSet.decide(&view, &Key::new("n", "web"), &last, now());
        assert_eq!((plan.events[0].reason, plan.events[0].message.as_str()), ("FailedDelete", "Error deleting: no"));
        // What was refused was no pod.
        let last = Outcome { error: error(), refused: first.writes.last().cloned(), ..Outcome::default() };
        let plan = ReplicaSet.decide(&view, &Key::new("n", "web"), &last, now());
        assert_eq!(plan.events[0].reason, "SuccessfulDelete");
    }

    #[test]
    fn a_refused_creation_is_told() {
        let view = FakeView::new().with(REPLICA_SETS, set(1));
        let first = ReplicaSet.decide(&view, &Key::new("n", "web"), &Outcome::default(), now());
        let error = Some(Status::new(403, "Forbidden", "exceeded quota"));
        let last = Outcome { error, refused: first.writes.first().cloned(), ..Outcome::default() };
        let plan = ReplicaSet.decide(&view, &Key::new("n", "web"), &last, now());
        assert_eq!(
            (plan.events[0].reason, plan.events[0].message.as_str()),
            ("FailedCreate", "Error creating: exceeded quota")
        );
        view.apply(&plan);
        let failure = view.json(&REPLICA_SETS, "n", "web")["status"]["conditions"][0].clone();
        assert_eq!((&failure["type"], &failure["reason"]), (&json!("ReplicaFailure"), &json!("FailedCreate")));
    }
}
