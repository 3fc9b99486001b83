//! What a Service says about its endpoints: which pods, which addresses, which ports.

use coracle_meta::{Object, Resource};
use coracle_reconcile::{Key, View};
use serde_json::{Value, json};

use crate::pods::{self, PODS};
use crate::selector::Selector;
use crate::shape::Item;

pub const SERVICES: Resource = Resource::new("", "services");

/// The services of a pod's namespace that select it.
pub fn keys_of_pod(view: &dyn View, pod: &Object) -> Vec<Key> {
    let services = Item::all(view.list(&SERVICES, Some(&pod.meta.namespace)));
    let selecting = services.iter().filter(|service| Selector::labels(service.at("/spec/selector")).matches(&pod.meta));
    selecting.map(|service| Key::of(&service.object)).collect()
}

/// Whether controllers make endpoints for a service: it selects pods and is no mere name.
pub fn is_managed(service: &Item) -> bool {
    let selects = service.at("/spec/selector").as_object().is_some_and(|selector| !selector.is_empty());
    selects && service.text("/spec/type") != "ExternalName"
}

pub fn is_headless(service: &Item) -> bool {
    service.text("/spec/clusterIP") == "None"
}

pub fn publishes_not_ready(service: &Item) -> bool {
    service.at("/spec/publishNotReadyAddresses") == true
}

/// `IPv4`, `IPv6`, in the service's order.
pub fn families(service: &Item) -> Vec<String> {
    let families: Vec<String> =
        service.list("/spec/ipFamilies").iter().filter_map(|family| family.as_str().map(Into::into)).collect();
    if families.is_empty() { vec!["IPv4".into()] } else { families }
}

/// Selected pods that have an address and have not finished, by name.
pub fn pods(view: &dyn View, service: &Item) -> Vec<Item> {
    let selector = Selector::labels(service.at("/spec/selector"));
    let selected = view.list(&PODS, Some(service.namespace())).into_iter().filter(|pod| selector.matches(&pod.meta));
    let mut pods = Item::all(selected.collect());
    pods.retain(|pod| !matches!(pods::phase(pod), "Succeeded" | "Failed") && !pod.text("/status/podIP").is_empty());
    pods
}

/// A pod's address of a family.
pub fn address<'a>(pod: &'a Item, family: &str) -> Option<&'a str> {
    let of_family = |address: &&str| address.contains(':') == (family == "IPv6");
    let many = pod.list("/status/podIPs").iter().filter_map(|entry| entry["ip"].as_str());
    many.chain([pod.text("/status/podIP")]).filter(|address| !address.is_empty()).find(of_family)
}

/// The ports of a service on one pod. A port whose name no container has is left out.
pub fn ports(service: &Item, pod: &Item) -> Vec<Value> {
    let mut ports = Vec::new();
    for port in service.list("/spec/ports") {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let Some(number) = number(port, protocol, pod) else { continue };
        let mut entry =
            json!({"name": port["name"].as_str().unwrap_or_default(), "port": number, "protocol": protocol});
        if !port["appProtocol"].is_null() {
            entry["appProtocol"] = port["appProtocol"].clone();
        }
        ports.push(entry);
    }
    ports
}

fn number(port: &Value, protocol: &str, pod: &Item) -> Option<i64> {
    match &port["targetPort"] {
        Value::Number(number) if number.as_i64() != Some(0) => number.as_i64(),
        Value::String(name) => named(name, protocol, pod),
        _ => port["port"].as_i64(),
    }
}

fn named(name: &str, protocol: &str, pod: &Item) -> Option<i64> {
    let sidecars = pod.list("/spec/initContainers").iter().filter(|container| container["restartPolicy"] == "Always");
    let containers = pod.list("/spec/containers").iter().chain(sidecars);
    let mut ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    let found = ports.find(|port| port["name"] == name && port["protocol"].as_str().unwrap_or("TCP") == protocol)?;
    found["containerPort"].as_i64()
}

/// The pod an endpoint stands for.
pub fn target(pod: &Item) -> Value {
    json!({"kind": "Pod", "namespace": pod.namespace(), "name": pod.name(), "uid": pod.uid()})
}

/// A pod has a name of its own under a headless service of its subdomain.
pub fn hostname<'a>(service: &Item, pod: &'a Item) -> Option<&'a str> {
    let hostname = pod.text("/spec/hostname");
    (!hostname.is_empty() && pod.text("/spec/subdomain") == service.name()).then_some(hostname)
}
