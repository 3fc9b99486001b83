//! Generic ephemeral volumes: a claim for each, owned by its pod and gone with it.

use coracle_meta::Object;
use coracle_reconcile::{Controller, EventKind, EventNote, Key, Outcome, Plan, PodFacts, View, Watch, Write};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::pods::PODS;
use crate::pvc_protection::claim_names;
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
        vec![Watch { resource: PODS, keys: pod_keys }, Watch { resource: CLAIMS, keys: claim_keys }]
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
                    let (namespace, owner) = (pod.namespace(), pod.name());
                    let why = format!(
                        "PVC {namespace}/{name} was not created for pod {namespace}/{owner} (pod is not owner)"
                    );
                    plan.events.push(failed(&pod, volume, &why));
                }
                None => {
                    let refusal = last.refusal(|write| creates(write, name));
                    if let Some(error) = refusal.filter(|error| !error.is_already_exists()) {
                        plan.events.push(failed(&pod, volume, &format!("create PVC {name}: {}", error.message)));
                    }
                    let (resource, namespace) = (CLAIMS, key.namespace.clone());
                    plan.writes.push(Write::Create { resource, namespace, object: claim });
                }
            }
        }
        plan
    }
}

fn failed(pod: &Item, volume: &Value, why: &str) -> EventNote {
    let name = volume["name"].as_str().unwrap_or_default();
    pod.note(EventKind::Warning, "FailedBinding", format!("ephemeral volume {name}: {why}"))
}

fn creates(write: &Write, claim: &str) -> bool {
    matches!(write, Write::Create { object, .. } if object["metadata"]["name"] == claim)
}

/// The pod that owns the claim. When it is gone also pods that are to have one of that name: another's stood in the way.
fn claim_keys(view: &dyn View, claim: &Object) -> Vec<Key> {
    let mut keys: Vec<Key> = controller_key(claim, "", "Pod").into_iter().collect();
    if view.get(&CLAIMS, &claim.meta.namespace, &claim.meta.name).is_none() {
        let pods = Item::all(view.list(&PODS, Some(&claim.meta.namespace)));
        let wants = |pod: &&Item| {
            PodFacts::of(&pod.object).has_ephemeral_claims && claim_names(pod.tree()).contains(&claim.meta.name)
        };
        keys.extend(pods.iter().filter(wants).map(|pod| Key::of(&pod.object)));
    }
    keys
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

    fn decide(view: &FakeView, last: &Outcome) -> Plan {
        EphemeralVolume.decide(view, &Key::new("n", "p"), last, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_claim_of_somebody_else_is_told_and_waited_for() {
        let view =
            FakeView::new().with(PODS, pod()).with(CLAIMS, json!({"metadata": {"name": "p-v", "namespace": "n"}}));
        let plan = decide(&view, &Outcome::default());
        let why = "ephemeral volume v: PVC n/p-v was not created for pod n/p (pod is not owner)";
        assert_eq!((plan.writes.len(), plan.events[0].reason, &*plan.events[0].message), (0, "FailedBinding", why));
        let other = view.get(&CLAIMS, "n", "p-v").unwrap();
        view.remove(&CLAIMS, "n", "p-v");
        assert_eq!(claim_keys(&view, &other), [Key::new("n", "p")]);
    }

    #[test]
    fn a_claim_that_is_refused_is_told_of_its_own_volume() {
        let mut two = pod();
        let mut second = two["spec"]["volumes"][0].clone();
        second["name"] = json!("w");
        two["spec"]["volumes"].as_array_mut().unwrap().push(second);
        let view = FakeView::new().with(PODS, two);
        let refused = decide(&view, &Outcome::default()).writes.pop();
        let error = Some(coracle_meta::Status::bad_request("too much"));
        let plan = decide(&view, &Outcome { error, refused, ..Outcome::default() });
        let told: Vec<&str> = plan.events.iter().map(|note| &*note.message).collect();
        assert_eq!((told, plan.writes.len()), (vec!["ephemeral volume w: create PVC p-w: too much"], 2));
    }
}
