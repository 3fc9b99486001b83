//! Attaches volumes of CSI drivers that need it to the nodes whose pods use them: a VolumeAttachment for each, which
//! the driver's attacher carries out, and the node's `status.volumesAttached` once it has. A volume for one node at a
//! time waits until the other has let it go, and a node lets go what it has unmounted, or what it never will. Keys are
//! nodes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
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
/// Put on a node by people who know that it is down.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// Until a volume that the node still uses is looked at again.
const NEXT_LOOK: Duration = Duration::from_secs(6);
/// Until a bound claim is looked at again whose volume no cache shows yet.
const VOLUME_LOOK: Duration = Duration::from_secs(1);
/// How long a node that is not ready may take to unmount.
const UNMOUNT_MAX: Duration = Duration::from_secs(6 * 60);

/// Remembers what no object tells, by node.
#[derive(Default)]
pub struct AttachDetach {
    memory: Mutex<HashMap<String, Memory>>,
}

/// Both by the names of attachments.
#[derive(Clone, Default, PartialEq)]
struct Memory {
    /// Since when nobody wants them any more.
    unwanted: BTreeMap<String, Duration>,
    /// Those that wait for another node, which was told.
    blocked: BTreeSet<String>,
}

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
            Watch { resource: ATTACHMENTS, keys: nodes_of_attachment },
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
            self.remember(&key.name, Memory::default());
            // A node that is gone has nothing attached.
            let gone = view.get(&NODES, "", &key.name).is_none();
            plan.writes
                .extend(existing.iter().filter(|item| gone && is_live(item)).map(|item| item.delete(&ATTACHMENTS)));
            return plan;
        };
        let wanted = wanted(view, &node, &mut plan);
        let known = self.recall(&key.name);
        let mut now = Memory::default();
        let unwanted = existing.iter().filter(|item| is_live(item) && !wanted.contains_key(item.name()));
        let mut leaving = Vec::new();
        for item in unwanted {
            let since = known.unwanted.get(item.name()).copied().unwrap_or_else(|| view.steady());
            now.unwanted.insert(item.name().to_owned(), since);
            if may_leave(view, &node, item, view.steady().saturating_sub(since)) {
                leaving.push(item);
            } else {
                plan.wake_by(NEXT_LOOK);
            }
        }
        // The kubelet hears first: what leaves is not to be mounted any more.
        let stays = |item: &&Item| !leaving.iter().any(|left| left.name() == item.name());
        tell_attached(view, &node, &existing.iter().filter(stays).collect::<Vec<_>>(), &mut plan);
        plan.writes.extend(leaving.iter().map(|item| item.delete(&ATTACHMENTS)));
        for (name, volume) in wanted.iter().filter(|(name, _)| !existing.iter().any(|item| item.name() == *name)) {
            let holders = holders(view, volume, node.name());
            if holders.is_empty() {
                plan.writes.push(attach(name, volume, &node));
                continue;
            }
            if !known.blocked.contains(name) {
                tell_blocked(view, &node, (volume, &holders), &mut plan);
            }
            now.blocked.insert(name.clone());
        }
        tell_pods(view, &node, (&wanted, &existing), &mut plan);
        self.remember(&key.name, now);
        plan
    }
}

impl AttachDetach {
    fn recall(&self, node: &str) -> Memory {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.get(node).cloned().unwrap_or_default()
    }

    fn remember(&self, node: &str, what: Memory) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if what == Memory::default() {
            memory.remove(node);
        } else {
            memory.insert(node.to_owned(), what);
        }
    }
}

/// A volume that its node has unmounted, or whose node is known to be down, or has been silent about it too long.
fn may_leave(view: &dyn View, node: &Item, attachment: &Item, waited: Duration) -> bool {
    let unique = unique_name(view, attachment);
    let is_used = node.list("/status/volumesInUse").iter().any(|used| *used == unique);
    let is_out = node.list("/spec/taints").iter().any(|taint| taint["key"] == OUT_OF_SERVICE);
    let mut conditions = node.list("/status/conditions").iter();
    let is_ready = conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    !is_used || is_out || (!is_ready && waited > UNMOUNT_MAX)
}

/// Its node; when it is gone, also those that waited for its volume.
fn nodes_of_attachment(view: &dyn View, attachment: &Object) -> Vec<Key> {
    let tree = attachment.decode::<Value>().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut nodes = vec![text(&tree["spec"]["nodeName"])];
    if view.get(&ATTACHMENTS, "", &attachment.meta.name).is_none() {
        let volume = Key::new("", text(&tree["spec"]["source"]["persistentVolumeName"]));
        let users = Item::get(view, &VOLUMES, &volume).map(|volume| users(view, &volume)).unwrap_or_default();
        nodes.extend(users.iter().map(|pod| pod.text("/spec/nodeName").to_owned()));
    }
    nodes.into_iter().filter(|node| !node.is_empty()).map(|node| Key::new("", node)).collect()
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
fn wanted(view: &dyn View, node: &Item, plan: &mut Plan) -> BTreeMap<String, Item> {
    let pods = Item::all(view.by_index(&PODS, Index::Node, node.name()));
    let facts = |pod: &Item| PodFacts::of(&pod.object);
    let live = pods.iter().filter(|pod| facts(pod).has_claims && !facts(pod).is_finished());
    let mut wanted = BTreeMap::new();
    for pod in live {
        for name in claim_names(pod.tree()) {
            let claim = Item::get(view, &CLAIMS, &Key::new(pod.namespace(), name));
            let Some(claim) = claim.filter(|claim| claim.text("/status/phase") == "Bound") else { continue };
            let volume = Item::get(view, &VOLUMES, &Key::new("", claim.text("/spec/volumeName")));
            let Some(volume) = volume.filter(|volume| volume.text("/spec/claimRef/uid") == claim.uid()) else {
                plan.wake_by(VOLUME_LOOK);
                continue;
            };
            if needs_attachment(view, &volume) {
                wanted.insert(attachment_name(&volume, node.name()), volume);
            }
        }
    }
    wanted
}

/// The other nodes that hold a volume which only one may.
fn holders(view: &dyn View, volume: &Item, node: &str) -> Vec<String> {
    let modes = volume.list("/spec/accessModes");
    if modes.is_empty() || modes.iter().any(|mode| *mode == "ReadWriteMany" || *mode == "ReadOnlyMany") {
        return Vec::new();
    }
    let all = Item::all(view.list(&ATTACHMENTS, None));
    let same = all.iter().filter(|item| item.text("/spec/source/persistentVolumeName") == volume.name());
    same.map(|item| item.text("/spec/nodeName").to_owned()).filter(|other| other != node).collect()
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

fn tell_attached(view: &dyn View, node: &Item, existing: &[&Item], plan: &mut Plan) {
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
        for pod in users(view, volume).iter().filter(|pod| pod.text("/spec/nodeName") == node.name()) {
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

/// Once, to the pods that wait: who has the volume.
fn tell_blocked(view: &dyn View, node: &Item, (volume, holders): (&Item, &[String]), plan: &mut Plan) {
    let users = users(view, volume);
    let on = |pod: &&Item, nodes: &[String]| nodes.iter().any(|node| node == pod.text("/spec/nodeName"));
    let names: Vec<&str> = users.iter().filter(|pod| on(pod, holders)).map(Item::name).collect();
    let why = match names.is_empty() {
        true => "Volume is already exclusively attached to one node and can't be attached to another".to_owned(),
        false => format!("Volume is already used by pod(s) {}", names.join(", ")),
    };
    let message = format!("Multi-Attach error for volume \"{}\" {why}", volume.name());
    for pod in users.iter().filter(|pod| pod.text("/spec/nodeName") == node.name()) {
        plan.events.push(pod.note(EventKind::Warning, "FailedAttachVolume", message.clone()));
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

    fn pod(name: &str, node: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"nodeName": node,
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}})
    }

    fn node(name: &str) -> Value {
        json!({"metadata": {"name": name, "annotations": {MANAGED: "true"}}})
    }

    fn view() -> FakeView {
        let csi = json!({"driver": "x.example", "volumeHandle": "h"});
        let holder = json!({"namespace": "n", "name": "c", "uid": "c-uid"});
        FakeView::new()
            .with(NODES, node("a"))
            .with(VOLUMES, json!({"metadata": {"name": "v"}, "spec": {"csi": csi, "claimRef": holder, "accessModes": ["ReadWriteOnce"]}}))
            .with(CLAIMS, json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}}))
            .with(PODS, pod("p", "a"))
    }

    fn settle(view: &FakeView) -> Vec<Plan> {
        view.settle(&AttachDetach::default(), &Key::new("", "a"), Timestamp::UNIX_EPOCH)
    }

    fn decide(controller: &AttachDetach, view: &FakeView, node: &str) -> Plan {
        controller.decide(view, &Key::new("", node), &Outcome::default(), Timestamp::UNIX_EPOCH)
    }

    /// Carries out what the driver's attacher would.
    fn attached(view: &FakeView) {
        let name = view.names(&ATTACHMENTS).remove(0);
        let mut attachment = view.json(&ATTACHMENTS, "", &name);
        attachment["status"] = json!({"attached": true});
        view.put(&ATTACHMENTS, attachment);
        settle(view);
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
        assert_eq!(decide(&AttachDetach::default(), &view, "a").events[0].reason, "FailedAttachVolume");
        attachment["status"] = json!({"attached": true});
        view.put(&ATTACHMENTS, attachment);
        view.put(&PODS, pod("elsewhere", "b"));
        let plans = settle(&view);
        let told: Vec<_> = plans[0].events.iter().map(|note| (note.reason, &note.regarding["name"])).collect();
        assert_eq!(told, [("SuccessfulAttachVolume", &json!("p"))]);
        let attached = view.json(&NODES, "", "a")["status"]["volumesAttached"].clone();
        assert_eq!(attached, json!([{"name": "kubernetes.io/csi/x.example^h", "devicePath": ""}]));
        let mut node = view.json(&NODES, "", "a");
        node["status"]["volumesInUse"] = json!(["kubernetes.io/csi/x.example^h"]);
        view.put(&NODES, node.clone());
        view.remove(&PODS, "n", "p");
        assert!(settle(&view).is_empty());
        node["status"]["volumesInUse"] = json!([]);
        view.put(&NODES, node);
        let plans = settle(&view);
        assert!(
            matches!(
                plans[0].writes.as_slice(),
                [Write::Patch { subresource: Some("status"), .. }, Write::Delete { .. }]
            ),
            "{plans:#?}"
        );
        assert!(view.names(&ATTACHMENTS).is_empty());
        assert!(view.json(&NODES, "", "a")["status"]["volumesAttached"].is_null());
    }

    #[test]
    fn a_node_that_is_down_lets_go_what_it_will_never_unmount() {
        let ready = |status: &str| json!([{"type": "Ready", "status": status}]);
        let out = json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]);
        let cases = [
            (ready("True"), Value::Null, 7, false),
            (ready("Unknown"), Value::Null, 5, false),
            (ready("Unknown"), Value::Null, 7, true),
            (ready("Unknown"), out, 0, true),
        ];
        for (conditions, taints, minutes, leaves) in cases {
            let (view, controller) = (view(), AttachDetach::default());
            settle(&view);
            attached(&view);
            view.remove(&PODS, "n", "p");
            let mut node = view.json(&NODES, "", "a");
            node["status"]["volumesInUse"] = json!(["kubernetes.io/csi/x.example^h"]);
            node["status"]["conditions"] = conditions.clone();
            node["spec"] = json!({"taints": taints});
            view.put(&NODES, node);
            let first = decide(&controller, &view, "a");
            view.at(Duration::from_secs(minutes * 60));
            let plan = if minutes == 0 { first } else { decide(&controller, &view, "a") };
            let deletes = plan.writes.iter().any(|write| matches!(write, Write::Delete { .. }));
            assert_eq!(deletes, leaves, "{conditions} {taints} {minutes}");
        }
    }

    #[test]
    fn a_volume_of_one_node_at_a_time_waits_for_the_other_to_let_go() {
        let (view, controller) = (view().with(NODES, node("b")), AttachDetach::default());
        settle(&view);
        attached(&view);
        view.put(&PODS, pod("q", "b"));
        let plan = decide(&controller, &view, "b");
        assert_eq!((plan.writes.len(), plan.events.len()), (0, 1));
        assert_eq!(plan.events[0].message, "Multi-Attach error for volume \"v\" Volume is already used by pod(s) p");
        assert_eq!(decide(&controller, &view, "b"), Plan::default(), "told once");
        let held = view.get(&ATTACHMENTS, "", &view.names(&ATTACHMENTS)[0]).unwrap();
        view.remove(&PODS, "n", "p");
        settle(&view);
        assert!(nodes_of_attachment(&view, &held).contains(&Key::new("", "b")));
        let plan = decide(&controller, &view, "b");
        assert!(matches!(plan.writes.as_slice(), [Write::Create { .. }]), "{plan:#?}");
        let mut shared = view.json(&VOLUMES, "", "v");
        shared["spec"]["accessModes"] = json!(["ReadWriteMany"]);
        view.put(&VOLUMES, shared);
        view.put(&PODS, pod("p", "a"));
        view.apply(&plan);
        assert!(matches!(decide(&controller, &view, "a").writes.as_slice(), [Write::Create { .. }]));
    }

    #[test]
    fn a_volume_that_is_not_to_be_seen_yet_is_looked_for_again() {
        let view = view();
        view.remove(&VOLUMES, "", "v");
        assert_eq!(decide(&AttachDetach::default(), &view, "a"), Plan::wake(VOLUME_LOOK));
    }

    #[test]
    fn drivers_that_attach_nothing_get_no_attachment() {
        let driver = json!({"metadata": {"name": "x.example"}, "spec": {"attachRequired": false}});
        let view = view().with(DRIVERS, driver);
        assert!(settle(&view).is_empty());
    }
}
