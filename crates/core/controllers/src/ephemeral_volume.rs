//! Generic ephemeral volumes: a claim for each, owned by its pod and gone with it.

use coracle_meta::Object;
use coracle_reconcile::{Controller, EventKind, Key, Outcome, Plan, PodFacts, View, Watch, Write};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::pods::PODS;
use crate::shape::{Item, controller_key};
use crate::statefulset::CLAIMS;

pub struct EphemeralVolume;

impl Controller for EphemeralVolume {
    fn name(&self) -> &'static str {
        "ephemeral-volume-controller"
    }

    fn component(&self) -> &'static str {
        "ephemeral_volume"
    }

    fn identity(&self) -> &'static str {
        "ephemeral-volume-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch { resource: PODS, keys: pod_keys },
            Watch { resource: CLAIMS, keys: |_, claim| controller_key(claim, "", "Pod").into_iter().collect() },
        ]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, _now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(pod) = Item::get(view, &PODS, key).filter(|pod| !pod.meta().is_deleting()) else { return plan };
        for volume in pod.list("/spec/volumes").iter().filter(|volume| !volume["ephemeral"].is_null()) {
            let claim = claim(&pod, volume);
            let name = claim["metadata"]["name"].as_str().unwrap_or_default();
            match Item::get(view, &CLAIMS, &Key::new(key.namespace.clone(), name)) {
                Some(found) if pod.controls(found.meta()) => {}
                Some(_) => {
                    let (namespace, pod_name) = (pod.namespace(), pod.name());
                    let message = format!(
                        "PVC {namespace}/{name} was not created for pod {namespace}/{pod_name} (pod is not owner)"
                    );
                    plan.events.push(pod.note(
                        EventKind::Warning,
                        "FailedBinding",
                        format!("ephemeral volume controller: {message}"),
                    ));
                }
                None => {
                    if let Some(error) = last.error.as_ref().filter(|error| !error.is_already_exists()) {
                        let message = format!("ephemeral volume controller: create PVC {name}: {}", error.message);
                        plan.events.push(pod.note(EventKind::Warning, "FailedBinding", message));
                    }
                    plan.writes.push(Write::Create {
                        resource: CLAIMS,
                        namespace: key.namespace.clone(),
                        object: claim,
                    });
                }
            }
        }
        plan
    }
}

fn pod_keys(_: &dyn View, pod: &Object) -> Vec<Key> {
    if PodFacts::of(pod).has_ephemeral_claims { vec![Key::of(pod)] } else { Vec::new() }
}

fn claim(pod: &Item, volume: &Value) -> Value {
    let template = &volume["ephemeral"]["volumeClaimTemplate"];
    let name = format!("{}-{}", pod.name(), volume["name"].as_str().unwrap_or_default());
    let mut metadata = json!({"name": name, "ownerReferences": [pod.controller_reference("v1", "Pod")]});
    for key in ["labels", "annotations"] {
        if !template["metadata"][key].is_null() {
            metadata[key] = template["metadata"][key].clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": template["spec"]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::{FakeView, Witness};

    fn pod() -> Value {
        json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"volumes": [{"name": "v", "ephemeral":
            {"volumeClaimTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"accessModes": ["ReadWriteOnce"]}}}}]}})
    }

    #[test]
    fn each_ephemeral_volume_gets_a_claim_of_its_own() {
        let view = FakeView::new().with(PODS, pod());
        view.settle(&EphemeralVolume, &Key::new("n", "p"), Timestamp::UNIX_EPOCH);
        let claim = view.json(&CLAIMS, "n", "p-v");
        assert_eq!(claim["metadata"]["ownerReferences"][0]["uid"], "p-uid");
        assert_eq!(claim["metadata"]["labels"], json!({"a": "b"}));
    }

    #[test]
    fn a_claim_of_somebody_else_is_told() {
        let view =
            FakeView::new().with(PODS, pod()).with(CLAIMS, json!({"metadata": {"name": "p-v", "namespace": "n"}}));
        let plan = EphemeralVolume.decide(&view, &Key::new("n", "p"), &Outcome::default(), Timestamp::UNIX_EPOCH);
        assert_eq!((plan.writes.len(), plan.events[0].reason), (0, "FailedBinding"));
    }
}
