//! PodDisruptionBudgets: how many of the pods that a budget selects may be disrupted now. Evictions read and charge the
//! status that is told here.

use std::collections::BTreeMap;
use std::time::Duration;

use coracle_meta::object::Owner;
use coracle_meta::{Object, Resource};
use coracle_reconcile::{Answer, Ask, Controller, EventKind, Key, Outcome, Plan, View, Watch, Write};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use crate::deployment::DEPLOYMENTS;
use crate::pods::{PODS, is_ready, pod_condition};
use crate::replicaset::REPLICA_SETS;
use crate::selector::Selector;
use crate::shape::{Item, Rounding, later, rfc3339, scaled, set_condition, status_of, time};

const BUDGETS: Resource = Resource::new("policy", "poddisruptionbudgets");
const REPLICATION_CONTROLLERS: Resource = Resource::new("", "replicationcontrollers");
const STATEFUL_SETS: Resource = Resource::new("apps", "statefulsets");
/// How long an eviction that was granted may take until the pod counts as staying.
const GRANTED: SignedDuration = SignedDuration::from_secs(120);
const DISRUPTED: &str = "DisruptionTarget";
/// Before the name of a pod that is decided about itself; no budget is named so.
const POD_KEY: &str = "pod/";

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
        let mut watches = vec![Watch::itself(BUDGETS), Watch { resource: PODS, keys: keys_of_pod }];
        for resource in [DEPLOYMENTS, REPLICA_SETS, REPLICATION_CONTROLLERS, STATEFUL_SETS] {
            watches.push(Watch { resource, keys: |view, owner| budgets_in(view, &owner.meta.namespace) });
        }
        watches
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, now: Timestamp) -> Plan {
        if let Some(name) = key.name.strip_prefix(POD_KEY) {
            return stale_pod(view, &Key::new(key.namespace.clone(), name), now);
        }
        let Some(budget) = Item::get(view, &BUDGETS, key) else { return Plan::default() };
        let selector = Selector::parse(budget.at("/spec/selector"));
        let selected = view.list(&PODS, Some(budget.namespace())).into_iter().filter(|pod| selector.matches(&pod.meta));
        let pods = Item::all(selected.collect());
        let mut plan = Plan::default();
        let status = match expectation(&budget, &pods, &Scales { view, last }) {
            Ok(expected) => told(&budget, &pods, expected, &mut plan, now),
            Err(Unknown::Ask(ask)) => return Plan { asks: last.asked.iter().cloned().chain([*ask]).collect(), ..plan },
            Err(Unknown::Why(why)) => {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                plan.events.push(budget.note(EventKind::Warning, "CalculateExpectedPodCountFailed", message));
                failed(&budget, &why, now)
            }
        };
        let write = budget.status_write(&BUDGETS, &status);
        if write.is_some() {
            tell_pods(view, &budget, &pods, &mut plan);
        }
        plan.writes.extend(write);
        plan
    }
}

fn budgets_in(view: &dyn View, namespace: &str) -> Vec<Key> {
    view.list(&BUDGETS, Some(namespace)).iter().map(|budget| Key::of(budget)).collect()
}

/// The budgets that select it, and the pod itself where an eviction once was granted.
fn keys_of_pod(view: &dyn View, pod: &Object) -> Vec<Key> {
    let mut keys = budgets_of_pod(view, pod);
    if mentions(&pod.bytes, DISRUPTED.as_bytes()) {
        keys.push(Key::new(pod.meta.namespace.clone(), format!("{POD_KEY}{}", pod.meta.name)));
    }
    keys
}

fn mentions(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

fn budgets_of_pod(view: &dyn View, pod: &Object) -> Vec<Key> {
    let budgets = Item::all(view.list(&BUDGETS, Some(&pod.meta.namespace)));
    let selecting = budgets.iter().filter(|budget| Selector::parse(budget.at("/spec/selector")).matches(&pod.meta));
    selecting.map(|budget| Key::of(&budget.object)).collect()
}

/// What is odd about the pods that a budget selects. It is told when the budget's status changes, not at every look.
fn tell_pods(view: &dyn View, budget: &Item, pods: &[Item], plan: &mut Plan) {
    if pods.is_empty() {
        plan.events.push(budget.note(EventKind::Normal, "NoPods", "No matching pods found"));
    }
    let counts_owners = !budget.at("/spec/maxUnavailable").is_null() || budget.at("/spec/minAvailable").is_string();
    if counts_owners && pods.iter().any(|pod| pod.meta().controller().is_none()) {
        let message = format!(
            "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
            budget.at("/spec/selector")
        );
        plan.events.push(budget.note(EventKind::Warning, "UnmanagedPods", message));
    }
    for pod in pods {
        let all = budgets_of_pod(view, &pod.object);
        if let (Some(first), true) = (all.first(), all.len() > 1) {
            let message = format!(
                "Pod {:?}/{:?} matches multiple PodDisruptionBudgets.  Chose {:?} arbitrarily.",
                pod.namespace(),
                pod.name(),
                first.name
            );
            plan.events.push(pod.note(EventKind::Warning, "MultiplePodDisruptionBudgets", message));
        }
    }
}

/// A pod that was to be disrupted, and after a while still is there, is no longer.
fn stale_pod(view: &dyn View, key: &Key, now: Timestamp) -> Plan {
    let Some(pod) = Item::get(view, &PODS, key).filter(|pod| !pod.meta().is_deleting()) else {
        return Plan::default();
    };
    let target = pod_condition(&pod, DISRUPTED).filter(|target| target["status"] == "True");
    let Some(since) = target.and_then(|target| time(&target["lastTransitionTime"])) else { return Plan::default() };
    let end = later(since, GRANTED);
    if now < end {
        return Plan::wake(Duration::try_from(end.duration_since(now)).unwrap_or_default());
    }
    let mut status = status_of(&pod);
    set_condition(&mut status, json!({"type": DISRUPTED, "status": "False", "lastTransitionTime": rfc3339(now)}));
    let mut write = pod.status_write(&PODS, &status);
    // The list of conditions is replaced whole, and is not ours alone.
    if let Some(Write::Patch { resource_version, .. }) = &mut write {
        *resource_version = Some(pod.object.revision.to_string());
    }
    Plan { writes: write.into_iter().collect(), ..Plan::default() }
}

/// Pods that should be there, and how many of them healthy.
struct Expected {
    pods: i64,
    healthy: i64,
}

/// Why the size of a controller is not known.
enum Unknown {
    /// Only the server can tell.
    Ask(Box<Ask>),
    Why(String),
}

impl From<String> for Unknown {
    fn from(why: String) -> Unknown {
        Unknown::Why(why)
    }
}

fn expectation(budget: &Item, pods: &[Item], scales: &Scales<'_>) -> Result<Expected, Unknown> {
    let (most, least) = (budget.at("/spec/maxUnavailable"), budget.at("/spec/minAvailable"));
    if !most.is_null() {
        let total = scales.sum(pods)?;
        let unavailable =
            scaled(most, total, Rounding::Up).ok_or_else(|| "invalid value for maxUnavailable".to_owned())?;
        return Ok(Expected { pods: total, healthy: (total - unavailable).max(0) });
    }
    if let Some(count) = least.as_i64() {
        return Ok(Expected { pods: pods.len() as i64, healthy: count });
    }
    if least.is_null() {
        return Ok(Expected { pods: 0, healthy: 0 });
    }
    let total = scales.sum(pods)?;
    let healthy = scaled(least, total, Rounding::Up).ok_or_else(|| "invalid value for minAvailable".to_owned())?;
    Ok(Expected { pods: total, healthy })
}

/// The sizes of pods' controllers, from the view or, of kinds that it knows nothing of, as the server told their scale.
struct Scales<'a> {
    view: &'a dyn View,
    last: &'a Outcome,
}

impl Scales<'_> {
    /// The sum of the sizes of all controllers of the pods; pods without one count nothing.
    fn sum(&self, pods: &[Item]) -> Result<i64, Unknown> {
        let mut sizes = BTreeMap::new();
        for pod in pods {
            let Some(owner) = pod.meta().controller().filter(|owner| !sizes.contains_key(&owner.uid)) else { continue };
            let found = self.size_of(pod.namespace(), owner)?;
            let (uid, size) = found.ok_or_else(|| format!("found no controllers for pod {:?}", pod.name()))?;
            sizes.insert(uid, size);
            sizes.entry(owner.uid.clone()).or_insert(0);
        }
        Ok(sizes.values().sum())
    }

    /// The controller that sets the size of a pod's owner, and the size; `None` where there is no such owner.
    fn size_of(&self, namespace: &str, owner: &Owner) -> Result<Option<(String, i64)>, Unknown> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let resource = match (group, owner.kind.as_str()) {
            ("apps", "ReplicaSet") => REPLICA_SETS,
            ("apps", "Deployment") => DEPLOYMENTS,
            ("apps", "StatefulSet") => STATEFUL_SETS,
            ("", "ReplicationController") => REPLICATION_CONTROLLERS,
            _ => return self.told_size(namespace, owner, group),
        };
        let found = Item::get(self.view, &resource, &Key::new(namespace, owner.name.clone()));
        let Some(found) = found.filter(|found| found.uid() == owner.uid) else { return Ok(None) };
        let above = found.meta().controller().filter(|above| resource == REPLICA_SETS && above.kind == "Deployment");
        let above = above.map(|above| self.size_of(namespace, above)).transpose()?.flatten();
        Ok(above.or_else(|| Some((owner.uid.clone(), found.at("/spec/replicas").as_i64().unwrap_or(1)))))
    }

    fn told_size(&self, namespace: &str, owner: &Owner, group: &str) -> Result<Option<(String, i64)>, Unknown> {
        let known = self.view.known();
        let kind = known.iter().find(|known| known.kind.group == group && known.kind.kind == owner.kind.as_str());
        let Some(kind) = kind else {
            let (kind, version) = (&owner.kind, &owner.api_version);
            return Err(format!("no matches for kind \"{kind}\" in version \"{version}\"").into());
        };
        let (resource, namespace, name) = (kind.resource.clone(), namespace.to_owned(), owner.name.clone());
        let is_there = self.view.get(&resource, &namespace, &name).is_some();
        let ask = Ask::Scale { resource, namespace, name };
        match self.last.answer(&ask) {
            None => Err(Unknown::Ask(Box::new(ask))),
            Some(Answer::Failed(status)) => Err(status.message.clone().into()),
            Some(Answer::Object(Some(scale))) if scale["metadata"]["uid"] == owner.uid.as_str() => {
                Ok(Some((owner.uid.clone(), scale["spec"]["replicas"].as_i64().unwrap_or(0))))
            }
            Some(Answer::Object(None)) if is_there => {
                Err(format!("{} does not implement the scale subresource", kind.resource).into())
            }
            Some(_) => Ok(None),
        }
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
        let end = time(granted).map(|at| later(at, GRANTED));
        if let Some(end) = end.filter(|end| stays && *end > now) {
            plan.wake_by(Duration::from_secs_f64(end.duration_since(now).as_secs_f64()));
            kept.insert(name.clone(), granted.clone());
        } else if let Some(pod) = pods.iter().find(|pod| pod.name() == name && stays) {
            let message =
                format!("Pod was expected by PDB {}/{} to be deleted but it wasn't", budget.namespace(), budget.name());
            plan.events.push(pod.note(EventKind::Warning, "NotDeleted", message));
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::{FakeView, Witness};

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
    fn what_is_odd_about_the_selected_pods_is_told() {
        let selector = json!({"matchLabels": {"app": "web"}});
        let budget = |name: &str, granted: Value| {
            json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"maxUnavailable": 1, "selector": selector},
                "status": {"disruptedPods": granted}})
        };
        let mut bare = pod("a", "True");
        bare["metadata"]["ownerReferences"] = json!([]);
        let mut strange = pod("b", "True");
        strange["metadata"]["ownerReferences"][0]["kind"] = json!("Own");
        let reasons = |view: &FakeView, name: &str| -> Vec<&str> {
            let plan = Disruption.decide(
                view,
                &Key::new("n", name),
                &Outcome::default(),
                Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1),
            );
            plan.events.iter().map(|event| event.reason).collect()
        };
        let view = FakeView::new()
            .with(BUDGETS, budget("b", json!({"a": "1970-01-01T00:00:00Z"})))
            .with(BUDGETS, budget("c", Value::Null))
            .with(PODS, bare);
        assert_eq!(reasons(&view, "b"), ["NotDeleted", "UnmanagedPods", "MultiplePodDisruptionBudgets"]);
        let view = FakeView::new().with(BUDGETS, budget("b", Value::Null)).with(PODS, strange);
        assert_eq!(reasons(&view, "b"), ["CalculateExpectedPodCountFailed"]);
        let view = FakeView::new().with(BUDGETS, budget("b", json!({"gone": "1970-01-01T00:00:00Z"})));
        assert_eq!(reasons(&view, "b"), ["NoPods"]);
    }

    #[test]
    fn pods_of_any_kind_that_has_a_scale_are_counted_by_it() {
        let own = |name: &str| {
            let mut pod = pod(name, "True");
            pod["metadata"]["ownerReferences"][0] = json!({"apiVersion": "own.io/v1", "kind": "Own", "name": "o",
                "uid": "o-uid", "controller": true});
            pod
        };
        let budget = json!({"metadata": {"name": "b", "namespace": "n"}, "spec": {"maxUnavailable": "50%",
            "selector": {"matchLabels": {"app": "web"}}}});
        let owns = Resource::new("own.io", "owns");
        let view = FakeView::new()
            .knowing(owns.clone(), coracle_meta::GroupVersionKind::new("own.io", "v1", "Own"), true)
            .with(owns, json!({"metadata": {"name": "o", "namespace": "n"}}))
            .with(BUDGETS, budget)
            .with(PODS, own("a"))
            .with(PODS, own("b"));
        let decide = |last: &Outcome| Disruption.decide(&view, &Key::new("n", "b"), last, Timestamp::UNIX_EPOCH);
        let asks = decide(&Outcome::default()).asks;
        let status = |answer: Answer| {
            let plan = decide(&Outcome { asked: asks.clone(), answers: vec![answer], ..Outcome::default() });
            let Some(Write::Patch { patch, .. }) = plan.writes.first() else { panic!("{plan:?}") };
            let status = patch["status"].clone();
            (status["expectedPods"].as_i64(), status["conditions"][0]["message"].as_str().unwrap().to_owned())
        };
        let scale = |uid: &str| json!({"metadata": {"uid": uid}, "spec": {"replicas": 3}});
        assert_eq!(status(Answer::Object(Some(scale("o-uid")))), (Some(3), String::new()));
        let why = "found no controllers for pod \"a\"".to_owned();
        assert_eq!(status(Answer::Object(Some(scale("another")))), (Some(0), why));
        let why = "owns.own.io does not implement the scale subresource".to_owned();
        assert_eq!(status(Answer::Object(None)), (Some(0), why));
    }

    #[test]
    fn an_eviction_that_is_granted_is_counted_until_it_is_stale() {
        let at = |seconds: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        let mut target = pod("a", "True");
        let condition = json!({"type": "DisruptionTarget", "status": "True", "lastTransitionTime": rfc3339(at(0))});
        target["status"]["conditions"].as_array_mut().unwrap().push(condition);
        let budget = json!({"metadata": {"name": "b", "namespace": "n"}, "spec": {"minAvailable": 1, "selector":
            {"matchLabels": {"app": "web"}}}, "status": {"disruptedPods": {"a": rfc3339(at(0)), "gone": rfc3339(at(0))}}});
        let view = FakeView::new().with(BUDGETS, budget).with(PODS, target);
        let keys = keys_of_pod(&view, &view.get(&PODS, "n", "a").unwrap());
        assert_eq!(keys, [Key::new("n", "b"), Key::new("n", "pod/a")]);
        view.settle(&Disruption, &keys[0], at(60));
        assert_eq!(view.json(&BUDGETS, "n", "b")["status"]["disruptedPods"], json!({"a": rfc3339(at(0))}));
        assert!(view.settle(&Disruption, &keys[1], at(60)).is_empty());
        view.settle(&Disruption, &keys[1], at(120));
        assert_eq!(view.json(&PODS, "n", "a")["status"]["conditions"][1]["status"], "False");
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
