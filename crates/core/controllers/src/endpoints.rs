//! The older Endpoints object of each Service that selects pods, for those who still read it.

use coracle_meta::{Object, Resource};
use coracle_reconcile::plan::merge_patch;
use coracle_reconcile::{Controller, Key, Outcome, Plan, View, Watch, Write};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::pods::{self, PODS};
use crate::service::{self, SERVICES};
use crate::shape::Item;
use crate::subsets::{Member, Subset, repack, truncate};

pub const ENDPOINTS: Resource = Resource::new("", "endpoints");
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// On Endpoints that serve as a lock; they have no Service.
pub const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const ADDRESSES_MAX: usize = 1000;

pub struct Endpoints;

impl Controller for Endpoints {
    fn name(&self) -> &'static str {
        "endpoints-controller"
    }

    fn component(&self) -> &'static str {
        "endpoint-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::itself(SERVICES),
            Watch { resource: PODS, keys: service::keys_of_pod },
            Watch { resource: ENDPOINTS, keys: own_key },
        ]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, _now: Timestamp) -> Plan {
        let existing = Item::get(view, &ENDPOINTS, key);
        let Some(service) = Item::get(view, &SERVICES, key) else {
            let left = existing.filter(|endpoints| endpoints.annotation(LEADER).is_none());
            return Plan { writes: left.iter().map(|left| left.delete(&ENDPOINTS)).collect(), ..Plan::default() };
        };
        if !service::is_managed(&service) {
            return Plan::default();
        }
        let (subsets, cut) = subsets(view, &service);
        let write = match existing {
            None => Some(create(&service, &subsets, cut)),
            Some(existing) => update(&service, &existing, &subsets, cut),
        };
        Plan { writes: write.into_iter().collect(), ..Plan::default() }
    }
}

/// Those that people write may be there before their Service: without one, only ours are looked at.
fn own_key(view: &dyn View, endpoints: &Object) -> Vec<Key> {
    let key = Key::of(endpoints);
    let is_ours = endpoints.meta.label(MANAGED_BY) == Some(MANAGER);
    if is_ours || view.get(&SERVICES, &key.namespace, &key.name).is_some() { vec![key] } else { Vec::new() }
}

fn labels(service: &Item) -> Map<String, Value> {
    let mut labels = service.at("/metadata/labels").as_object().cloned().unwrap_or_default();
    labels.shift_remove(HEADLESS);
    labels.insert(MANAGED_BY.into(), json!(MANAGER));
    if service::is_headless(service) {
        labels.insert(HEADLESS.into(), json!(""));
    }
    labels
}

fn create(service: &Item, subsets: &[Value], cut: bool) -> Write {
    let mut object = json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": service.name(), "namespace": service.namespace(), "labels": labels(service)}});
    if !subsets.is_empty() {
        object["subsets"] = json!(subsets);
    }
    if cut {
        object["metadata"]["annotations"] = json!({OVER_CAPACITY: "truncated"});
    }
    Write::Create { resource: ENDPOINTS, namespace: service.namespace().into(), object }
}

fn update(service: &Item, existing: &Item, subsets: &[Value], cut: bool) -> Option<Write> {
    let mut patch = json!({});
    if existing.list("/subsets") != subsets {
        patch["subsets"] = if subsets.is_empty() { Value::Null } else { json!(subsets) };
    }
    let old = existing.at("/metadata/labels").as_object().cloned().unwrap_or_default();
    if let Some(changed) = merge_patch(&Value::Object(old), &Value::Object(labels(service))) {
        patch["metadata"]["labels"] = changed;
    }
    if cut != existing.annotation(OVER_CAPACITY).is_some() {
        patch["metadata"]["annotations"] = json!({OVER_CAPACITY: cut.then_some("truncated")});
    }
    patch.as_object().is_some_and(|patch| !patch.is_empty()).then(|| existing.patch(&ENDPOINTS, None, patch))
}

/// True where there were more addresses than an object may hold.
fn subsets(view: &dyn View, service: &Item) -> (Vec<Value>, bool) {
    let publishes = service::publishes_not_ready(service);
    let family = service::families(service).swap_remove(0);
    let mut members = Vec::new();
    for pod in service::pods(view, service) {
        let ports = service::ports(service, &pod);
        // Only a headless service may have none; a pod that lacks all of them has nothing to offer.
        let may_have_none = service.list("/spec/ports").is_empty() && service::is_headless(service);
        if (ports.is_empty() && !may_have_none) || (pod.meta().is_deleting() && !publishes) {
            continue;
        }
        let Some(address) = entry(service, &pod, &family) else { continue };
        members.push(Member { ports, address, is_ready: publishes || pods::is_ready(&pod) });
    }
    let mut subsets = repack(members);
    let cut = truncate(&mut subsets, ADDRESSES_MAX);
    (subsets.into_iter().map(subset).collect(), cut)
}

fn subset(Subset { mut ports, ready, not_ready }: Subset) -> Value {
    let mut subset = json!({});
    for (key, list) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
        if !list.is_empty() {
            subset[key] = json!(list);
        }
    }
    // This older type leaves an empty name out.
    for port in ports.iter_mut().filter(|port| port["name"] == "") {
        crate::shape::remove(port, "name");
    }
    if !ports.is_empty() {
        subset["ports"] = json!(ports);
    }
    subset
}

fn entry(service: &Item, pod: &Item, family: &str) -> Option<Value> {
    let mut entry = json!({"ip": service::address(pod, family)?, "targetRef": service::target(pod)});
    if !pod.text("/spec/nodeName").is_empty() {
        entry["nodeName"] = json!(pod.text("/spec/nodeName"));
    }
    if let Some(hostname) = service::hostname(service, pod) {
        entry["hostname"] = json!(hostname);
    }
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::FakeView;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn key() -> Key {
        Key::new("n", "web")
    }

    fn pod(name: &str, address: &str, ready: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "n", "labels": {"app": "web"}},
            "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn service(spec: Value) -> Value {
        let mut service = json!({"metadata": {"name": "web", "namespace": "n"}, "spec": {"ports": [{"port": 80}]}});
        service["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        service
    }

    fn selecting() -> Value {
        service(json!({"selector": {"app": "web"}}))
    }

    #[test]
    fn endpoints_mirror_ready_and_unready_pods_and_go_with_the_service() {
        let view = FakeView::new()
            .with(SERVICES, selecting())
            .with(PODS, pod("a", "10.1.0.1", "True"))
            .with(PODS, pod("b", "10.1.0.2", "False"));
        view.settle(&Endpoints, &key(), NOW);
        let subset = view.json(&ENDPOINTS, "n", "web")["subsets"][0].clone();
        assert_eq!(subset["addresses"][0]["ip"], "10.1.0.1");
        assert_eq!(subset["notReadyAddresses"][0]["ip"], "10.1.0.2");
        assert_eq!(subset["ports"], json!([{"port": 80, "protocol": "TCP"}]));
        view.remove(&SERVICES, "n", "web");
        view.settle(&Endpoints, &key(), NOW);
        assert!(view.names(&ENDPOINTS).is_empty());
    }

    #[test]
    fn a_service_on_its_way_out_still_tells_its_pods() {
        let mut leaving = selecting();
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let view = FakeView::new().with(SERVICES, selecting()).with(PODS, pod("a", "10.1.0.1", "True"));
        view.settle(&Endpoints, &key(), NOW);
        view.put(&SERVICES, leaving);
        view.remove(&PODS, "n", "a");
        view.settle(&Endpoints, &key(), NOW);
        assert!(view.json(&ENDPOINTS, "n", "web")["subsets"].is_null());
    }

    #[test]
    fn what_people_wrote_goes_with_its_service_and_not_before_it_comes() {
        let written =
            |annotations: Value| json!({"metadata": {"name": "web", "namespace": "n", "annotations": annotations}});
        let cases = [(json!({}), 0), (json!({LEADER: "{}"}), 1)];
        for (annotations, left) in cases {
            let view = FakeView::new().with(ENDPOINTS, written(annotations.clone()));
            let found = view.get(&ENDPOINTS, "n", "web").unwrap();
            assert_eq!(own_key(&view, &found), [], "its service may still come");
            view.put(&SERVICES, service(json!({})));
            assert_eq!(own_key(&view, &found), [key()]);
            view.settle(&Endpoints, &key(), NOW);
            view.remove(&SERVICES, "n", "web");
            view.settle(&Endpoints, &key(), NOW);
            assert_eq!(view.names(&ENDPOINTS).len(), left, "{annotations}");
        }
    }

    #[test]
    fn a_pod_without_the_named_port_is_no_endpoint() {
        let named =
            json!({"selector": {"app": "web"}, "clusterIP": "None", "ports": [{"port": 80, "targetPort": "x"}]});
        let none = json!({"selector": {"app": "web"}, "clusterIP": "None", "ports": []});
        for (spec, subsets) in [(named, 0), (none, 1)] {
            let view = FakeView::new().with(SERVICES, service(spec.clone())).with(PODS, pod("a", "10.1.0.1", "True"));
            view.settle(&Endpoints, &key(), NOW);
            let found = view.json(&ENDPOINTS, "n", "web");
            assert_eq!(found["subsets"].as_array().map_or(0, Vec::len), subsets, "{spec}");
        }
    }

    #[test]
    fn more_than_an_object_may_hold_is_cut_and_told() {
        let view = FakeView::new().with(SERVICES, selecting());
        for number in 0..1010 {
            let ready = if number < 10 { "False" } else { "True" };
            view.put(&PODS, pod(&format!("p{number}"), &format!("10.1.{}.{}", number / 250, number % 250), ready));
        }
        view.settle(&Endpoints, &key(), NOW);
        let found = view.json(&ENDPOINTS, "n", "web");
        assert_eq!(found["metadata"]["annotations"][OVER_CAPACITY], "truncated");
        let subset = &found["subsets"][0];
        assert_eq!(
            (subset["addresses"].as_array().unwrap().len(), subset["notReadyAddresses"].is_null()),
            (1000, true)
        );
    }
}
