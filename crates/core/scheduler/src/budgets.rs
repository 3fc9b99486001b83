//! PodDisruptionBudgets, as preemption heeds them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_meta::selector::LabelSelector;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::pod::PodInfo;
use crate::select::compile;

#[derive(Clone, Debug, Default)]
pub struct Budgets(BTreeMap<(String, String), Budget>);

#[derive(Clone, Debug)]
struct Budget {
    selector: LabelSelector,
    allowed: i32,
    /// Pods that were granted a disruption already.
    disrupted: BTreeSet<String>,
}

impl Budgets {
    pub fn set(&mut self, object: &PodDisruptionBudget) {
        let meta = &object.metadata;
        let key = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        let status = object.status.clone().unwrap_or_default();
        let budget = Budget {
            selector: compile(object.spec.as_ref().and_then(|spec| spec.selector.as_ref())),
            allowed: status.disruptions_allowed.unwrap_or(0),
            disrupted: status.disrupted_pods.into_iter().flatten().map(|(name, _)| name).collect(),
        };
        self.0.insert(key, budget);
    }

    pub fn remove(&mut self, namespace: &str, name: &str) {
        self.0.remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// Parts pods into those whose removal would break a budget and those it would not, keeping their order.
    pub fn part(&self, pods: &[Arc<PodInfo>]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
        let mut left: Vec<i32> = self.0.values().map(|budget| budget.allowed).collect();
        let breaks = |pod: &&Arc<PodInfo>| {
            let mut broken = false;
            let about = self.0.iter().enumerate().filter(|(_, ((namespace, _), budget))| {
                *namespace == pod.shape.namespace
                    && !budget.selector.is_everything()
                    && !pod.labels.is_empty()
                    && budget.selector.matches(&pod.labels)
                    && !budget.disrupted.contains(&*pod.key.name)
            });
            for (at, _) in about {
                left[at] -= 1;
                broken |= left[at] < 0;
            }
            broken
        };
        let (breaking, sparing): (Vec<_>, Vec<_>) = pods.iter().partition(breaks);
        (breaking.into_iter().cloned().collect(), sparing.into_iter().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::Shapes;

    #[test]
    fn a_budget_covers_as_many_pods_as_it_allows() {
        let mut budgets = Budgets::default();
        let object = json!({"metadata": {"name": "b", "namespace": "n"},
            "spec": {"selector": {"matchLabels": {"app": "a"}}},
            "status": {"disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2, "expectedPods": 3,
                "disruptedPods": {"gone": "2026-01-01T00:00:00Z"}}});
        budgets.set(&serde_json::from_value(object).unwrap());
        let pod = |name: &str, app: &str| {
            let text = json!({"metadata": {"name": name, "namespace": "n", "labels": {"app": app}}});
            PodInfo::read(text.to_string().as_bytes(), &mut Shapes::default()).unwrap()
        };
        let (breaking, sparing) = budgets.part(&[pod("gone", "a"), pod("x", "a"), pod("y", "b"), pod("z", "a")]);
        let names = |pods: &[Arc<PodInfo>]| pods.iter().map(|pod| pod.key.name.clone()).collect::<Vec<_>>();
        assert_eq!(
            (names(&breaking), names(&sparing)),
            (vec!["z".into()], vec!["gone".into(), "x".into(), "y".into()])
        );
    }
}
