//! ResourceClaims of pods: made from templates, reserved for pods that skipped the scheduler, freed when their pods
//! are done, and gone with them. Keys are `pod/NAME` and `claim/NAME`.

use coracle_meta::{Object, Resource};
use coracle_reconcile::{Answer, Ask, Controller, EventKind, Index, Key, Outcome, Plan, PodFacts, View, Watch, Write};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::claim::{finalizers_without, has_finalizer};
use crate::pods::{PODS, phase};
use crate::shape::{Item, controller_key, remove, status_of};

const CLAIMS: Resource = Resource::new("resource.k8s.io", "resourceclaims");
const TEMPLATES: Resource = Resource::new("resource.k8s.io", "resourceclaimtemplates");
/// Which of its claims a pod made this for.
const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Pods that may use one claim at a time.
const RESERVED_MAX: usize = 256;
/// Of a generated name, without its random end.
const NAME_BYTES_MAX: usize = 58;

pub struct ResourceClaim;

impl Controller for ResourceClaim {
    fn name(&self) -> &'static str {
        "resourceclaim-controller"
    }

    fn component(&self) -> &'static str {
        "resource_claim"
    }

    fn identity(&self) -> &'static str {
        "resource-claim-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch { resource: PODS, keys: pod_keys },
            Watch { resource: CLAIMS, keys: claim_keys },
            Watch { resource: TEMPLATES, keys: template_keys },
        ]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, _now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        match key.name.split_once('/') {
            Some(("pod", name)) => {
                if let Some(pod) = Item::get(view, &PODS, &Key::new(key.namespace.clone(), name)) {
                    of_pod(view, &pod, last, &mut plan);
                }
            }
            Some((_, name)) => {
                if let Some(claim) = Item::get(view, &CLAIMS, &Key::new(key.namespace.clone(), name)) {
                    of_claim(view, &claim, last, &mut plan);
                }
            }
            None => {}
        }
        plan
    }
}

fn key(what: &str, namespace: &str, name: &str) -> Key {
    Key::new(namespace, format!("{what}/{name}"))
}

/// The pod, where it names claims, and the claims it uses or made.
fn pod_keys(view: &dyn View, pod: &Object) -> Vec<Key> {
    if !PodFacts::of(pod).has_device_claims {
        return Vec::new();
    }
    let Ok(tree) = pod.decode::<Value>() else { return Vec::new() };
    let Some(named) = tree["spec"]["resourceClaims"].as_array().filter(|named| !named.is_empty()) else {
        return Vec::new();
    };
    let (namespace, meta) = (&pod.meta.namespace, &pod.meta);
    let direct = named.iter().filter_map(|entry| entry["resourceClaimName"].as_str());
    let made = tree["status"]["resourceClaimStatuses"].as_array().into_iter().flatten();
    let made = made.filter_map(|entry| entry["resourceClaimName"].as_str());
    let mut keys: Vec<Key> = direct.chain(made).map(|name| key("claim", namespace, name)).collect();
    let owned = view.by_index(&CLAIMS, Index::Owner, &meta.uid);
    keys.extend(owned.iter().map(|claim| key("claim", namespace, &claim.meta.name)));
    keys.push(key("pod", namespace, &meta.name));
    keys
}

/// The claim, the pod that it was made for, and the pods that wait for a claim of its name.
fn claim_keys(view: &dyn View, claim: &Object) -> Vec<Key> {
    let namespace = &claim.meta.namespace;
    let mut keys = vec![key("claim", namespace, &claim.meta.name)];
    keys.extend(controller_key(claim, "", "Pod").map(|pod| key("pod", namespace, &pod.name)));
    let pods = Item::all(view.list(&PODS, Some(namespace)));
    let names = |pod: &&Item| {
        pod.list("/spec/resourceClaims").iter().any(|entry| entry["resourceClaimName"] == claim.meta.name.as_str())
    };
    keys.extend(pods.iter().filter(names).map(|pod| key("pod", namespace, pod.name())));
    keys
}

fn template_keys(view: &dyn View, template: &Object) -> Vec<Key> {
    let pods = Item::all(view.list(&PODS, Some(&template.meta.namespace)));
    let names = |pod: &&Item| {
        let mut claims = pod.list("/spec/resourceClaims").iter();
        claims.any(|entry| entry["resourceClaimTemplateName"] == template.meta.name.as_str())
    };
    pods.iter().filter(names).map(|pod| key("pod", pod.namespace(), pod.name())).collect()
}

/// The pod runs no more, or never will.
fn is_done(pod: &Item) -> bool {
    let never = pod.meta().is_deleting() && pod.text("/spec/nodeName").is_empty();
    matches!(phase(pod), "Succeeded" | "Failed") || never
}

fn of_pod(view: &dyn View, pod: &Item, last: &Outcome, plan: &mut Plan) {
    if pod.meta().is_deleting() || is_done(pod) {
        return;
    }
    let told = pod.list("/status/resourceClaimStatuses");
    let mut statuses = told.to_vec();
    for entry in pod.list("/spec/resourceClaims") {
        if entry["resourceClaimTemplateName"].is_null() {
            reserve(view, pod, &entry["resourceClaimName"], plan);
            continue;
        }
        let known = told.iter().find(|status| status["name"] == entry["name"]);
        if let Some(known) = known {
            reserve(view, pod, &known["resourceClaimName"], plan);
            continue;
        }
        match made_for(view, pod, entry) {
            Some(claim) => statuses.push(json!({"name": entry["name"], "resourceClaimName": claim.name()})),
            None => make(view, pod, entry, last, plan),
        }
    }
    if statuses != told {
        let status = json!({"status": {"resourceClaimStatuses": statuses}});
        plan.writes.push(pod.patch(&PODS, Some("status"), status));
    }
}

/// A claim that an earlier decision made, and did not come to tell the pod of.
fn made_for(view: &dyn View, pod: &Item, entry: &Value) -> Option<Item> {
    let owned = Item::all(view.by_index(&CLAIMS, Index::Owner, pod.uid()));
    let is_it = |claim: &Item| pod.controls(claim.meta()) && claim.annotation(POD_CLAIM) == entry["name"].as_str();
    owned.into_iter().find(is_it)
}

fn make(view: &dyn View, pod: &Item, entry: &Value, last: &Outcome, plan: &mut Plan) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (name, wanted) = (text(&entry["name"]), text(&entry["resourceClaimTemplateName"]));
    let Some(template) = Item::get(view, &TEMPLATES, &Key::new(pod.namespace(), wanted.clone())) else {
        let why = format!(
            "resource claim template \"{wanted}\": resourceclaimtemplate.resource.k8s.io \"{wanted}\" not found"
        );
        return fail(pod, &name, &why, plan);
    };
    if let Some(error) = last.refusal(|write| matches!(write, Write::Create { .. })) {
        fail(pod, &name, &error.message, plan);
    }
    let inner = template.at("/spec/metadata");
    let mut annotations = inner["annotations"].as_object().cloned().unwrap_or_default();
    annotations.insert(POD_CLAIM.into(), json!(name));
    let mut start = format!("{}-{name}-", pod.name());
    start.truncate(NAME_BYTES_MAX);
    let mut metadata = json!({"generateName": start, "annotations": annotations,
        "ownerReferences": [pod.controller_reference("v1", "Pod")]});
    if !inner["labels"].is_null() {
        metadata["labels"] = inner["labels"].clone();
    }
    let object = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": metadata,
        "spec": template.at("/spec/spec")});
    plan.writes.push(Write::Create { resource: CLAIMS, namespace: pod.namespace().to_owned(), object });
}

fn fail(pod: &Item, claim: &str, why: &str, plan: &mut Plan) {
    let message = format!("PodResourceClaim {claim}: {why}");
    plan.events.push(pod.note(EventKind::Warning, "FailedResourceClaimCreation", message));
}

/// A pod that was put on a node without the scheduler needs its claims reserved, if they can be.
fn reserve(view: &dyn View, pod: &Item, name: &Value, plan: &mut Plan) {
    let Some(name) = name.as_str().filter(|_| !pod.text("/spec/nodeName").is_empty()) else { return };
    let Some(claim) = Item::get(view, &CLAIMS, &Key::new(pod.namespace(), name)) else { return };
    let mut reserved = claim.list("/status/reservedFor").to_vec();
    let has_it = reserved.iter().any(|user| user["uid"] == pod.uid());
    if has_it || claim.at("/status/allocation").is_null() || reserved.len() >= RESERVED_MAX {
        return;
    }
    reserved.push(json!({"resource": "pods", "name": pod.name(), "uid": pod.uid()}));
    plan.writes.push(claim.patch(&CLAIMS, Some("status"), json!({"status": {"reservedFor": reserved}})));
}

fn of_claim(view: &dyn View, claim: &Item, last: &Outcome, plan: &mut Plan) {
    let reserved = claim.list("/status/reservedFor");
    let mut remaining = Vec::new();
    for user in reserved {
        match still_uses(view, claim, user, last) {
            Ok(true) => remaining.push(user.clone()),
            Ok(false) => {}
            Err(ask) => plan.asks.push(*ask),
        }
    }
    if !plan.asks.is_empty() {
        return;
    }
    let (free, held) = (remaining.is_empty(), has_finalizer(claim, FINALIZER));
    if remaining.len() < reserved.len() || (free && held && claim.meta().is_deleting()) {
        let mut status = status_of(claim);
        if free {
            remove(&mut status, "reservedFor");
            if held {
                remove(&mut status, "allocation");
            }
        } else {
            status["reservedFor"] = json!(remaining);
        }
        plan.writes.extend(claim.status_write(&CLAIMS, &status));
        if free && held {
            let patch = json!({"metadata": {"finalizers": finalizers_without(claim, FINALIZER)}});
            plan.writes.push(claim.patch(&CLAIMS, None, patch));
        }
    }
    if free && !claim.meta().is_deleting() && is_left_behind(view, claim) {
        plan.writes.push(claim.delete(&CLAIMS));
    }
}

/// A pod that no cache shows uses nothing only when the store says that it is gone.
fn still_uses(view: &dyn View, claim: &Item, user: &Value, last: &Outcome) -> Result<bool, Box<Ask>> {
    let text = |key: &str| user[key].as_str().unwrap_or_default();
    if text("resource") != "pods" || !text("apiGroup").is_empty() {
        return Ok(true);
    }
    if let Some(pod) = Item::get(view, &PODS, &Key::new(claim.namespace(), text("name"))) {
        return Ok(pod.uid() == text("uid") && !is_done(&pod));
    }
    let ask = Ask::Read { resource: PODS, namespace: claim.namespace().to_owned(), name: text("name").to_owned() };
    match last.answer(&ask) {
        Some(Answer::Object(found)) => Ok(found.as_ref().is_some_and(|found| found["metadata"]["uid"] == user["uid"])),
        Some(_) => Ok(true),
        None => Err(Box::new(ask)),
    }
}

/// Made for a pod that is done. The garbage collector takes what a pod that is gone leaves.
fn is_left_behind(view: &dyn View, claim: &Item) -> bool {
    let Some(owner) = controller_key(&claim.object, "", "Pod") else { return false };
    let Some(pod) = Item::get(view, &PODS, &owner) else { return false };
    !pod.controls(claim.meta()) || is_done(&pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::{FakeView, Witness};

    fn pod(phase: &str) -> Value {
        json!({"metadata": {"name": "p", "namespace": "n"}, "status": {"phase": phase},
            "spec": {"nodeName": "a", "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}]}})
    }

    fn settle(view: &FakeView, key: &Key) -> Vec<Plan> {
        view.settle(&ResourceClaim, key, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_claim_is_made_told_reserved_and_gone_with_its_pod() {
        let template = json!({"metadata": {"name": "t", "namespace": "n"}, "spec": {"spec": {"devices": {}}}});
        let view = FakeView::new().with(PODS, pod("Pending")).with(TEMPLATES, template);
        settle(&view, &key("pod", "n", "p"));
        let name = view.names(&CLAIMS).remove(0);
        let told = view.json(&PODS, "n", "p")["status"]["resourceClaimStatuses"].clone();
        assert_eq!(told, json!([{"name": "gpu", "resourceClaimName": name}]));
        let mut claim = view.json(&CLAIMS, "n", &name);
        claim["status"] = json!({"allocation": {"x": 1}});
        claim["metadata"]["finalizers"] = json!([FINALIZER]);
        view.put(&CLAIMS, claim);
        settle(&view, &key("pod", "n", "p"));
        assert_eq!(view.json(&CLAIMS, "n", &name)["status"]["reservedFor"][0]["name"], "p");
        assert!(settle(&view, &key("claim", "n", &name)).is_empty());
        view.put(&PODS, pod("Succeeded"));
        settle(&view, &key("claim", "n", &name));
        assert!(view.names(&CLAIMS).is_empty());
    }

    #[test]
    fn a_missing_template_is_told() {
        let view = FakeView::new().with(PODS, pod("Pending"));
        let plan = ResourceClaim.decide(&view, &key("pod", "n", "p"), &Outcome::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(plan.events[0].reason, "FailedResourceClaimCreation");
    }

    #[test]
    fn a_reservation_falls_when_the_store_says_that_its_pod_is_gone() {
        let claim = json!({"metadata": {"name": "c", "namespace": "n"},
            "status": {"allocation": {}, "reservedFor": [{"resource": "pods", "name": "x", "uid": "u"}]}});
        let view = FakeView::new().with(CLAIMS, claim);
        let key = key("claim", "n", "c");
        let asks = ResourceClaim.decide(&view, &key, &Outcome::default(), Timestamp::UNIX_EPOCH).asks;
        let last = Outcome { answers: vec![Answer::Object(None)], asked: asks, ..Outcome::default() };
        view.apply(&ResourceClaim.decide(&view, &key, &last, Timestamp::UNIX_EPOCH));
        assert_eq!(view.json(&CLAIMS, "n", "c")["status"], json!({"allocation": {}}));
    }
}
