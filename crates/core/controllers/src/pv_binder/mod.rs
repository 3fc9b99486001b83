//! Binds claims to volumes that are there, tells the phases of both, and reclaims volumes whose claims are gone.
//! Volumes are provisioned by drivers beside the cluster: a claim with a storage class is handed to its provisioner.
//! Keys are claims, and volumes where the namespace is empty.

mod claims;
mod matching;
#[cfg(test)]
mod tests;
mod volumes;

pub use matching::{is_larger, quantity};

use coracle_meta::quantity::Quantity;
use coracle_meta::{Object, Resource};
use coracle_reconcile::{Controller, EventKind, Key, Outcome, Plan, View, Watch, Write};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::shape::{Item, remove, status_of};
use crate::statefulset::CLAIMS;

pub const VOLUMES: Resource = Resource::new("", "persistentvolumes");
pub const STORAGE_CLASSES: Resource = Resource::new("storage.k8s.io", "storageclasses");
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const PROVISIONERS: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
const IS_DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const MIGRATED_TO: &str = "pv.kubernetes.io/migrated-to";
/// How volume plugins are called that are no drivers beside the cluster.
const BUILT_IN: &str = "kubernetes.io/";
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

pub struct PvBinder;

impl Controller for PvBinder {
    fn name(&self) -> &'static str {
        "persistentvolume-binder-controller"
    }

    fn component(&self) -> &'static str {
        "persistentvolume-controller"
    }

    fn identity(&self) -> &'static str {
        "persistent-volume-binder"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch { resource: CLAIMS, keys: claim_keys },
            Watch { resource: VOLUMES, keys: volume_keys },
            Watch { resource: STORAGE_CLASSES, keys: |view, _| waiting(view) },
        ]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, _now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        if key.namespace.is_empty() {
            if let Some(volume) = Item::get(view, &VOLUMES, key) {
                volumes::decide(view, &volume, last, &mut plan);
            }
        } else if let Some(claim) = Item::get(view, &CLAIMS, key) {
            claims::decide(view, &claim, &mut plan);
        }
        plan
    }
}

fn is_unbound(claim: &Item) -> bool {
    claim.annotation(BIND_COMPLETED).is_none()
}

/// The claim, and the volume it names or that names it.
fn claim_keys(view: &dyn View, claim: &Object) -> Vec<Key> {
    let key = Key::of(claim);
    let named = Item::get(view, &CLAIMS, &key).map(|claim| claim.text("/spec/volumeName").to_owned());
    let mut keys: Vec<Key> = match named {
        Some(name) if name.is_empty() => Vec::new(),
        Some(name) => vec![Key::new("", name)],
        None => {
            let volumes = Item::all(view.list(&VOLUMES, None));
            volumes.iter().filter(|volume| refers(volume, &key)).map(|volume| Key::of(&volume.object)).collect()
        }
    };
    keys.push(key);
    keys
}

/// The volume and the claim it refers to; when it is free, all claims that wait for one; when it is free or gone, the
/// claims that name it.
fn volume_keys(view: &dyn View, volume: &Object) -> Vec<Key> {
    let mut keys = vec![Key::of(volume)];
    let Ok(tree) = volume.decode::<Value>() else { return keys };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let holder = &tree["spec"]["claimRef"];
    if !holder.is_null() {
        keys.push(Key::new(text(&holder["namespace"]), text(&holder["name"])));
    }
    if holder.is_null() || view.get(&VOLUMES, "", &volume.meta.name).is_none() {
        let claims = Item::all(view.list(&CLAIMS, None));
        let concerned = claims.iter().filter(|claim| {
            claim.text("/spec/volumeName") == volume.meta.name || (holder.is_null() && is_unbound(claim))
        });
        keys.extend(concerned.map(|claim| Key::of(&claim.object)));
    }
    keys
}

fn waiting(view: &dyn View) -> Vec<Key> {
    let claims = Item::all(view.list(&CLAIMS, None));
    claims.iter().filter(|claim| is_unbound(claim)).map(|claim| Key::of(&claim.object)).collect()
}

fn refers(volume: &Item, claim: &Key) -> bool {
    volume.text("/spec/claimRef/namespace") == claim.namespace && volume.text("/spec/claimRef/name") == claim.name
}

/// Whether the volume is set aside for the claim, by people (without a uid) or by controllers.
fn is_set_aside(volume: &Item, claim: &Item) -> bool {
    let uid = volume.text("/spec/claimRef/uid");
    refers(volume, &Key::of(&claim.object)) && (uid.is_empty() || uid == claim.uid())
}

/// The class an annotation of old times, or the spec, names.
fn class_of(item: &Item) -> &str {
    item.annotation(OLD_CLASS).unwrap_or_else(|| item.text("/spec/storageClassName"))
}

/// The four writes that bind, as far as they are still to do: the volume takes the claim, then the claim the volume.
fn bind(volume: &Item, claim: &Item, plan: &mut Plan) {
    let reference = volume.at("/spec/claimRef");
    let mut patch = json!({});
    if !refers(volume, &Key::of(&claim.object)) || reference["uid"] != claim.uid() {
        patch["spec"]["claimRef"] = json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1",
            "namespace": claim.namespace(), "name": claim.name(), "uid": claim.uid(),
            "resourceVersion": claim.object.revision.to_string()});
        if !is_set_aside(volume, claim) && volume.annotation(BOUND_BY_CONTROLLER).is_none() {
            patch["metadata"]["annotations"][BOUND_BY_CONTROLLER] = json!("yes");
        }
        plan.writes.push(volume.patch_this_version(&VOLUMES, patch));
    }
    plan.writes.extend(phase_of_volume(volume, "Bound", ""));
    let mut patch = json!({});
    if claim.text("/spec/volumeName") != volume.name() {
        patch["spec"]["volumeName"] = json!(volume.name());
        if claim.annotation(BOUND_BY_CONTROLLER).is_none() {
            patch["metadata"]["annotations"][BOUND_BY_CONTROLLER] = json!("yes");
        }
    }
    if is_unbound(claim) {
        patch["metadata"]["annotations"][BIND_COMPLETED] = json!("yes");
    }
    if patch.as_object().is_some_and(|patch| !patch.is_empty()) {
        plan.writes.push(claim.patch_this_version(&CLAIMS, patch));
    }
    plan.writes.extend(phase_of_claim(claim, "Bound", Some(volume)));
}

/// The status of a volume, where its phase is another. The message stays empty but for failures.
fn phase_of_volume(volume: &Item, phase: &str, message: &str) -> Option<Write> {
    if volume.text("/status/phase") == phase {
        return None;
    }
    let mut status = status_of(volume);
    status["phase"] = json!(phase);
    if message.is_empty() {
        remove(&mut status, "message");
    } else {
        status["message"] = json!(message);
    }
    volume.status_write(&VOLUMES, &status)
}

fn phase_of_claim(claim: &Item, phase: &str, volume: Option<&Item>) -> Option<Write> {
    const OF_VOLUME: [&str; 3] = ["accessModes", "capacity", "currentVolumeAttributesClassName"];
    let mut status = status_of(claim);
    let was = status["phase"].as_str().unwrap_or_default().to_owned();
    status["phase"] = json!(phase);
    let Some(volume) = volume else {
        OF_VOLUME.iter().for_each(|member| remove(&mut status, member));
        return claim.status_write(&CLAIMS, &status);
    };
    status["accessModes"] = volume.at("/spec/accessModes").clone();
    if was != phase {
        let before = volume.annotation("volume.alpha.kubernetes.io/pre-resize-capacity");
        status["capacity"] = match before.filter(|before| before.parse::<Quantity>().is_ok()) {
            Some(before) => json!({"storage": before}),
            None => volume.at("/spec/capacity").clone(),
        };
    }
    // Once bound it is for the driver that changes attributes to tell.
    if was == "Pending" && phase == "Bound" {
        let class = volume.at("/spec/volumeAttributesClassName");
        if class.is_null() {
            remove(&mut status, "currentVolumeAttributesClassName");
        } else {
            status["currentVolumeAttributesClassName"] = class.clone();
        }
    }
    claim.status_write(&CLAIMS, &status)
}

/// An event that goes with a write, or stands alone where there is none.
fn tell(plan: &mut Plan, item: &Item, kind: EventKind, (reason, message): (&'static str, String)) {
    plan.events.push(item.note(kind, reason, message));
}
