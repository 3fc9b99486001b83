//! PodDisruptionBudgets: how many of the pods that a budget selects may be disrupted now. Evictions read and charge the
//! status that is told here.

use std::collections::BTreeMap;
use std::time::Duration;

use coracle_meta::object::Owner;
use coracle_meta::{Object, Resource};
use coracle_reconcile::{Controller, EventKind, Key, Outcome, Plan, View, Watch};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::deployment::DEPLOYMENTS;
use crate::pods::{PODS, is_ready};
use crate::replicaset::REPLICA_SETS;
use crate::selector::Selector;
use crate::shape::{Item, Rounding, rfc3339, scaled, set_condition, status_of, time};

const BUDGETS: Resource = Resource::new("policy", "poddisruptionbudgets");
const REPLICATION_CONTROLLERS: Resource = Resource::new("", "replicationcontrollers");
const STATEFUL_SETS: Resource = Resource::new("apps", "statefulsets");
/// How long an eviction that was granted may take until the pod counts as staying.
const GRANTED_SECONDS: i64 = 120;

pub struct Disruption;

impl Controller for Disruption {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn component(&self) -> &'static str {
        "controllermanager"
    }

    fn identity(&self) -> &'static str {
        "disruption-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        let mut watches = vec![
            Watch { resource: BUDGETS, keys: |_, budget| vec![Key::of(budget)] },
            Watch { resource: PODS, keys: budgets_of_pod },
        ];
        for resource in [DEPLOYMENTS, REPLICA_SETS, REPLICATION_CONTROLLERS, STATEFUL_SETS] {
            watches.push(Watch { resource, keys: |view, owner| budgets_in(view, &owner.meta.namespace) });
        }
        watches
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, now: Timestamp) -> Plan {
        let Some(budget) = Item::get(view, &BUDGETS, key) else { return Plan::default() };
        let selector = Selector::parse(budget.at("/spec/selector"));
        let selected = view.list(&PODS, Some(budget.namespace())).into_iter().filter(|pod| selector.matches(&pod.meta));
        let pods = Item::all(selected.collect());
        let mut plan = Plan::default();
        let status = match expectation(view, &budget, &pods) {
            Ok(expected) => told(&budget, &pods, expected, &mut plan, now),
            Err(why) => failed(&budget, &why, now),
        };
        let write = budget.status_write(&BUDGETS, &status);
        if write.is_some() && pods.is_empty() {
            plan.events.push(budget.note(EventKind::Normal, "NoPods", "No matching pods found"));
        }
        plan.writes.extend(write);
        plan
    }
}

fn budgets_in(view: &dyn View, namespace: &str) -> Vec<Key> {
    view.list(&BUDGETS, Some(namespace)).iter().map(|budget| Key::of(budget)).collect()
}

fn budgets_of_pod(view: &dyn View, pod: &Object) -> Vec<Key> {
    let budgets = Item::all(view.list(&BUDGETS, Some(&pod.meta.namespace)));
    let selecting = budgets.iter().filter(|budget| Selector::parse(budget.at("/spec/selector")).matches(&pod.meta));
    selecting.map(|budget| Key::of(&budget.object)).collect()
}

/// Pods that should be there, and how many of them healthy.
struct Expected {
    pods: i64,
    healthy: i64,
}

fn expectation(view: &dyn View, budget: &Item, pods: &[Item]) -> Result<Expected, String> {
    let (most, least) = (budget.at("/spec/maxUnavailable"), budget.at("/spec/minAvailable"));
    if !most.is_null() {
        let total = expected_scale(view, pods)?;
        let unavailable = scaled(most, total, Rounding::Up).ok_or("invalid value for maxUnavailable")?;
        return Ok(Expected { pods: total, healthy: (total - unavailable).max(0) });
    }
    if let Some(count) = least.as_i64() {
        return Ok(Expected { pods: pods.len() as i64, healthy: count });
    }
    if least.is_null() {
        return Ok(Expected { pods: pods.len() as i64, healthy: 0 });
    }
    let total = expected_scale(view, pods)?;
    let healthy = scaled(least, total, Rounding::Up).ok_or("invalid value for minAvailable")?;
    Ok(Expected { pods: total, healthy })
}

/// The sum of the sizes of all controllers of the pods; pods without one count nothing.
fn expected_scale(view: &dyn View, pods: &[Item]) -> Result<i64, String> {
    let mut sizes = BTreeMap::new();
    for pod in pods {
        let Some(owner) = pod.meta().controller().filter(|owner| !sizes.contains_key(&owner.uid)) else { continue };
        let (uid, size) = size_of(view, pod.namespace(), owner)?;
        sizes.insert(uid, size);
        sizes.entry(owner.uid.clone()).or_insert(0);
    }
    Ok(sizes.values().sum())
}

/// The controller that sets the size of a pod's owner, and the size.
fn size_of(view: &dyn View, namespace: &str, owner: &Owner) -> Result<(String, i64), String> {
    let resource = match (owner.api_version.as_str(), owner.kind.as_str()) {
        ("apps/v1", "ReplicaSet") => REPLICA_SETS,
        ("apps/v1", "Deployment") => DEPLOYMENTS,
        ("apps/v1", "StatefulSet") => STATEFUL_SETS,
        ("v1", "ReplicationController") => REPLICATION_CONTROLLERS,
        (_, kind) => return Err(format!("{kind} \"{}\" does not implement the scale subresource here", owner.name)),
    };
    let found = Item::get(view, &resource, &Key::new(namespace, owner.name.clone()));
    let Some(found) = found.filter(|found| found.uid() == owner.uid) else {
        return Ok((owner.uid.clone(), 0));
    };
    match found.meta().controller() {
        Some(above) if resource == REPLICA_SETS && above.kind == "Deployment" => size_of(view, namespace, above),
        _ => Ok((owner.uid.clone(), found.at("/spec/replicas").as_i64().unwrap_or(1))),
    }
}

fn told(budget: &Item, pods: &[Item], expected: Expected, plan: &mut Plan, now: Timestamp) -> Value {
    let disrupted = still_granted(budget, pods, plan, now);
    let healthy =
        pods.iter().filter(|pod| !pod.meta().is_deleting() && !disrupted.contains_key(pod.name()) && is_ready(pod));
    let current = healthy.count() as i64;
    let allowed = if expected.pods <= 0 { 0 } else { (current - expected.healthy).max(0) };
    let mut status = status_of(budget);
    status["observedGeneration"] = json!(budget.meta().generation);
    status["disruptionsAllowed"] = json!(allowed);
    status["currentHealthy"] = json!(current);
    status["desiredHealthy"] = json!(expected.healthy);
    status["expectedPods"] = json!(expected.pods);
    if disrupted.is_empty() {
        crate::shape::remove(&mut status, "disruptedPods");
    } else {
        status["disruptedPods"] = Value::Object(disrupted);
    }
    let (value, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    set_condition(&mut status, allowance(budget, value, reason, "", now));
    status
}

fn failed(budget: &Item, why: &str, now: Timestamp) -> Value {
    let mut status = status_of(budget);
    status["disruptionsAllowed"] = json!(0);
    for count in ["currentHealthy", "desiredHealthy", "expectedPods"] {
        if status[count].is_null() {
            status[count] = json!(0);
        }
    }
    status["observedGeneration"] = json!(budget.meta().generation);
    set_condition(&mut status, allowance(budget, "False", "SyncFailed", why, now));
    status
}

fn allowance(budget: &Item, status: &str, reason: &str, message: &str, now: Timestamp) -> Value {
    json!({"type": "DisruptionAllowed", "status": status, "reason": reason, "message": message,
        "observedGeneration": budget.meta().generation, "lastTransitionTime": rfc3339(now)})
}

/// Evictions that were granted and may still come true.
fn still_granted(budget: &Item, pods: &[Item], plan: &mut Plan, now: Timestamp) -> Map<String, Value> {
    let mut kept = Map::new();
    for (name, granted) in budget.at("/status/disruptedPods").as_object().into_iter().flatten() {
        let stays = pods.iter().any(|pod| pod.name() == name && !pod.meta().is_deleting());
        let end = time(granted).map(|at| at + SignedDuration::from_secs(GRANTED_SECONDS));
        if let Some(end) = end.filter(|end| stays && *end > now) {
            plan.wake_by(Duration::from_secs_f64(end.duration_since(now).as_secs_f64()));
            kept.insert(name.clone(), granted.clone());
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::FakeView;

    fn pod(name: &str, ready: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "n", "labels": {"app": "web"}, "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "s", "uid": "s-uid", "controller": true}]},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn status(spec: Value) -> Value {
        let mut spec = spec;
        spec["selector"] = json!({"matchLabels": {"app": "web"}});
        let view = FakeView::new()
            .with(BUDGETS, json!({"metadata": {"name": "b", "namespace": "n", "generation": 1}, "spec": spec}))
            .with(REPLICA_SETS, json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"replicas": 4}}))
            .with(PODS, pod("a", "True"))
            .with(PODS, pod("b", "True"))
            .with(PODS, pod("c", "True"))
            .with(PODS, pod("d", "False"));
        view.settle(&Disruption, &Key::new("n", "b"), Timestamp::UNIX_EPOCH);
        view.json(&BUDGETS, "n", "b")["status"].clone()
    }

    #[test]
    fn budgets_allow_what_is_healthy_beyond_the_bound() {
        let cases = [
            (json!({"minAvailable": 2}), (1, 2, 4)),
            (json!({"minAvailable": "75%"}), (0, 3, 4)),
            (json!({"maxUnavailable": 2}), (1, 2, 4)),
            (json!({"maxUnavailable": "25%"}), (0, 3, 4)),
        ];
        for (spec, (allowed, desired, expected)) in cases {
            let status = status(spec.clone());
            assert_eq!(status["disruptionsAllowed"], allowed, "{spec}");
            assert_eq!((&status["desiredHealthy"], &status["expectedPods"]), (&json!(desired), &json!(expected)));
            assert_eq!(
                status["conditions"][0]["reason"],
                if allowed > 0 { "SufficientPods" } else { "InsufficientPods" }
            );
        }
    }
}
