//! What becomes of a volume: free, bound, released, and then what its reclaim policy says.

use coracle_reconcile::{Answer, Ask, EventKind, Key, Outcome, Plan, View};
use serde_json::{Value, json};

use super::{
    BOUND_BY_CONTROLLER, BUILT_IN, MIGRATED_TO, PROVISIONED_BY, VOLUMES, matching::same_mode, phase_of_volume, tell,
};
use crate::shape::Item;
use crate::statefulset::CLAIMS;

pub fn decide(view: &dyn View, volume: &Item, last: &Outcome, plan: &mut Plan) {
    let uid = volume.text("/spec/claimRef/uid");
    if uid.is_empty() {
        return plan.writes.extend(phase_of_volume(volume, "Available", ""));
    }
    let key = Key::new(volume.text("/spec/claimRef/namespace"), volume.text("/spec/claimRef/name"));
    match Item::get(view, &CLAIMS, &key).filter(|claim| claim.uid() == uid) {
        Some(claim) => with_claim(volume, &claim, plan),
        None => without_claim(volume, &key, last, plan),
    }
}

fn with_claim(volume: &Item, claim: &Item, plan: &mut Plan) {
    let wanted = claim.text("/spec/volumeName");
    if wanted == volume.name() {
        return plan.writes.extend(phase_of_volume(volume, "Bound", ""));
    }
    if wanted.is_empty() {
        if !same_mode(volume, claim) {
            let end = "due to incompatible volumeMode.";
            let message =
                format!("Cannot bind PersistentVolume to requested PersistentVolumeClaim \"{}\" {end}", claim.name());
            tell(plan, volume, EventKind::Warning, ("VolumeMismatch", message));
            let message =
                format!("Cannot bind PersistentVolume \"{}\" to requested PersistentVolumeClaim {end}", volume.name());
            tell(plan, claim, EventKind::Warning, ("VolumeMismatch", message));
        }
        return;
    }
    // The claim has another volume.
    if volume.annotation(PROVISIONED_BY).is_some() && policy(volume) == "Delete" {
        release(volume, plan);
        return reclaim(volume, plan);
    }
    let patch = match volume.annotation(BOUND_BY_CONTROLLER) {
        Some(_) => {
            json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: Value::Null}}, "spec": {"claimRef": Value::Null}})
        }
        None => json!({"spec": {"claimRef": {"uid": Value::Null}}}),
    };
    plan.writes.push(volume.patch_this_version(&VOLUMES, patch));
    plan.writes.extend(phase_of_volume(volume, "Available", ""));
}

fn policy(volume: &Item) -> &str {
    volume.text("/spec/persistentVolumeReclaimPolicy")
}

fn has_ended(volume: &Item) -> bool {
    matches!(volume.text("/status/phase"), "Released" | "Failed")
}

/// A claim that no cache shows is gone only when the store says so: releasing loses data.
fn without_claim(volume: &Item, claim: &Key, last: &Outcome, plan: &mut Plan) {
    if !has_ended(volume) {
        let ask = Ask::Read { resource: CLAIMS, namespace: claim.namespace.clone(), name: claim.name.clone() };
        match last.answer(&ask) {
            None => return plan.asks.push(ask),
            Some(Answer::Object(Some(found))) if found["metadata"]["uid"] == *volume.text("/spec/claimRef/uid") => {
                return;
            }
            Some(Answer::Object(_)) => {}
            Some(_) => return plan.wake_by(std::time::Duration::from_secs(1)),
        }
    }
    release(volume, plan);
    reclaim(volume, plan);
}

fn release(volume: &Item, plan: &mut Plan) {
    if !has_ended(volume) {
        plan.writes.extend(phase_of_volume(volume, "Released", ""));
    }
}

/// Deleting and recycling are for drivers, which look after volumes of their own; others cannot be done here.
fn reclaim(volume: &Item, plan: &mut Plan) {
    let by_driver = match volume.annotation(PROVISIONED_BY).filter(|driver| !driver.is_empty()) {
        Some(driver) => !driver.starts_with(BUILT_IN),
        None => !volume.at("/spec/csi").is_null(),
    };
    if volume.text("/status/phase") == "Failed" || volume.annotation(MIGRATED_TO).is_some_and(|to| !to.is_empty()) {
        return;
    }
    let (reason, message) = match policy(volume) {
        "Delete" if !by_driver => {
            let name = volume.name();
            let why = "no deletable volume plugin matched";
            ("VolumeFailedDelete", format!("error getting deleter volume plugin for volume \"{name}\": {why}"))
        }
        "Recycle" => ("VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned()),
        "Delete" | "Retain" => return,
        _ => ("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy".to_owned()),
    };
    plan.writes.extend(phase_of_volume(volume, "Failed", &message));
    tell(plan, volume, EventKind::Warning, (reason, message));
}
