//! What is written of a node and its lease, as its kubelet would: decided here from the fleet and the node's number.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::fleet::{Fleet, LABEL};
use crate::identity::{hex_id, whole_seconds};

/// The version of Kubernetes whose kubelet is imitated.
const KUBELET_VERSION: &str = "v1.36.2";

/// A node as it registers itself: what it is and, at once, how it is.
pub fn object(fleet: &Fleet, node: u32, now: Timestamp) -> Value {
    let name = fleet.name(node);
    let mut object = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": labels(fleet, node),
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
        "spec": {},
        "status": status(fleet, node, now),
    });
    if !fleet.taints.is_empty() {
        object["spec"]["taints"] = json!(fleet.taints);
    }
    object
}

/// For a node that is there from an earlier run.
pub fn relabel(fleet: &Fleet, node: u32) -> Value {
    json!({"metadata": {"labels": labels(fleet, node)}})
}

/// Everything that a kubelet tells at its start.
pub fn restart(fleet: &Fleet, node: u32, now: Timestamp) -> Value {
    json!({"status": status(fleet, node, now)})
}

/// A sign of life: conditions that stay as they are. What they have changed from is left to the server.
pub fn heartbeat(now: Timestamp) -> Value {
    let mut conditions = conditions(now);
    for condition in &mut conditions {
        condition.as_object_mut().map(|condition| condition.remove("lastTransitionTime"));
    }
    json!({"status": {"conditions": conditions}})
}

/// The lease of a node; it belongs to the node and goes with it.
pub fn lease(fleet: &Fleet, node: u32, uid: &str, now: Timestamp) -> Value {
    let name = fleet.name(node);
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}]},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": fleet.lease_seconds, "renewTime": micros(now)},
    })
}

pub fn renewal(fleet: &Fleet, now: Timestamp) -> Value {
    json!({"spec": {"leaseDurationSeconds": fleet.lease_seconds, "renewTime": micros(now)}})
}

fn labels(fleet: &Fleet, node: u32) -> Value {
    json!({
        "kubernetes.io/hostname": fleet.name(node),
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/region": "hollow",
        "topology.kubernetes.io/zone": format!("hollow-{}", node % fleet.zones),
        LABEL: fleet.label(),
    })
}

fn status(fleet: &Fleet, node: u32, now: Timestamp) -> Value {
    let (name, capacity) = (fleet.name(node), &fleet.capacity);
    let capacity = json!({"cpu": capacity.cpu, "memory": capacity.memory, "pods": capacity.pods.to_string(),
        "ephemeral-storage": "1Ti", "hugepages-1Gi": "0", "hugepages-2Mi": "0"});
    let id = hex_id(&[&name]);
    let uuid = format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..32]);
    json!({
        "capacity": capacity,
        "allocatable": capacity,
        "addresses": [
            {"type": "InternalIP", "address": fleet.address(node)},
            {"type": "Hostname", "address": name},
        ],
        "conditions": conditions(now),
        "nodeInfo": {
            "machineID": &id[..32], "systemUUID": uuid, "bootID": uuid,
            "kernelVersion": "0.0.0-hollow", "osImage": "Coracle hollow node",
            "containerRuntimeVersion": format!("hollow://{}", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": KUBELET_VERSION, "kubeProxyVersion": "",
            "operatingSystem": "linux", "architecture": "amd64",
        },
    })
}

fn conditions(now: Timestamp) -> Vec<Value> {
    let at = whole_seconds(now).to_string();
    let found = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ];
    let conditions = found.into_iter().map(|(name, status, reason, message)| {
        json!({"type": name, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": at, "lastTransitionTime": at})
    });
    conditions.collect()
}

/// As `metav1.MicroTime` is written.
fn micros(at: Timestamp) -> String {
    format!("{at:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Taint;

    #[test]
    fn nodes_of_a_fleet_differ_in_name_address_zone_and_machine() {
        let taints = vec![Taint::parse("hollow=true:NoSchedule").unwrap()];
        let fleet = Fleet { nodes: 9, zones: 3, taints, ..Fleet::default() };
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let (one, other) = (object(&fleet, 4, now), object(&fleet, 5, now));
        for path in [
            "/metadata/name",
            "/metadata/labels/kubernetes.io~1hostname",
            "/metadata/labels/topology.kubernetes.io~1zone",
            "/status/addresses/0/address",
            "/status/nodeInfo/systemUUID",
        ] {
            assert!(one.pointer(path).is_some_and(|value| Some(value) != other.pointer(path)), "{path}");
        }
        assert_eq!(one["metadata"]["labels"]["topology.kubernetes.io/zone"], "hollow-1");
        assert_eq!(one["spec"]["taints"][0]["effect"], "NoSchedule");
        assert_eq!(one["status"]["conditions"][3]["status"], "True");
    }
}
