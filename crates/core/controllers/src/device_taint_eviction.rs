//! Pods leave when a device they hold gets a NoExecute taint that their claims do not tolerate. Taints are read from
//! ResourceSlices; those of DeviceTaintRules are behind the gate `DeviceTaintRules`, off by default.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use coracle_meta::{Object, Resource};
use coracle_reconcile::{Controller, Key, Outcome, Plan, PodFacts, View, Watch};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::pods::{Disruption, PODS, phase};
use crate::shape::{Item, later, time};
use crate::tolerations::tolerates;

const CLAIMS: Resource = Resource::new("resource.k8s.io", "resourceclaims");
const SLICES: Resource = Resource::new("resource.k8s.io", "resourceslices");

const EVICTION: Disruption = Disruption {
    reason: "DeletionByDeviceTaintManager",
    message: "Device Taint manager: deleting due to NoExecute taint",
    event: "DeviceTaintManagerEviction",
};

/// Remembers when pods were first seen with devices that drive them away: a taint may tell no time of its own.
#[derive(Default)]
pub struct DeviceTaintEviction {
    seen: Mutex<BTreeMap<Key, Timestamp>>,
}

impl Controller for DeviceTaintEviction {
    fn name(&self) -> &'static str {
        "device-taint-eviction-controller"
    }

    fn component(&self) -> &'static str {
        "device-taint-eviction"
    }

    fn identity(&self) -> &'static str {
        "device-taint-eviction-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch {
                resource: PODS,
                keys: |_, pod| if PodFacts::of(pod).has_device_claims { vec![Key::of(pod)] } else { Vec::new() },
            },
            Watch { resource: CLAIMS, keys: |_, claim| users(claim) },
            Watch {
                resource: SLICES,
                keys: |view, _| view.list(&CLAIMS, None).iter().flat_map(|claim| users(claim)).collect(),
            },
        ]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, now: Timestamp) -> Plan {
        let pod = Item::get(view, &PODS, key).filter(|pod| !pod.meta().is_deleting());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(pod) = pod.filter(|pod| !matches!(phase(pod), "Succeeded" | "Failed")) else {
            seen.remove(key);
            return Plan::default();
        };
        let since = *seen.entry(key.clone()).or_insert(now);
        let claims = claim_names(&pod).into_iter().filter_map(|name| {
            Item::get(view, &CLAIMS, &Key::new(pod.namespace(), name)).filter(|claim| is_reserved(claim, &pod))
        });
        let ends = claims.filter_map(|claim| end(view, &claim, since));
        match ends.min() {
            None => {
                seen.remove(key);
                Plan::default()
            }
            Some(end) if end <= now => EVICTION.of(&pod, "Marking for deletion", now),
            Some(end) => Plan::wake(Duration::try_from(end.duration_since(now)).unwrap_or_default()),
        }
    }
}

fn users(claim: &Object) -> Vec<Key> {
    let Ok(tree) = claim.decode::<Value>() else { return Vec::new() };
    let reserved = tree["status"]["reservedFor"].as_array().into_iter().flatten();
    let pods = reserved.filter(|user| user["resource"] == "pods").filter_map(|user| user["name"].as_str());
    pods.map(|name| Key::new(claim.meta.namespace.clone(), name)).collect()
}

fn claim_names(pod: &Item) -> Vec<String> {
    let direct = pod.list("/spec/resourceClaims").iter();
    let made = pod.list("/status/resourceClaimStatuses").iter();
    direct.chain(made).filter_map(|entry| Some(entry["resourceClaimName"].as_str()?.to_owned())).collect()
}

fn is_reserved(claim: &Item, pod: &Item) -> bool {
    claim.list("/status/reservedFor").iter().any(|user| user["uid"] == pod.uid())
}

/// When the devices of a claim drive its pods away, if they do.
fn end(view: &dyn View, claim: &Item, seen: Timestamp) -> Option<Timestamp> {
    let slices = Item::all(view.list(&SLICES, None));
    let results = claim.list("/status/allocation/devices/results");
    let ends = results.iter().flat_map(|result| {
        let tolerations = result["tolerations"].as_array().cloned().unwrap_or_default();
        taints(&slices, result).into_iter().filter_map(move |taint| patience(&tolerations, &taint, seen))
    });
    ends.min()
}

/// The NoExecute taints of an allocated device.
fn taints(slices: &[Item], result: &Value) -> Vec<Value> {
    let of_pool = slices.iter().filter(|slice| {
        *slice.at("/spec/driver") == result["driver"] && *slice.at("/spec/pool/name") == result["pool"]
    });
    let newest = of_pool.clone().map(|slice| slice.int("/spec/pool/generation")).max();
    let current = of_pool.filter(|slice| Some(slice.int("/spec/pool/generation")) == newest);
    let devices = current.flat_map(|slice| slice.list("/spec/devices"));
    let own = devices.filter(|device| device["name"] == result["device"]);
    let taints = own.flat_map(|device| device["taints"].as_array().cloned().unwrap_or_default());
    taints.filter(|taint| taint["effect"] == "NoExecute").collect()
}

/// Until when a taint is borne; `None` for ever.
fn patience(tolerations: &[Value], taint: &Value, seen: Timestamp) -> Option<Timestamp> {
    let since = time(&taint["timeAdded"]).unwrap_or(seen);
    let used: Vec<&Value> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
    if used.is_empty() {
        return Some(since);
    }
    let seconds = used.iter().filter_map(|toleration| toleration["tolerationSeconds"].as_i64());
    seconds.min().map(|seconds| later(since, SignedDuration::from_secs(seconds.max(0))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::FakeView;
    use serde_json::json;

    #[test]
    fn a_tainted_device_drives_its_pod_away_when_patience_ends() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let toleration = json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60});
        let told = json!("2026-01-01T00:00:00Z");
        for (tolerations, seconds, added) in
            [(json!([]), 0, &told), (json!([toleration]), 60, &told), (json!([toleration]), 60, &Value::Null)]
        {
            let controller = DeviceTaintEviction::default();
            let pod = json!({"metadata": {"name": "p", "namespace": "n"},
                "spec": {"resourceClaims": [{"name": "gpu", "resourceClaimName": "c"}]}});
            let claim = json!({"metadata": {"name": "c", "namespace": "n"}, "status": {
                "reservedFor": [{"resource": "pods", "name": "p", "uid": "p-uid"}], "allocation": {"devices": {"results": [
                    {"driver": "d", "pool": "a", "device": "gpu-0", "tolerations": tolerations}]}}}});
            let slice = json!({"metadata": {"name": "s"}, "spec": {"driver": "d", "pool": {"name": "a", "generation": 1},
                "devices": [{"name": "gpu-0", "taints": [
                    {"key": "k", "effect": "NoExecute", "timeAdded": added}]}]}});
            let view = FakeView::new().with(PODS, pod).with(CLAIMS, claim).with(SLICES, slice);
            let at = |seconds| start + SignedDuration::from_secs(seconds);
            let key = Key::new("n", "p");
            if seconds > 0 {
                assert!(view.settle(&controller, &key, at(0)).is_empty());
                assert!(view.settle(&controller, &key, at(seconds - 1)).is_empty());
            }
            view.settle(&controller, &key, at(seconds));
            assert!(view.names(&PODS).is_empty());
        }
    }
}
