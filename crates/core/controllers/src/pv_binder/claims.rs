//! What becomes of a claim: bound, waiting, handed to a provisioner, or lost.

use coracle_reconcile::{EventKind, Key, Plan, View};
use serde_json::json;

use super::{
    BOUND_BY_CONTROLLER, IS_DEFAULT, PROVISIONERS, SELECTED_NODE, STORAGE_CLASSES, VOLUMES, bind, class_of,
    is_set_aside, is_unbound, matching, phase_of_claim, tell,
};
use crate::pods::PODS;
use crate::pvc_protection::claim_names;
use crate::shape::Item;
use crate::statefulset::CLAIMS;

pub fn decide(view: &dyn View, claim: &Item, plan: &mut Plan) {
    let wanted = claim.text("/spec/volumeName");
    let volume = Item::get(view, &VOLUMES, &Key::new("", wanted)).filter(|_| !wanted.is_empty());
    match (is_unbound(claim), wanted.is_empty(), volume) {
        (true, true, _) => find_one(view, claim, plan),
        (true, false, None) => plan.writes.extend(phase_of_claim(claim, "Pending", None)),
        (true, false, Some(volume)) => take(&volume, claim, plan),
        (false, true, _) => {
            let why = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
            lose(claim, "ClaimLost", why, plan);
        }
        (false, false, None) => {
            let why = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
            lose(claim, "ClaimLost", why, plan);
        }
        (false, false, Some(volume)) => {
            let holder = volume.at("/spec/claimRef");
            if holder.is_null() || holder["uid"] == claim.uid() {
                return bind(&volume, claim, plan);
            }
            let why = "Two claims are bound to the same volume, this one is bound incorrectly";
            lose(claim, "ClaimMisbound", why, plan);
        }
    }
}

fn lose(claim: &Item, reason: &'static str, why: &str, plan: &mut Plan) {
    if claim.text("/status/phase") != "Lost" {
        tell(plan, claim, EventKind::Warning, (reason, why.into()));
    }
    plan.writes.extend(phase_of_claim(claim, "Lost", None));
}

/// The claim names a volume itself.
fn take(volume: &Item, claim: &Item, plan: &mut Plan) {
    if is_set_aside(volume, claim) {
        return bind(volume, claim, plan);
    }
    if volume.at("/spec/claimRef").is_null() {
        let Some(why) = matching::objection(volume, claim) else { return bind(volume, claim, plan) };
        let message = format!("Cannot bind to requested volume \"{}\": {why}", volume.name());
        tell(plan, claim, EventKind::Warning, ("VolumeMismatch", message));
        return plan.writes.extend(phase_of_claim(claim, "Pending", None));
    }
    let message = format!("volume \"{}\" already bound to a different claim.", volume.name());
    tell(plan, claim, EventKind::Warning, ("FailedBinding", message));
    if claim.annotation(BOUND_BY_CONTROLLER).is_none() {
        plan.writes.extend(phase_of_claim(claim, "Pending", None));
    }
}

fn find_one(view: &dyn View, claim: &Item, plan: &mut Plan) {
    let delayed = is_delayed(view, claim);
    if let Some(volume) = matching::find(view, claim, delayed) {
        return bind(&volume, claim, plan);
    }
    if let Some(class) = default_class(view).filter(|_| has_no_class(claim)) {
        return plan.writes.push(claim.patch(&CLAIMS, None, json!({"spec": {"storageClassName": class}})));
    }
    if delayed && claim.annotation(SELECTED_NODE).is_none() {
        tell(plan, claim, EventKind::Normal, waits_for_pod(view, claim));
    } else if !class_of(claim).is_empty() {
        return hand_over(view, claim, plan);
    } else {
        let why = "no persistent volumes available for this claim and no storage class is set";
        tell(plan, claim, EventKind::Normal, ("FailedBinding", why.into()));
    }
    plan.writes.extend(phase_of_claim(claim, "Pending", None));
}

fn has_no_class(claim: &Item) -> bool {
    claim.at("/spec/storageClassName").is_null() && class_of(claim).is_empty()
}

/// The newest of the default classes.
fn default_class(view: &dyn View) -> Option<String> {
    let classes = Item::all(view.list(&STORAGE_CLASSES, None));
    let is_default = |class: &&Item| IS_DEFAULT.iter().any(|key| class.annotation(key) == Some("true"));
    let newest =
        classes.iter().filter(is_default).max_by_key(|class| (class.created(), std::cmp::Reverse(class.name())));
    newest.map(|class| class.name().to_owned())
}

fn class(view: &dyn View, claim: &Item) -> Option<Item> {
    Item::get(view, &STORAGE_CLASSES, &Key::new("", class_of(claim))).filter(|_| !class_of(claim).is_empty())
}

/// Bound only when a pod that uses it has a node.
fn is_delayed(view: &dyn View, claim: &Item) -> bool {
    class(view, claim).is_some_and(|class| class.text("/volumeBindingMode") == "WaitForFirstConsumer")
        && claim.annotation(SELECTED_NODE).is_none()
}

fn waits_for_pod(view: &dyn View, claim: &Item) -> (&'static str, String) {
    let pods = Item::all(view.list(&PODS, Some(claim.namespace())));
    let uses = |pod: &&Item| {
        pod.text("/spec/nodeName").is_empty() && claim_names(pod.tree()).iter().any(|name| name == claim.name())
    };
    match pods.iter().find(uses) {
        Some(pod) => ("WaitForPodScheduled", format!("waiting for pod {} to be scheduled", pod.name())),
        None => ("WaitForFirstConsumer", "waiting for first consumer to be created before binding".into()),
    }
}

/// Names the provisioner of the claim's class, which then makes a volume for it.
fn hand_over(view: &dyn View, claim: &Item, plan: &mut Plan) {
    let Some(class) = class(view, claim) else {
        let message = format!("storageclass.storage.k8s.io \"{}\" not found", class_of(claim));
        return tell(plan, claim, EventKind::Warning, ("ProvisioningFailed", message));
    };
    let provisioner = class.text("/provisioner");
    // Volumes of this class are made by people alone.
    if provisioner == "kubernetes.io/no-provisioner" {
        let why = "no volume plugin matched";
        let message = format!("storageclass \"{}\": {why} name: {provisioner}", class.name());
        return tell(plan, claim, EventKind::Warning, ("ProvisioningFailed", message));
    }
    if PROVISIONERS.iter().any(|key| claim.annotation(key) != Some(provisioner)) {
        let annotations = PROVISIONERS.map(|key| (key.to_owned(), json!(provisioner)));
        let annotations: serde_json::Map<_, _> = annotations.into_iter().collect();
        plan.writes.push(claim.patch(&CLAIMS, None, json!({"metadata": {"annotations": annotations}})));
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
         system administrator. If volume creation is delayed, please verify that the provisioner is running and \
         correctly registered."
    );
    tell(plan, claim, EventKind::Normal, ("ExternalProvisioning", message));
}
