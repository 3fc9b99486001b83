//! PersistentVolumeClaims that a pod on a node uses stay until it is gone.

use coracle_meta::Object;
use coracle_reconcile::{Answer, Ask, Controller, Key, Outcome, Plan, PodFacts, View, Watch};
use jiff::Timestamp;
use serde_json::Value;

use crate::pods::PODS;
use crate::protection::{Need, add, need, remove};
use crate::shape::Item;
use crate::statefulset::CLAIMS;

const FINALIZER: &str = "kubernetes.io/pvc-protection";

pub struct PvcProtection;

impl Controller for PvcProtection {
    fn name(&self) -> &'static str {
        "persistentvolumeclaim-protection-controller"
    }

    fn component(&self) -> &'static str {
        "pvc-protection-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::itself(CLAIMS), Watch { resource: PODS, keys: claims_of_pod }]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, _now: Timestamp) -> Plan {
        let Some(claim) = Item::get(view, &CLAIMS, key) else { return Plan::default() };
        match need(&claim, FINALIZER) {
            Need::Nothing => Plan::default(),
            Need::Add => add(&claim, &CLAIMS, FINALIZER),
            Need::Judge => {
                let seen = view.list(&PODS, Some(&key.namespace));
                if Item::all(seen).iter().any(|pod| uses(pod.tree(), &claim)) {
                    return Plan::default();
                }
                // A pod may have come that no cache shows yet.
                let selector = String::new();
                let ask = Ask::List { resource: PODS, namespace: key.namespace.clone(), selector };
                match last.answer(&ask) {
                    Some(Answer::Objects(pods)) if pods.iter().any(|pod| uses(pod, &claim)) => Plan::default(),
                    Some(Answer::Objects(_)) => remove(&claim, &CLAIMS, FINALIZER),
                    _ => Plan { asks: vec![ask], ..Plan::default() },
                }
            }
        }
    }
}

/// The claims that the volumes of a pod name, generic ephemeral ones included.
pub fn claim_names(pod: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let name = |volume: &Value| match (&volume["persistentVolumeClaim"], &volume["ephemeral"]) {
        (Value::Null, Value::Null) => None,
        (Value::Null, _) => Some(format!("{}-{}", text(&pod["metadata"]["name"]), text(&volume["name"]))),
        (claim, _) => Some(text(&claim["claimName"])),
    };
    volumes.filter_map(name).collect()
}

/// A pod that has come or gone matters to claims on their way out only.
fn claims_of_pod(view: &dyn View, pod: &Object) -> Vec<Key> {
    if !PodFacts::of(pod).has_claims {
        return Vec::new();
    }
    let Ok(tree) = pod.decode::<Value>() else { return Vec::new() };
    let keys = claim_names(&tree).into_iter().map(|name| Key::new(pod.meta.namespace.clone(), name));
    let going = |key: &Key| view.get(&CLAIMS, &key.namespace, &key.name).is_some_and(|claim| claim.meta.is_deleting());
    keys.filter(going).collect()
}

/// A pod that waits for a node uses nothing: the kubelet would not start it with a claim on its way out.
fn uses(pod: &Value, claim: &Item) -> bool {
    let is_scheduled = pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    let name = claim.name();
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let is_down = !pod["metadata"]["deletionTimestamp"].is_null()
        && pod["metadata"]["deletionGracePeriodSeconds"].as_i64() == Some(0);
    let is_own = claim.meta().controller().is_some_and(|owner| pod["metadata"]["uid"] == owner.uid.as_str());
    let made_of = |volume: &Value| {
        let pod = pod["metadata"]["name"].as_str().unwrap_or_default();
        format!("{pod}-{}", volume["name"].as_str().unwrap_or_default()) == name
    };
    is_scheduled
        && volumes.into_iter().any(|volume| {
            volume["persistentVolumeClaim"]["claimName"] == name
                || (!is_down && is_own && !volume["ephemeral"].is_null() && made_of(volume))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::{FakeView, Witness};
    use serde_json::json;

    fn claim(deleting: bool) -> Value {
        let mut claim = json!({"metadata": {"name": "c", "namespace": "n", "finalizers": [FINALIZER]}});
        if deleting {
            claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        claim
    }

    fn pod(node: &str) -> Value {
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": node,
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}})
    }

    fn run(view: &FakeView, live: &[Value]) {
        let key = Key::new("n", "c");
        let plan = PvcProtection.decide(view, &key, &Outcome::default(), Timestamp::UNIX_EPOCH);
        view.apply(&plan);
        if !plan.asks.is_empty() {
            let answers = vec![Answer::Objects(live.to_vec())];
            let last = Outcome { asked: plan.asks, answers, ..Outcome::default() };
            view.apply(&PvcProtection.decide(view, &key, &last, Timestamp::UNIX_EPOCH));
        }
    }

    #[test]
    fn a_used_claim_stays_and_an_unused_one_goes() {
        for (seen, live, stays) in [
            (Some(pod("a")), vec![], true),
            (Some(pod("")), vec![pod("")], false),
            (None, vec![pod("a")], true),
            (None, vec![], false),
        ] {
            let mut view = FakeView::new().with(CLAIMS, claim(true));
            if let Some(pod) = seen.clone() {
                view = view.with(PODS, pod);
            }
            run(&view, &live);
            assert_eq!(!view.names(&CLAIMS).is_empty(), stays, "{seen:?} {live:?}");
        }
    }

    #[test]
    fn a_live_claim_is_protected() {
        let view = FakeView::new().with(CLAIMS, json!({"metadata": {"name": "c", "namespace": "n"}}));
        run(&view, &[]);
        assert_eq!(view.json(&CLAIMS, "n", "c")["metadata"]["finalizers"], json!([FINALIZER]));
    }
}
