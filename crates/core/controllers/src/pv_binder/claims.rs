//! What becomes of a claim: bound, waiting, handed to a provisioner, or lost.

use coracle_reconcile::{EventKind, Key, Plan, PodFacts, View};
use serde_json::json;

use super::{
    BOUND_BY_CONTROLLER, BUILT_IN, IS_DEFAULT, OLD_CLASS, PROVISIONERS, SELECTED_NODE, STORAGE_CLASSES, VOLUMES, bind,
    class_of, is_set_aside, is_unbound, matching, phase_of_claim, tell,
};
use crate::pods::{PODS, is_active};
use crate::pvc_protection::claim_names;
use crate::shape::Item;
use crate::statefulset::CLAIMS;

/// Drivers that took over from volume plugins of old times, whose names classes may still hold.
const SUCCESSORS: [(&str, &str); 7] = [
    ("kubernetes.io/aws-ebs", "ebs.csi.aws.com"),
    ("kubernetes.io/azure-disk", "disk.csi.azure.com"),
    ("kubernetes.io/azure-file", "file.csi.azure.com"),
    ("kubernetes.io/cinder", "cinder.csi.openstack.org"),
    ("kubernetes.io/gce-pd", "pd.csi.storage.gke.io"),
    ("kubernetes.io/portworx-volume", "pxd.portworx.com"),
    ("kubernetes.io/vsphere-volume", "csi.vsphere.vmware.com"),
];

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
    let waits = waits_for_consumer(view, claim);
    if let Some(volume) = matching::find(view, claim, waits) {
        return bind(&volume, claim, plan);
    }
    if let Some(class) = default_class(view).filter(|_| has_no_class(claim)) {
        return plan.writes.push(claim.patch(&CLAIMS, None, json!({"spec": {"storageClassName": class}})));
    }
    if waits && claim.annotation(SELECTED_NODE).is_none() {
        tell(plan, claim, EventKind::Normal, waiting_pods(view, claim));
    } else if !class_of(claim).is_empty() {
        return hand_over(view, claim, plan);
    } else {
        let why = "no persistent volumes available for this claim and no storage class is set";
        tell(plan, claim, EventKind::Normal, ("FailedBinding", why.into()));
    }
    plan.writes.extend(phase_of_claim(claim, "Pending", None));
}

/// An empty class is one that was asked for.
fn has_no_class(claim: &Item) -> bool {
    claim.at("/spec/storageClassName").is_null() && claim.annotation(OLD_CLASS).is_none()
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

/// Whether the claim's class leaves it to the scheduler to choose a volume, or a node for a new one.
fn waits_for_consumer(view: &dyn View, claim: &Item) -> bool {
    class(view, claim).is_some_and(|class| class.text("/volumeBindingMode") == "WaitForFirstConsumer")
}

fn waiting_pods(view: &dyn View, claim: &Item) -> (&'static str, String) {
    let pods = Item::all(view.list(&PODS, Some(claim.namespace())));
    let waits = |pod: &&Item| {
        let facts = PodFacts::of(&pod.object);
        facts.has_claims
            && facts.node.is_empty()
            && is_active(pod)
            && claim_names(pod.tree()).iter().any(|name| name == claim.name())
    };
    let names: Vec<&str> = pods.iter().filter(waits).map(Item::name).collect();
    match names.as_slice() {
        [] => ("WaitForFirstConsumer", "waiting for first consumer to be created before binding".into()),
        [name] => ("WaitForPodScheduled", format!("waiting for pod {name} to be scheduled")),
        names => ("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", names.join(","))),
    }
}

/// Names the provisioner of the claim's class, which then makes a volume for it.
fn hand_over(view: &dyn View, claim: &Item, plan: &mut Plan) {
    let Some(class) = class(view, claim) else {
        let message = format!("storageclass.storage.k8s.io \"{}\" not found", class_of(claim));
        return tell(plan, claim, EventKind::Warning, ("ProvisioningFailed", message));
    };
    let provisioner = class.text("/provisioner");
    let successor = SUCCESSORS.iter().find(|(name, _)| *name == provisioner);
    let provisioner = successor.map_or(provisioner, |(_, driver)| *driver);
    // No driver beside the cluster goes by such a name; `no-provisioner` stands for people alone.
    if provisioner.starts_with(BUILT_IN) {
        let message = format!("no volume plugin matched name: {provisioner}");
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
