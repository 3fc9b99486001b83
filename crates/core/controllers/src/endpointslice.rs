//! EndpointSlices of Services that select pods: at most a hundred endpoints each, one set of ports each. Endpoints
//! stay in the slice they are in, so that a pod that comes or goes changes one slice.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use coracle_meta::Resource;
use coracle_reconcile::{Controller, Index, Key, Outcome, Plan, View, Watch, Write};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::pods::{self, PODS};
use crate::service::{self, SERVICES};
use crate::shape::Item;

pub const SLICES: Resource = Resource::new("discovery.k8s.io", "endpointslices");
const NODES: Resource = Resource::new("", "nodes");
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const ENDPOINTS_MAX: usize = 100;
/// How often a node is looked for that no cache shows.
const NODE_CHECK: Duration = Duration::from_secs(1);

pub struct EndpointSlice;

impl Controller for EndpointSlice {
    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::itself(SERVICES),
            Watch { resource: PODS, keys: service::keys_of_pod },
            Watch {
                resource: SLICES,
                keys: |_, slice| {
                    let name = slice.meta.label(SERVICE_NAME).filter(|_| slice.meta.label(MANAGED_BY) == Some(MANAGER));
                    name.map(|name| Key::new(slice.meta.namespace.clone(), name)).into_iter().collect()
                },
            },
        ]
    }

    fn reads(&self) -> Vec<Resource> {
        vec![NODES]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, _now: Timestamp) -> Plan {
        let service = Item::get(view, &SERVICES, key);
        let Some(service) = service.filter(service::is_managed) else { return Plan::default() };
        let mut existing = Item::all(view.by_index(&SLICES, Index::Owner, service.uid()));
        existing.retain(|slice| slice.meta().label(MANAGED_BY) == Some(MANAGER) && !slice.meta().is_deleting());
        let pods = service::pods(view, &service);
        let families = service::families(&service);
        // A pod whose node is gone can hardly be reached. A node that only registers anew is there again soon.
        let publishes = service::publishes_not_ready(&service);
        let placed = |pod: &Item| {
            let node = &pods::facts(pod).node;
            publishes || node.is_empty() || view.get(&NODES, "", node).is_some()
        };
        let (pods, lost): (Vec<Item>, Vec<Item>) = pods.into_iter().partition(placed);
        let wake_after = (!lost.is_empty()).then_some(NODE_CHECK);
        let mut writes = Vec::new();
        for family in &families {
            let of_family = existing.iter().filter(|slice| slice.text("/addressType") == family).collect();
            let mut group = Family { service: &service, family, free: of_family, used: 0, writes: Vec::new() };
            group.fill(view, &pods);
            writes.append(&mut group.writes);
        }
        let strangers =
            existing.iter().filter(|slice| !families.iter().any(|family| slice.text("/addressType") == family));
        writes.extend(strangers.map(|slice| slice.delete(&SLICES)));
        Plan { writes, wake_after, ..Plan::default() }
    }
}

/// The slices of one address family in the making; `free` are those not yet spoken for.
struct Family<'a> {
    service: &'a Item,
    family: &'a str,
    free: Vec<&'a Item>,
    used: usize,
    writes: Vec<Write>,
}

impl<'a> Family<'a> {
    fn fill(&mut self, view: &dyn View, pods: &[Item]) {
        let mut groups: BTreeMap<String, (Vec<Value>, Vec<Value>)> = BTreeMap::new();
        for pod in pods {
            let ports = service::ports(self.service, pod);
            let Some(endpoint) = self.endpoint(view, pod) else { continue };
            let group = groups.entry(json!(ports).to_string()).or_insert_with(|| (ports, Vec::new()));
            group.1.push(endpoint);
        }
        let mut chunks = Vec::new();
        for (ports, endpoints) in groups.into_values() {
            self.keep(ports, endpoints, &mut chunks);
        }
        for (ports, endpoints) in chunks {
            self.place(ports, endpoints);
        }
        self.finish();
    }

    /// Leaves endpoints in the slices they are in, fills those up, and adds what is left to `chunks`.
    fn keep(&mut self, ports: Vec<Value>, wanted: Vec<Value>, chunks: &mut Vec<(Vec<Value>, Vec<Value>)>) {
        let (same, other): (Vec<&Item>, Vec<&Item>) =
            self.free.iter().partition(|slice| slice.list("/ports") == ports.as_slice());
        self.free = other;
        let places: HashMap<String, usize> = wanted.iter().enumerate().map(|(at, one)| (identity(one), at)).collect();
        let mut wanted: Vec<Option<Value>> = wanted.into_iter().map(Some).collect();
        let mut kept: Vec<(&Item, Vec<Value>)> = Vec::new();
        for slice in same {
            let old = slice.list("/endpoints").iter();
            let stays = old.filter_map(|old| places.get(&identity(old)).and_then(|at| wanted[*at].take()));
            kept.push((slice, stays.collect()));
        }
        let mut left = wanted.into_iter().flatten();
        for (slice, mut endpoints) in kept {
            let room = ENDPOINTS_MAX.saturating_sub(endpoints.len());
            endpoints.extend(left.by_ref().take(room));
            if endpoints.is_empty() {
                self.free.push(slice);
            } else {
                self.used += 1;
                self.update(slice, &ports, endpoints);
            }
        }
        loop {
            let chunk: Vec<Value> = left.by_ref().take(ENDPOINTS_MAX).collect();
            if chunk.is_empty() {
                return;
            }
            chunks.push((ports.clone(), chunk));
        }
    }

    /// Into a slice nobody needs, or a new one.
    fn place(&mut self, ports: Vec<Value>, endpoints: Vec<Value>) {
        self.used += 1;
        if !self.free.is_empty() {
            let slice = self.free.remove(0);
            return self.update(slice, &ports, endpoints);
        }
        // The garbage collector takes the slices of a service on its way out: none may come in their stead.
        if self.service.meta().is_deleting() {
            return;
        }
        let owner = self.service.controller_reference("v1", "Service");
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"generateName": format!("{}-", self.service.name()), "namespace": self.service.namespace(),
                "labels": self.labels(), "ownerReferences": [owner]},
            "addressType": self.family, "endpoints": endpoints, "ports": ports,
        });
        let namespace = self.service.namespace().into();
        self.writes.push(Write::Create { resource: SLICES, namespace, object });
    }

    /// Deletes what nobody needs. One empty slice stays where there is no other, so that readers see that there are
    /// no endpoints.
    fn finish(&mut self) {
        if self.used == 0 {
            self.place(Vec::new(), Vec::new());
        }
        self.writes.extend(self.free.drain(..).map(|slice| slice.delete(&SLICES)));
    }

    fn update(&mut self, slice: &Item, ports: &[Value], endpoints: Vec<Value>) {
        let mut patch = json!({});
        if slice.list("/ports") != ports {
            patch["ports"] = json!(ports);
        }
        if slice.list("/endpoints") != endpoints.as_slice() {
            patch["endpoints"] = json!(endpoints);
        }
        let labels = self.labels();
        let old = slice.at("/metadata/labels").as_object().cloned().unwrap_or_default();
        if let Some(changed) = coracle_reconcile::plan::merge_patch(&Value::Object(old), &labels) {
            patch["metadata"] = json!({"labels": changed});
        }
        if patch.as_object().is_some_and(|patch| !patch.is_empty()) {
            self.writes.push(slice.patch(&SLICES, None, patch));
        }
    }

    /// The service's labels and those that say whose slice it is.
    fn labels(&self) -> Value {
        let mut labels: Map<String, Value> =
            self.service.at("/metadata/labels").as_object().cloned().unwrap_or_default();
        labels.shift_remove(HEADLESS);
        labels.insert(SERVICE_NAME.into(), json!(self.service.name()));
        labels.insert(MANAGED_BY.into(), json!(MANAGER));
        if service::is_headless(self.service) {
            labels.insert(HEADLESS.into(), json!(""));
        }
        Value::Object(labels)
    }

    fn endpoint(&self, view: &dyn View, pod: &Item) -> Option<Value> {
        let address = service::address(pod, self.family)?;
        let (serving, terminating) = (pods::is_ready(pod), pod.meta().is_deleting());
        let ready = service::publishes_not_ready(self.service) || (serving && !terminating);
        let mut endpoint = json!({
            "addresses": [address],
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
            "targetRef": service::target(pod),
        });
        let node = pod.text("/spec/nodeName");
        if !node.is_empty() {
            endpoint["nodeName"] = json!(node);
            let zone = view.get(&NODES, "", node);
            let zone = zone.and_then(|node| node.meta.label("topology.kubernetes.io/zone").map(str::to_owned));
            if let Some(zone) = zone {
                endpoint["zone"] = json!(zone);
            }
        }
        if let Some(hostname) = service::hostname(self.service, pod) {
            endpoint["hostname"] = json!(hostname);
        }
        Some(endpoint)
    }
}

/// By which an endpoint is known again.
fn identity(endpoint: &Value) -> String {
    format!("{} {}", endpoint["targetRef"]["uid"], endpoint["addresses"])
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::FakeView;

    fn service() -> Value {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "n"},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
                "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]}})
    }

    fn pod(name: &str, address: &str, ready: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "n", "labels": {"app": "web"}},
            "spec": {"nodeName": "a", "containers": [{"ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
                "conditions": [{"type": "Ready", "status": ready}]}})
    }

    fn settle(view: &FakeView) -> Vec<Value> {
        let now = Timestamp::UNIX_EPOCH;
        view.settle(&EndpointSlice, &Key::new("n", "web"), now);
        Item::all(view.list(&SLICES, None)).into_iter().map(|slice| slice.tree().clone()).collect()
    }

    #[test]
    fn a_service_without_pods_has_one_empty_slice() {
        let slices = settle(&FakeView::new().with(SERVICES, service()));
        assert_eq!(slices.len(), 1);
        assert_eq!((&slices[0]["endpoints"], &slices[0]["addressType"]), (&json!([]), &json!("IPv4")));
        assert_eq!(slices[0]["metadata"]["labels"][SERVICE_NAME], "web");
    }

    #[test]
    fn pods_come_and_go_in_the_same_slice() {
        let view = FakeView::new().with(SERVICES, service()).with(NODES, json!({"metadata": {"name": "a"}}));
        settle(&view);
        view.put(&PODS, pod("a", "10.1.0.1", "True"));
        view.put(&PODS, pod("b", "10.1.0.2", "False"));
        let slices = settle(&view);
        assert_eq!(slices.len(), 1);
        assert_eq!(slices[0]["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
        let ready: Vec<&Value> = slices[0]["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|endpoint| &endpoint["conditions"]["ready"])
            .collect();
        assert_eq!(ready, [&json!(true), &json!(false)]);
        view.remove(&PODS, "n", "a");
        view.remove(&PODS, "n", "b");
        assert_eq!(settle(&view)[0]["endpoints"], json!([]));
    }

    #[test]
    fn pods_of_a_node_that_is_gone_are_left_out_unless_all_are_published() {
        for (publishes, wanted) in [(false, 1), (true, 2)] {
            let mut lost = pod("b", "10.1.0.2", "True");
            lost["spec"]["nodeName"] = json!("gone");
            let mut service = service();
            service["spec"]["publishNotReadyAddresses"] = json!(publishes);
            let view = FakeView::new().with(SERVICES, service).with(NODES, json!({"metadata": {"name": "a"}}));
            let view = view.with(PODS, pod("a", "10.1.0.1", "True")).with(PODS, lost);
            assert_eq!(settle(&view)[0]["endpoints"].as_array().unwrap().len(), wanted);
            let key = Key::new("n", "web");
            let plan = EndpointSlice.reconcile(&view, &key, &Outcome::default(), Timestamp::UNIX_EPOCH);
            assert_eq!((plan.writes.len(), plan.wake_after.is_some()), (0, !publishes));
        }
    }

    #[test]
    fn a_service_on_its_way_out_changes_its_slices_and_gets_no_new_ones() {
        let mut leaving = service();
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let view = FakeView::new().with(SERVICES, service()).with(NODES, json!({"metadata": {"name": "a"}}));
        view.put(&PODS, pod("a", "10.1.0.1", "True"));
        settle(&view);
        view.put(&SERVICES, leaving);
        view.remove(&PODS, "n", "a");
        let slices = settle(&view);
        assert_eq!((slices.len(), &slices[0]["endpoints"]), (1, &json!([])));
        view.remove(&SLICES, "n", &view.names(&SLICES)[0]);
        assert!(settle(&view).is_empty());
    }

    #[test]
    fn a_pod_without_the_named_port_is_an_endpoint_without_ports() {
        let mut other = pod("a", "10.1.0.1", "True");
        other["spec"]["containers"] = json!([]);
        let view = FakeView::new().with(SERVICES, service()).with(NODES, json!({"metadata": {"name": "a"}}));
        let slices = settle(&view.with(PODS, other));
        assert_eq!((&slices[0]["ports"], slices[0]["endpoints"].as_array().unwrap().len()), (&json!([]), 1));
    }

    #[test]
    fn more_than_a_hundred_endpoints_take_another_slice() {
        let view = FakeView::new().with(SERVICES, service()).with(NODES, json!({"metadata": {"name": "a"}}));
        for number in 0..150 {
            view.put(&PODS, pod(&format!("p{number}"), &format!("10.1.0.{number}"), "True"));
        }
        let sizes: Vec<usize> =
            settle(&view).iter().map(|slice| slice["endpoints"].as_array().unwrap().len()).collect();
        assert_eq!(sizes, [100, 50]);
    }
}
