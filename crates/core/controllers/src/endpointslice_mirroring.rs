//! EndpointSlices for Endpoints that people write by hand, for Services without a selector: readers of slices see them
//! too. One slice for each family of addresses and set of ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use coracle_meta::Object;
use coracle_reconcile::plan::merge_patch;
use coracle_reconcile::{Controller, EventKind, Key, Outcome, Plan, View, Watch, Write};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::endpoints::{ENDPOINTS, LEADER};
use crate::endpointslice::{MANAGED_BY, SERVICE_NAME, SLICES};
use crate::service::SERVICES;
use crate::shape::Item;
use crate::subsets::{Member, Subset, repack};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotations that say something of the Endpoints alone.
const NOT_MIRRORED: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// Addresses of one subset; upstream's `--mirroring-max-endpoints-per-subset`.
const ADDRESSES_MAX: usize = 1000;

pub struct EndpointSliceMirroring;

impl Controller for EndpointSliceMirroring {
    fn name(&self) -> &'static str {
        "endpointslice-mirroring-controller"
    }

    fn component(&self) -> &'static str {
        "endpoint-slice-mirroring-controller"
    }

    fn identity(&self) -> &'static str {
        "endpointslicemirroring-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::itself(ENDPOINTS),
            Watch::itself(SERVICES),
            Watch { resource: SLICES, keys: |_, slice| key_of_slice(slice).into_iter().collect() },
        ]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, _now: Timestamp) -> Plan {
        let slices = view.list(&SLICES, Some(&key.namespace)).into_iter();
        let existing = Item::all(slices.filter(|slice| key_of_slice(slice).as_ref() == Some(key)).collect());
        let selects = |service: &Item| service.at("/spec/selector").as_object().is_some_and(|all| !all.is_empty());
        let service = Item::get(view, &SERVICES, key).filter(|service| !selects(service));
        let endpoints = Item::get(view, &ENDPOINTS, key).filter(is_mirrored);
        let (Some(_), Some(endpoints)) = (service, endpoints) else {
            return Plan { writes: existing.iter().map(|slice| slice.delete(&SLICES)).collect(), ..Plan::default() };
        };
        mirror(&endpoints, existing)
    }
}

fn key_of_slice(slice: &Object) -> Option<Key> {
    let name = slice.meta.label(SERVICE_NAME).filter(|_| slice.meta.label(MANAGED_BY) == Some(MANAGER))?;
    Some(Key::new(slice.meta.namespace.clone(), name))
}

fn is_mirrored(endpoints: &Item) -> bool {
    endpoints.meta().label(SKIP) != Some("true") && endpoints.annotation(LEADER).is_none()
}

/// Ports as text, for an order among sets of them.
type Ports = BTreeSet<String>;

/// Endpoints by family and set of ports, and what could not be mirrored.
#[derive(Default)]
struct Wanted {
    groups: BTreeMap<(&'static str, Ports), Vec<Value>>,
    invalid: usize,
    skipped: usize,
}

fn mirror(endpoints: &Item, mut existing: Vec<Item>) -> Plan {
    let wanted = wanted(endpoints);
    let mut plan = Plan::default();
    let mut missing = Vec::new();
    let (labels, annotations) = marks(endpoints);
    for ((family, ports), members) in wanted.groups {
        let is_same = |slice: &Item| slice.text("/addressType") == family && ports_of(slice.list("/ports")) == ports;
        let body = json!({"endpoints": members, "ports": written(&ports)});
        match existing.iter().position(is_same) {
            Some(at) => {
                let slice = existing.remove(at);
                plan.writes.extend(update(&slice, endpoints, &body, (&labels, &annotations)));
            }
            None => missing.push((family, body)),
        }
    }
    for (family, mut body) in missing {
        if endpoints.meta().is_deleting() {
            break;
        }
        // A slice nobody needs any more is used again; its address family is fixed for life.
        if let Some(at) = existing.iter().position(|slice| slice.text("/addressType") == family) {
            let slice = existing.remove(at);
            plan.writes.extend(update(&slice, endpoints, &body, (&labels, &annotations)));
            continue;
        }
        body["apiVersion"] = json!("discovery.k8s.io/v1");
        body["kind"] = json!("EndpointSlice");
        body["addressType"] = json!(family);
        body["metadata"] = json!({"generateName": format!("{}-", endpoints.name()), "labels": labels,
            "namespace": endpoints.namespace(), "ownerReferences": [owner(endpoints)]});
        if annotations.as_object().is_some_and(|annotations| !annotations.is_empty()) {
            body["metadata"]["annotations"] = annotations.clone();
        }
        let namespace = endpoints.namespace().to_owned();
        plan.writes.push(Write::Create { resource: SLICES, namespace, object: body });
    }
    plan.writes.extend(existing.iter().map(|slice| slice.delete(&SLICES)));
    tell(endpoints, (wanted.invalid, wanted.skipped), &mut plan);
    plan
}

fn owner(endpoints: &Item) -> Value {
    endpoints.controller_reference("v1", "Endpoints")
}

/// Told with a change only: what stays as it is was told before.
fn tell(endpoints: &Item, (invalid, skipped): (usize, usize), plan: &mut Plan) {
    if plan.writes.is_empty() {
        return;
    }
    if invalid > 0 {
        let message = format!("Skipped {invalid} invalid IP addresses when mirroring to EndpointSlices");
        plan.events.push(endpoints.note(EventKind::Warning, "InvalidIPAddress", message));
    }
    if skipped > 0 {
        let message = format!(
            "A max of {ADDRESSES_MAX} addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
            skipped + invalid
        );
        plan.events.push(endpoints.note(EventKind::Warning, "TooManyAddressesToMirror", message));
    }
}

/// The members of subsets, as each says for itself.
fn members(subset: &Value) -> impl Iterator<Item = Member> {
    let ports: Vec<Value> = written(&ports_of(subset["ports"].as_array().map(Vec::as_slice).unwrap_or_default()));
    let lists = [("addresses", true), ("notReadyAddresses", false)].into_iter();
    let all = lists.flat_map(|(list, is_ready)| {
        subset[list].as_array().into_iter().flatten().map(move |address| (address, is_ready))
    });
    all.map(move |(address, is_ready)| Member { ports: ports.clone(), address: address.clone(), is_ready })
}

fn wanted(endpoints: &Item) -> Wanted {
    let mut wanted = Wanted::default();
    for Subset { ports, ready, not_ready } in repack(endpoints.list("/subsets").iter().flat_map(members)) {
        let ports = ports_of(&ports);
        let mut taken = 0;
        let all = ready.iter().map(|address| (address, true)).chain(not_ready.iter().map(|address| (address, false)));
        for (address, is_ready) in all {
            if taken == ADDRESSES_MAX {
                wanted.skipped += 1;
                continue;
            }
            let Some(ip) = address["ip"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok()) else {
                wanted.invalid += 1;
                continue;
            };
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let group = wanted.groups.entry((family, ports.clone())).or_default();
            group.push(endpoint(address, ip, is_ready));
            taken += 1;
        }
    }
    wanted
}

fn endpoint(address: &Value, ip: IpAddr, ready: bool) -> Value {
    let mut endpoint = json!({"addresses": [ip.to_string()], "conditions": {"ready": ready}});
    for key in ["targetRef", "nodeName", "hostname"] {
        if !address[key].is_null() && address[key] != "" {
            endpoint[key] = address[key].clone();
        }
    }
    endpoint
}

/// Ports as canonical texts; those of a slice may leave a name out.
fn ports_of(ports: &[Value]) -> Ports {
    let text = |port: &Value| {
        let mut entry = json!({"name": port["name"].as_str().unwrap_or_default(),
            "protocol": port["protocol"].as_str().unwrap_or("TCP"), "port": port["port"]});
        if !port["appProtocol"].is_null() {
            entry["appProtocol"] = port["appProtocol"].clone();
        }
        entry.to_string()
    };
    ports.iter().map(text).collect()
}

fn written(ports: &Ports) -> Vec<Value> {
    ports.iter().filter_map(|port| serde_json::from_str(port).ok()).collect()
}

/// The labels and annotations of the slices.
fn marks(endpoints: &Item) -> (Value, Value) {
    let map = |pointer: &str| endpoints.at(pointer).as_object().cloned().unwrap_or_default();
    let mut labels: Map<String, Value> = map("/metadata/labels");
    labels.insert(SERVICE_NAME.into(), json!(endpoints.name()));
    labels.insert(MANAGED_BY.into(), json!(MANAGER));
    let mut annotations = map("/metadata/annotations");
    annotations.retain(|key, _| !NOT_MIRRORED.contains(&key.as_str()));
    (Value::Object(labels), Value::Object(annotations))
}

fn update(slice: &Item, endpoints: &Item, body: &Value, (labels, annotations): (&Value, &Value)) -> Option<Write> {
    let mut patch = json!({});
    for key in ["endpoints", "ports"] {
        let same = key == "ports" && ports_of(slice.list("/ports")) == ports_of(body[key].as_array()?);
        if !same && !has_same_endpoints(key, slice, body) {
            patch[key] = body[key].clone();
        }
    }
    for (key, marks) in [("labels", labels), ("annotations", annotations)] {
        let old = slice.at("/metadata").get(key).cloned().unwrap_or_else(|| json!({}));
        if let Some(change) = merge_patch(&old, marks) {
            patch["metadata"][key] = change;
        }
    }
    if !endpoints.controls(slice.meta()) {
        patch["metadata"]["ownerReferences"] = json!([owner(endpoints)]);
    }
    let changes = patch.as_object().is_some_and(|patch| !patch.is_empty());
    changes.then(|| slice.patch(&SLICES, None, patch))
}

/// The order of endpoints means nothing.
fn has_same_endpoints(key: &str, slice: &Item, body: &Value) -> bool {
    let sorted = |list: &[Value]| {
        let mut texts: Vec<String> = list.iter().map(canonical).collect();
        texts.sort();
        texts
    };
    key == "endpoints" && sorted(slice.list("/endpoints")) == sorted(body[key].as_array().map_or(&[], Vec::as_slice))
}

fn canonical(endpoint: &Value) -> String {
    let keys = ["addresses", "conditions", "targetRef", "nodeName", "hostname", "zone"];
    keys.map(|key| sorted_text(&endpoint[key])).join("|")
}

fn sorted_text(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut parts: Vec<String> = members.iter().map(|(key, value)| format!("{key}:{value}")).collect();
            parts.sort();
            parts.join(",")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::FakeView;

    fn view(subsets: Value) -> FakeView {
        FakeView::new().with(SERVICES, json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {}})).with(
            ENDPOINTS,
            json!({"metadata": {"name": "s", "namespace": "n", "labels": {"a": "b"}}, "subsets": subsets}),
        )
    }

    fn settle(view: &FakeView) -> Vec<Value> {
        view.settle(&EndpointSliceMirroring, &Key::new("n", "s"), Timestamp::UNIX_EPOCH);
        view.names(&SLICES).iter().map(|name| view.json(&SLICES, "n", name)).collect()
    }

    #[test]
    fn subsets_become_slices_and_follow_changes() {
        let view = view(json!([{"addresses": [{"ip": "10.1.2.3"}], "ports": [{"port": 9376}]}]));
        let slices = settle(&view);
        assert_eq!(slices.len(), 1);
        assert_eq!(slices[0]["endpoints"][0]["addresses"], json!(["10.1.2.3"]));
        assert_eq!(slices[0]["metadata"]["labels"]["a"], "b");
        let mut endpoints = view.json(&ENDPOINTS, "n", "s");
        endpoints["subsets"] = json!([{"addresses": [{"ip": "10.2.3.4"}], "ports": [{"port": 8080}]}]);
        view.put(&ENDPOINTS, endpoints);
        let after = settle(&view);
        assert_eq!((after.len(), &after[0]["metadata"]["name"]), (1, &slices[0]["metadata"]["name"]));
        assert_eq!(after[0]["ports"][0]["port"], 8080);
        view.remove(&ENDPOINTS, "n", "s");
        assert!(settle(&view).is_empty());
    }

    #[test]
    fn ports_of_the_same_addresses_are_one_slice_of_a_family() {
        let subset = |name: &str, port: i64, ips: &[&str]| {
            let addresses: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
            json!({"addresses": addresses, "ports": [{"name": name, "port": port}]})
        };
        let cases = [
            ([subset("a", 1, &["10.0.0.1"]), subset("b", 2, &["10.0.0.1"])], vec![("IPv4", 2)]),
            (
                [subset("a", 1, &["10.0.0.1"]), subset("b", 2, &["10.0.0.1", "fd00::1"])],
                vec![("IPv4", 1), ("IPv4", 1), ("IPv6", 1)],
            ),
        ];
        for (subsets, wanted) in cases {
            let slices = settle(&view(json!(subsets)));
            let mut told: Vec<_> = slices
                .iter()
                .map(|slice| (slice["addressType"].as_str().unwrap(), slice["ports"].as_array().unwrap().len()))
                .collect();
            told.sort_unstable();
            assert_eq!(told, wanted);
        }
    }

    #[test]
    fn an_empty_selector_selects_nothing() {
        let view = view(json!([{"addresses": [{"ip": "10.0.0.1"}]}]));
        view.put(&SERVICES, json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"selector": {}}}));
        assert_eq!(settle(&view).len(), 1);
    }

    #[test]
    fn more_addresses_than_are_mirrored_are_told() {
        let all: Vec<Value> = (0..1001).map(|n| json!({"ip": format!("10.0.{}.{}", n / 250, n % 250 + 1)})).collect();
        let view = view(json!([{"addresses": all, "ports": [{"port": 1}]}]));
        let plans = view.settle(&EndpointSliceMirroring, &Key::new("n", "s"), Timestamp::UNIX_EPOCH);
        assert_eq!(plans[0].events[0].reason, "TooManyAddressesToMirror");
    }

    #[test]
    fn rubbish_is_told_and_left_out() {
        let view = view(json!([{"addresses": [{"ip": "x"}, {"ip": "10.0.0.1"}], "ports": []}]));
        let plans = view.settle(&EndpointSliceMirroring, &Key::new("n", "s"), Timestamp::UNIX_EPOCH);
        assert_eq!(plans[0].events[0].reason, "InvalidIPAddress");
    }

    #[test]
    fn services_with_a_selector_have_slices_of_their_own() {
        let view = view(json!([{"addresses": [{"ip": "10.0.0.1"}]}]));
        settle(&view);
        view.put(&SERVICES, json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"selector": {"a": "b"}}}));
        assert!(settle(&view).is_empty());
    }
}
