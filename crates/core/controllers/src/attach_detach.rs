//! Attaches volumes of CSI drivers that need it to the nodes whose pods use them: a VolumeAttachment for each, which
//! the driver's attacher carries out, and the node's `status.volumesAttached` once it has. Keys are nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use coracle_meta::{Object, Resource};
use coracle_reconcile::{Controller, EventKind, Index, Key, Outcome, Plan, PodFacts, View, Watch, Write};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::pods::PODS;
use crate::pv_binder::VOLUMES;
use crate::pvc_protection::claim_names;
use crate::shape::{Item, remove, status_of};
use crate::statefulset::CLAIMS;
use crate::taint_eviction::NODES;

const ATTACHMENTS: Resource = Resource::new("storage.k8s.io", "volumeattachments");
const DRIVERS: Resource = Resource::new("storage.k8s.io", "csidrivers");
/// Kubelets that leave attaching to us say so on their node.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
/// Until a volume that the node still uses is looked at again.
const NEXT_LOOK: Duration = Duration::from_secs(6);

pub struct AttachDetach;

impl Controller for AttachDetach {
    fn name(&self) -> &'static str {
        "persistentvolume-attach-detach-controller"
    }

    fn component(&self) -> &'static str {
        "attachdetach-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::itself(NODES),
            Watch { resource: PODS, keys: node_of_pod },
            Watch { resource: ATTACHMENTS, keys: node_of_attachment },
            Watch { resource: CLAIMS, keys: nodes_of_claim },
        ]
    }

    fn reads(&self) -> Vec<Resource> {
        vec![VOLUMES, DRIVERS]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, _now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let node = Item::get(view, &NODES, key);
        let existing = attachments(view, &key.name);
        let Some(node) = node.filter(|node| node.annotation(MANAGED) == Some("true")) else {
            // A node that is gone has nothing attached.
            let gone = view.get(&NODES, "", &key.name).is_none();
            plan.writes
                .extend(existing.iter().filter(|item| gone && is_live(item)).map(|item| item.delete(&ATTACHMENTS)));
            return plan;
        };
        let wanted = wanted(view, &node);
        for (name, volume) in wanted.iter().filter(|(name, _)| !existing.iter().any(|item| item.name() == *name)) {
            plan.writes.push(attach(name, volume, &node));
        }
        for item in existing.iter().filter(|item| !wanted.contains_key(item.name()) && is_live(item)) {
            let unique = unique_name(view, item);
            if node.list("/status/volumesInUse").iter().any(|used| *used == unique) {
                plan.wake_by(NEXT_LOOK);
            } else {
                plan.writes.push(item.delete(&ATTACHMENTS));
            }
        }
        tell_attached(view, &node, &existing, &mut plan);
        tell_pods(view, &node, (&wanted, &existing), &mut plan);
        plan
    }
}

fn node_of_attachment(_: &dyn View, attachment: &Object) -> Vec<Key> {
    let tree = attachment.decode::<Value>().unwrap_or_default();
    let node = tree["spec"]["nodeName"].as_str().filter(|node| !node.is_empty());
    node.map(|node| Key::new("", node)).into_iter().collect()
}

/// Pods without claims have nothing to attach.
fn node_of_pod(_: &dyn View, pod: &Object) -> Vec<Key> {
    let facts = PodFacts::of(pod);
    if facts.has_claims && !facts.node.is_empty() { vec![Key::new("", &*facts.node)] } else { Vec::new() }
}

fn nodes_of_claim(view: &dyn View, claim: &Object) -> Vec<Key> {
    let pods = Item::all(view.list(&PODS, Some(&claim.meta.namespace)));
    let uses = |pod: &&Item| claim_names(pod.tree()).contains(&claim.meta.name);
    let nodes = pods.iter().filter(uses).map(|pod| pod.text("/spec/nodeName").to_owned());
    nodes.filter(|node| !node.is_empty()).map(|node| Key::new("", node)).collect()
}

fn is_live(item: &Item) -> bool {
    !item.meta().is_deleting()
}

/// Those for CSI volumes on this node that we made; others have makers of their own.
fn attachments(view: &dyn View, node: &str) -> Vec<Item> {
    let all = Item::all(view.list(&ATTACHMENTS, None));
    all.into_iter().filter(|item| item.text("/spec/nodeName") == node && item.name().starts_with("csi-")).collect()
}

/// The volumes that pods of the node use and that must be attached, by the names of their attachments.
fn wanted(view: &dyn View, node: &Item) -> BTreeMap<String, Item> {
    let pods = Item::all(view.by_index(&PODS, Index::Node, node.name()));
    let facts = |pod: &Item| PodFacts::of(&pod.object);
    let live = pods.iter().filter(|pod| facts(pod).has_claims && !facts(pod).is_finished());
    let mut wanted = BTreeMap::new();
    for pod in live {
        for name in claim_names(pod.tree()) {
            let Some(claim) = Item::get(view, &CLAIMS, &Key::new(pod.namespace(), name)) else { continue };
            let Some(volume) = Item::get(view, &VOLUMES, &Key::new("", claim.text("/spec/volumeName"))) else {
                continue;
            };
            if needs_attachment(view, &volume) && claim.text("/status/phase") == "Bound" {
                wanted.insert(attachment_name(&volume, node.name()), volume);
            }
        }
    }
    wanted
}

/// A driver that is not known to need none needs one.
fn needs_attachment(view: &dyn View, volume: &Item) -> bool {
    let driver = volume.text("/spec/csi/driver");
    !driver.is_empty()
        && Item::get(view, &DRIVERS, &Key::new("", driver))
            .is_none_or(|driver| *driver.at("/spec/attachRequired") != false)
}

/// Attachers and kubelets find it by this name.
fn attachment_name(volume: &Item, node: &str) -> String {
    let (handle, driver) = (volume.text("/spec/csi/volumeHandle"), volume.text("/spec/csi/driver"));
    let digest = Sha256::digest(format!("{handle}{driver}{node}"));
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("csi-{hex}")
}

fn attach(name: &str, volume: &Item, node: &Item) -> Write {
    let object = json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": name},
        "spec": {"attacher": volume.text("/spec/csi/driver"), "nodeName": node.name(),
            "source": {"persistentVolumeName": volume.name()}}});
    Write::Create { resource: ATTACHMENTS, namespace: String::new(), object }
}

/// As nodes name it, `kubernetes.io/csi/DRIVER^HANDLE`.
fn unique_name(view: &dyn View, attachment: &Item) -> String {
    let volume = Key::new("", attachment.text("/spec/source/persistentVolumeName"));
    let handle = Item::get(view, &VOLUMES, &volume).map(|volume| volume.text("/spec/csi/volumeHandle").to_owned());
    format!("kubernetes.io/csi/{}^{}", attachment.text("/spec/attacher"), handle.unwrap_or_default())
}

fn tell_attached(view: &dyn View, node: &Item, existing: &[Item], plan: &mut Plan) {
    let attached = existing.iter().filter(|item| is_live(item) && *item.at("/status/attached") == true);
    let list: Vec<Value> = attached.map(|item| json!({"name": unique_name(view, item), "devicePath": ""})).collect();
    if node.list("/status/volumesAttached") == list.as_slice() {
        return;
    }
    let mut status = status_of(node);
    if list.is_empty() {
        remove(&mut status, "volumesAttached");
    } else {
        status["volumesAttached"] = json!(list);
    }
    plan.writes.extend(node.status_write(&NODES, &status));
}

/// Pods hear of attachments that failed, and once of those that stand.
fn tell_pods(view: &dyn View, node: &Item, (wanted, existing): (&BTreeMap<String, Item>, &[Item]), plan: &mut Plan) {
    let known = node.list("/status/volumesAttached");
    for (name, volume) in wanted {
        let Some(item) = existing.iter().find(|item| item.name() == name) else { continue };
        let error = item.text("/status/attachError/message");
        let unique = unique_name(view, item);
        let is_new = *item.at("/status/attached") == true && !known.iter().any(|one| one["name"] == *unique);
        if error.is_empty() && !is_new {
            continue;
        }
        for pod in users(view, volume) {
            let note = if error.is_empty() {
                let message = format!("AttachVolume.Attach succeeded for volume \"{}\" ", volume.name());
                pod.note(EventKind::Normal, "SuccessfulAttachVolume", message)
            } else {
                let message = format!("AttachVolume.Attach failed for volume \"{}\" : {error}", volume.name());
                pod.note(EventKind::Warning, "FailedAttachVolume", message)
            };
            plan.events.push(note);
        }
    }
}

fn users(view: &dyn View, volume: &Item) -> Vec<Item> {
    let (namespace, claim) = (volume.text("/spec/claimRef/namespace"), volume.text("/spec/claimRef/name"));
    let pods = Item::all(view.list(&PODS, Some(namespace)));
    let uses = |pod: &Item| claim_names(pod.tree()).iter().any(|name| name == claim);
    pods.into_iter().filter(uses).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::{FakeView, Witness};

    fn view() -> FakeView {
        let csi = json!({"driver": "x.example", "volumeHandle": "h"});
        FakeView::new()
            .with(NODES, json!({"metadata": {"name": "a", "annotations": {MANAGED: "true"}}}))
            .with(VOLUMES, json!({"metadata": {"name": "v"}, "spec": {"csi": csi, "claimRef": {"namespace": "n", "name": "c"}}}))
            .with(CLAIMS, json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}}))
            .with(PODS, json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "a",
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}}))
    }

    fn settle(view: &FakeView) -> Vec<Plan> {
        view.settle(&AttachDetach, &Key::new("", "a"), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_used_volume_is_attached_told_and_let_go_when_unused() {
        let view = view();
        settle(&view);
        let name = view.names(&ATTACHMENTS).remove(0);
        let mut attachment = view.json(&ATTACHMENTS, "", &name);
        assert_eq!(attachment["spec"]["source"]["persistentVolumeName"], "v");
        attachment["status"] = json!({"attached": false, "attachError": {"message": "no"}});
        view.put(&ATTACHMENTS, attachment.clone());
        let failed = AttachDetach.decide(&view, &Key::new("", "a"), &Outcome::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(failed.events[0].reason, "FailedAttachVolume");
        attachment["status"] = json!({"attached": true});
        view.put(&ATTACHMENTS, attachment);
        assert_eq!(settle(&view)[0].events[0].reason, "SuccessfulAttachVolume");
        let attached = view.json(&NODES, "", "a")["status"]["volumesAttached"].clone();
        assert_eq!(attached, json!([{"name": "kubernetes.io/csi/x.example^h", "devicePath": ""}]));
        let mut node = view.json(&NODES, "", "a");
        node["status"]["volumesInUse"] = json!(["kubernetes.io/csi/x.example^h"]);
        view.put(&NODES, node.clone());
        view.remove(&PODS, "n", "p");
        assert!(settle(&view).is_empty());
        node["status"]["volumesInUse"] = json!([]);
        view.put(&NODES, node);
        settle(&view);
        assert!(view.names(&ATTACHMENTS).is_empty());
        assert!(view.json(&NODES, "", "a")["status"]["volumesAttached"].is_null());
    }

    #[test]
    fn drivers_that_attach_nothing_get_no_attachment() {
        let driver = json!({"metadata": {"name": "x.example"}, "spec": {"attachRequired": false}});
        let view = view().with(DRIVERS, driver);
        assert!(settle(&view).is_empty());
    }
}
