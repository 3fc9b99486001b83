//! The older Endpoints object of each Service that selects pods, for those who still read it.

use coracle_meta::Resource;
use coracle_reconcile::plan::merge_patch;
use coracle_reconcile::{Controller, Key, Outcome, Plan, View, Watch, Write};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::pods::{self, PODS};
use crate::service::{self, SERVICES};
use crate::shape::Item;

pub const ENDPOINTS: Resource = Resource::new("", "endpoints");
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
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
        vec![Watch::itself(SERVICES), Watch { resource: PODS, keys: service::keys_of_pod }, Watch::itself(ENDPOINTS)]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, _now: Timestamp) -> Plan {
        let existing = Item::get(view, &ENDPOINTS, key);
        let Some(service) = Item::get(view, &SERVICES, key) else {
            let ours = existing.filter(|endpoints| endpoints.meta().label(MANAGED_BY) == Some(MANAGER));
            return Plan { writes: ours.iter().map(|ours| ours.delete(&ENDPOINTS)).collect(), ..Plan::default() };
        };
        if !service::is_managed(&service) || service.meta().is_deleting() {
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

/// Pods of equal ports share a subset; true where there were more than an object may hold.
fn subsets(view: &dyn View, service: &Item) -> (Vec<Value>, bool) {
    let publish = service::publishes_not_ready(service);
    let family = service::families(service).swap_remove(0);
    let mut pods = service::pods(view, service);
    pods.retain(|pod| publish || !pod.meta().is_deleting());
    pods.sort_by_key(|pod| service::address(pod, &family).map(str::to_owned));
    let cut = pods.len() > ADDRESSES_MAX;
    pods.truncate(ADDRESSES_MAX);
    let mut subsets: Vec<(Vec<Value>, Vec<Value>, Vec<Value>)> = Vec::new();
    for pod in &pods {
        let ports = service::ports(service, pod);
        if ports.is_empty() && !service::is_headless(service) {
            continue;
        }
        let Some(address) = entry(service, pod, &family) else { continue };
        let at = subsets.iter().position(|(known, ..)| *known == ports).unwrap_or(subsets.len());
        if at == subsets.len() {
            subsets.push((ports, Vec::new(), Vec::new()));
        }
        let (_, ready, not_ready) = &mut subsets[at];
        if publish || pods::is_ready(pod) { ready.push(address) } else { not_ready.push(address) }
    }
    (subsets.into_iter().map(subset).collect(), cut)
}

fn subset((mut ports, ready, not_ready): (Vec<Value>, Vec<Value>, Vec<Value>)) -> Value {
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

    #[test]
    fn endpoints_mirror_ready_and_unready_pods_and_go_with_the_service() {
        let pod = |name: &str, address: &str, ready: &str| {
            json!({"metadata": {"name": name, "namespace": "n", "labels": {"app": "web"}},
                "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": ready}]}})
        };
        let service = json!({"metadata": {"name": "web", "namespace": "n"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
        let view = FakeView::new()
            .with(SERVICES, service)
            .with(PODS, pod("a", "10.1.0.1", "True"))
            .with(PODS, pod("b", "10.1.0.2", "False"));
        let (key, now) = (Key::new("n", "web"), Timestamp::UNIX_EPOCH);
        view.settle(&Endpoints, &key, now);
        let subset = view.json(&ENDPOINTS, "n", "web")["subsets"][0].clone();
        assert_eq!(subset["addresses"][0]["ip"], "10.1.0.1");
        assert_eq!(subset["notReadyAddresses"][0]["ip"], "10.1.0.2");
        assert_eq!(subset["ports"], json!([{"port": 80, "protocol": "TCP"}]));
        view.remove(&SERVICES, "n", "web");
        view.settle(&Endpoints, &key, now);
        assert!(view.names(&ENDPOINTS).is_empty());
    }
}
