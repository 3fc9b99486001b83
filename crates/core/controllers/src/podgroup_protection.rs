//! PodGroups that pods belong to stay until those are gone or have finished. The finalizer comes from admission.

use coracle_meta::{Object, Resource};
use coracle_reconcile::{Controller, Key, Outcome, Plan, PodFacts, View, Watch};
use jiff::Timestamp;

use crate::pods::PODS;
use crate::protection::{Need, need, remove};
use crate::shape::Item;

const GROUPS: Resource = Resource::new("scheduling.k8s.io", "podgroups");
const FINALIZER: &str = "scheduling.k8s.io/podgroup-protection";

pub struct PodGroupProtection;

impl Controller for PodGroupProtection {
    fn name(&self) -> &'static str {
        "podgroup-protection-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch { resource: GROUPS, keys: |_, group| vec![Key::of(group)] },
            Watch { resource: PODS, keys: group_of_pod },
        ]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _: &Outcome, _now: Timestamp) -> Plan {
        let Some(group) = Item::get(view, &GROUPS, key) else { return Plan::default() };
        if !matches!(need(&group, FINALIZER), Need::Judge) {
            return Plan::default();
        }
        let holds = |pod: &Object| {
            let facts = PodFacts::of(pod);
            !facts.is_finished() && facts.group.as_deref() == Some(group.name())
        };
        match view.list(&PODS, Some(&key.namespace)).iter().any(|pod| holds(pod)) {
            true => Plan::default(),
            false => remove(&group, &GROUPS, FINALIZER),
        }
    }
}

/// A pod that has gone or finished matters to a group on its way out only.
fn group_of_pod(view: &dyn View, pod: &Object) -> Vec<Key> {
    let facts = PodFacts::of(pod);
    let key = facts.group.as_deref().map(|name| Key::new(pod.meta.namespace.clone(), name));
    let going = |key: &Key| view.get(&GROUPS, &key.namespace, &key.name).is_some_and(|group| group.meta.is_deleting());
    key.filter(going).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::{FakeView, Witness};
    use serde_json::{Value, json};

    fn group(deleting: bool) -> Value {
        let mut group = json!({"metadata": {"name": "g", "namespace": "n", "finalizers": [FINALIZER]}});
        if deleting {
            group["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        group
    }

    fn pod(group: &str, phase: &str) -> Value {
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"schedulingGroup": {"podGroupName": group}},
               "status": {"phase": phase}})
    }

    #[test]
    fn a_group_stays_as_long_as_it_has_active_pods() {
        for (pod, deleting, stays) in [
            (None, true, false),
            (None, false, true),
            (Some(pod("g", "Running")), true, true),
            (Some(pod("g", "Pending")), true, true),
            (Some(pod("g", "Succeeded")), true, false),
            (Some(pod("g", "Failed")), true, false),
            (Some(pod("other", "Running")), true, false),
        ] {
            let mut view = FakeView::new().with(GROUPS, group(deleting));
            if let Some(pod) = pod.clone() {
                view = view.with(PODS, pod);
            }
            let key = Key::new("n", "g");
            let plan = PodGroupProtection.decide(&view, &key, &Outcome::default(), Timestamp::UNIX_EPOCH);
            view.apply(&plan);
            assert_eq!(!view.names(&GROUPS).is_empty(), stays, "{pod:?} {deleting}");
        }
    }

    #[test]
    fn a_pod_makes_its_group_due_only_when_that_is_to_go() {
        let due = |deleting: bool, named: &str| {
            let view = FakeView::new().with(GROUPS, group(deleting)).with(PODS, pod(named, "Running"));
            let pod = view.get(&PODS, "n", "p").unwrap();
            group_of_pod(&view, &pod).len()
        };
        assert_eq!((due(true, "g"), due(false, "g"), due(true, "other")), (1, 0, 0));
    }
}
