//! ResourceQuotas: what a namespace uses of what its quotas bound, counted from the objects themselves. Admission
//! charges at once; this puts right what it cannot see, such as pods that finish.

mod usage;

use std::collections::BTreeMap;
use std::time::Duration;

use coracle_meta::quantity::Quantity;
use coracle_meta::{Object, Resource};
use coracle_reconcile::controller::WatchAll;
use coracle_reconcile::{Controller, Key, Outcome, Plan, View, Watch, Write};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::pods::PODS;
use crate::shape::{Item, status_of};

pub const QUOTAS: Resource = Resource::new("", "resourcequotas");
static IGNORED: [Resource; 3] = [
    Resource::new("", "events"),
    Resource::new("events.k8s.io", "events"),
    Resource::new("coordination.k8s.io", "leases"),
];

/// Until a view is looked at again that may not show all that was charged.
const NEXT_LOOK: Duration = Duration::from_secs(5);

/// Amounts by resource name, `requests.cpu`.
type Amounts = BTreeMap<String, Quantity>;

pub struct ResourceQuota;

impl Controller for ResourceQuota {
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::itself(QUOTAS)]
    }

    fn watches_all(&self) -> Option<WatchAll> {
        Some(WatchAll { keys: quotas_of, ignored: &IGNORED, only_belonging: false })
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, now: Timestamp) -> Plan {
        let Some(quota) = Item::get(view, &QUOTAS, key) else { return Plan::default() };
        let mut plan = decide(view, &quota, now);
        // Who outlives its grace is charged no longer, and nothing tells of that.
        let going = view.list(&PODS, Some(quota.namespace())).into_iter().filter(|pod| pod.meta.is_deleting());
        let ends = going.filter_map(|pod| usage::grace_end(&Item::of(pod)));
        if let Some(end) = ends.filter(|end| *end >= now).min() {
            plan.wake_by(Duration::try_from(end.duration_since(now)).unwrap_or_default() + NEXT_LOOK);
        }
        plan
    }
}

fn decide(view: &dyn View, quota: &Item, now: Timestamp) -> Plan {
    let hard = amounts(quota.at("/spec/hard"));
    let used = used(view, quota, &hard, now);
    let told = quota.at("/status");
    let is_taken_up = told["hard"].is_object() && amounts(&told["hard"]) == hard;
    let charged = amounts(&told["used"]);
    if is_taken_up && charged == used {
        return Plan::default();
    }
    if is_taken_up && frees(&charged, &used) && is_behind(view, quota, &hard) {
        return Plan { wake_after: Some(NEXT_LOOK), ..Plan::default() };
    }
    let mut status = status_of(quota);
    status["hard"] = quota.at("/spec/hard").clone();
    status["used"] = used.iter().map(|(name, amount)| (name.clone(), json!(amount.to_string()))).collect();
    let mut writes: Vec<Write> = quota.status_write(&QUOTAS, &status).into_iter().collect();
    for write in &mut writes {
        if let Write::Patch { resource_version, .. } = write {
            // What is charged meanwhile must not be forgotten.
            *resource_version = Some(quota.object.revision.to_string());
        }
    }
    Plan { writes, ..Plan::default() }
}

fn frees(charged: &Amounts, used: &Amounts) -> bool {
    used.iter().any(|(name, amount)| charged.get(name).is_some_and(|charged| charged.nanos() > amount.nanos()))
}

/// Whether an object that the quota was charged for may not have come into the view yet: both are written at once, but
/// each kind is followed by itself.
fn is_behind(view: &dyn View, quota: &Item, hard: &Amounts) -> bool {
    usage::counted(hard, &view.known()).iter().any(|resource| view.revision(resource) < quota.object.revision)
}

/// The quotas of an object's namespace.
fn quotas_of(view: &dyn View, _resource: &Resource, object: &Object) -> Vec<Key> {
    match object.meta.namespace.as_str() {
        "" => Vec::new(),
        namespace => view.list(&QUOTAS, Some(namespace)).iter().map(|quota| Key::of(quota)).collect(),
    }
}

fn amounts(map: &Value) -> Amounts {
    let members = map.as_object().into_iter().flatten();
    members.filter_map(|(name, value)| Some((name.clone(), usage::quantity(value)?))).collect()
}

/// What is used of each bounded resource; one that nothing counts keeps what was told.
fn used(view: &dyn View, quota: &Item, hard: &Amounts, now: Timestamp) -> Amounts {
    let mut used: Amounts = hard.keys().map(|name| (name.clone(), Quantity::ZERO)).collect();
    for resource in usage::counted(hard, &view.known()) {
        for object in view.list(&resource, Some(quota.namespace())) {
            let item = Item::of(object);
            if !usage::is_in_scope(quota, &resource, &item) {
                continue;
            }
            for (name, amount) in usage::of(&resource, &item, now) {
                if let Some(sum) = used.get_mut(&name) {
                    *sum = sum.plus(amount);
                }
            }
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::FakeView;

    fn pod(name: &str, phase: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "n"}, "status": {"phase": phase}, "spec": {
            "initContainers": [{"resources": {"requests": {"cpu": "700m"}}}],
            "containers": [{"resources": {"requests": {"cpu": "250m", "memory": "1Gi"}}},
                {"resources": {"requests": {"cpu": "250m"}, "limits": {"cpu": "1"}}}]}})
    }

    fn used_of(view: &FakeView) -> Value {
        view.settle(&ResourceQuota, &Key::new("n", "q"), Timestamp::UNIX_EPOCH);
        view.json(&QUOTAS, "n", "q")["status"]["used"].clone()
    }

    #[test]
    fn live_pods_are_charged_at_their_peak() {
        let hard = json!({"pods": "10", "requests.cpu": "4", "memory": "8Gi", "limits.cpu": "9", "services": "2"});
        let view = FakeView::new()
            .with(QUOTAS, json!({"metadata": {"name": "q", "namespace": "n"}, "spec": {"hard": hard}}))
            .with(PODS, pod("a", "Running"))
            .with(PODS, pod("b", "Pending"))
            .with(PODS, pod("c", "Succeeded"));
        let expected =
            json!({"pods": "2", "requests.cpu": "1400m", "memory": "2Gi", "limits.cpu": "2", "services": "0"});
        assert_eq!(used_of(&view), expected);
    }

    #[test]
    fn a_pod_that_may_take_for_ever_to_stop_is_charged_until_then() {
        let mut slow = pod("a", "Running");
        slow["metadata"]["deletionTimestamp"] = json!("9999-12-30T00:00:00Z");
        slow["metadata"]["deletionGracePeriodSeconds"] = json!(i64::MAX);
        let quota = json!({"metadata": {"name": "q", "namespace": "n"}, "spec": {"hard": {"pods": "1"}}});
        let view = FakeView::new().with(QUOTAS, quota).with(PODS, slow.clone());
        assert_eq!(used_of(&view), json!({"pods": "1"}));
        slow["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:30Z");
        slow["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        view.put(&PODS, slow);
        let look = |seconds: u64| {
            let now = Timestamp::UNIX_EPOCH + Duration::from_secs(seconds);
            ResourceQuota.reconcile(&view, &Key::new("n", "q"), &Outcome::default(), now)
        };
        assert_eq!(look(50), Plan::wake(Duration::from_secs(15)));
        assert_eq!(look(65).writes.len(), 1);
    }

    #[test]
    fn scopes_choose_pods() {
        let mut free = pod("a", "Running");
        free["spec"]["containers"] = json!([{}]);
        free["spec"]["initContainers"] = json!([]);
        let view = FakeView::new()
            .with(
                QUOTAS,
                json!({"metadata": {"name": "q", "namespace": "n"},
                    "spec": {"hard": {"pods": "10"}, "scopes": ["BestEffort", "NotTerminating"]}}),
            )
            .with(PODS, free)
            .with(PODS, pod("b", "Running"));
        assert_eq!(used_of(&view), json!({"pods": "1"}));
    }

    #[test]
    fn a_claim_is_charged_the_larger_of_what_it_asks_and_what_was_set_about() {
        for (asked, allocated, used) in [("2Gi", "5Gi", "5Gi"), ("2Gi", "1Gi", "2Gi"), ("1500m", "", "2")] {
            let mut claim = json!({"metadata": {"name": "c", "namespace": "n"},
                "spec": {"storageClassName": "s", "resources": {"requests": {"storage": asked}}}});
            if !allocated.is_empty() {
                claim["status"] = json!({"allocatedResources": {"storage": allocated}});
            }
            let hard = json!({"requests.storage": "9Gi", "s.storageclass.storage.k8s.io/requests.storage": "9Gi"});
            let view = FakeView::new()
                .with(QUOTAS, json!({"metadata": {"name": "q", "namespace": "n"}, "spec": {"hard": hard}}))
                .with(crate::statefulset::CLAIMS, claim);
            let wanted = json!({"requests.storage": used, "s.storageclass.storage.k8s.io/requests.storage": used});
            assert_eq!(used_of(&view), wanted, "{asked} {allocated}");
        }
    }

    #[test]
    fn scopes_choose_claims_by_any_class_they_have_or_are_to_have() {
        let claim = |name: &str, wanted: &str, current: &str| {
            json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"volumeAttributesClassName": wanted},
                "status": {"currentVolumeAttributesClassName": current}})
        };
        // With two classes either will do; without any there is none to list.
        let table = [("In", "3"), ("NotIn", "3"), ("Exists", "4"), ("DoesNotExist", "1")];
        for (operator, wanted) in table {
            let rule = json!({"scopeName": "VolumeAttributesClass", "operator": operator, "values": ["gold"]});
            let spec = json!({"hard": {"persistentvolumeclaims": "9", "pods": "9"},
                "scopeSelector": {"matchExpressions": [rule]}});
            let view = FakeView::new()
                .with(QUOTAS, json!({"metadata": {"name": "q", "namespace": "n"}, "spec": spec}))
                .with(PODS, pod("a", "Running"))
                .with(crate::statefulset::CLAIMS, claim("a", "gold", ""))
                .with(crate::statefulset::CLAIMS, claim("b", "gold", "gold"))
                .with(crate::statefulset::CLAIMS, claim("c", "gold", "silver"))
                .with(crate::statefulset::CLAIMS, claim("d", "", "bronze"))
                .with(crate::statefulset::CLAIMS, claim("e", "", ""));
            assert_eq!(used_of(&view), json!({"persistentvolumeclaims": wanted, "pods": "0"}), "{operator}");
        }
    }
}
