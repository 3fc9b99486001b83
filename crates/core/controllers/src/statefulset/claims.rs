//! The volume claims of a set's pods: made before the pod, and owned by set or pod as the retention policy says.

use coracle_meta::Resource;
use coracle_reconcile::{EventKind, Write};
use serde_json::{Value, json};

use super::identity::claim_name;
use super::{Decision, in_range};
use crate::shape::Item;

pub const CLAIMS: Resource = Resource::new("", "persistentvolumeclaims");

/// Whether a pod can be made now, as far as its claims go.
#[derive(Clone, Copy, PartialEq)]
pub enum Claims {
    Ready,
    /// One is on its way out, or still belongs to a pod that is gone.
    Wait,
}

/// Who owns the claims of pods.
struct Policy {
    on_delete: bool,
    on_scale: bool,
}

impl Decision<'_> {
    fn policy(&self) -> Policy {
        let policy = self.set.at("/spec/persistentVolumeClaimRetentionPolicy");
        Policy { on_delete: policy["whenDeleted"] == "Delete", on_scale: policy["whenScaled"] == "Delete" }
    }

    fn templates(&self) -> Vec<Value> {
        self.set.list("/spec/volumeClaimTemplates").to_vec()
    }

    fn claim(&self, template: &Value, ordinal: i64) -> Option<Item> {
        let name = claim_name(template, &self.set, ordinal);
        self.view.get(&CLAIMS, self.set.namespace(), &name).map(Item::of)
    }

    /// Creates what is missing for the pod of an ordinal, with the owners it is to have.
    pub(super) fn make_claims(&mut self, ordinal: i64) -> Claims {
        let pod = self.pod_name(ordinal);
        for template in self.templates() {
            match self.claim(&template, ordinal) {
                Some(claim) if claim.meta().is_deleting() => {
                    let message = format!(
                        "Create Pod {pod} in StatefulSet {} failed error: pvc {} is being deleted",
                        self.set.name(),
                        claim.name()
                    );
                    self.plan.events.push(self.set.note(EventKind::Warning, "FailedCreate", message));
                    return Claims::Wait;
                }
                Some(claim) if self.policy().on_scale && is_stale(&claim, "Pod", &pod, "") => return Claims::Wait,
                Some(_) => {}
                None => self.create_claim(&template, ordinal),
            }
        }
        Claims::Ready
    }

    fn create_claim(&mut self, template: &Value, ordinal: i64) {
        let name = claim_name(template, &self.set, ordinal);
        let mut metadata = template["metadata"].clone();
        metadata["name"] = json!(name);
        let labels = self.set.at("/spec/selector/matchLabels").as_object().cloned().unwrap_or_default();
        for (key, value) in labels {
            metadata["labels"][key.as_str()] = value;
        }
        if self.policy().on_delete {
            metadata["ownerReferences"] = json!([self.set.controller_reference("apps/v1", "StatefulSet")]);
        }
        let object = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata,
            "spec": template["spec"]});
        let pod = self.pod_name(ordinal);
        if let Some(error) = self.refused.create.filter(|_| self.refused.name == name) {
            self.note_of_failure("FailedCreate", &format!("Create Claim {name} for Pod {pod}"), error);
        }
        let message = format!("Create Claim {name} Pod {pod} in StatefulSet {} success", self.set.name());
        let mut note = self.set.note(EventKind::Normal, "SuccessfulCreate", message);
        note.of_write = Some(self.plan.writes.len());
        self.plan.events.push(note);
        let namespace = self.set.namespace().to_owned();
        self.plan.writes.push(Write::Create { resource: CLAIMS, namespace, object });
    }

    /// Brings the owners of a pod's claims in line with the policy; answers whether anything had to change.
    pub(super) fn own_claims(&mut self, pod: &Item, ordinal: i64) -> bool {
        let mut changed = false;
        for template in self.templates() {
            let Some(claim) = self.claim(&template, ordinal) else { continue };
            let Some(owners) = self.owners(&claim, pod, ordinal) else { continue };
            changed = true;
            let owners = if owners.is_empty() { Value::Null } else { json!(owners) };
            self.plan.writes.push(claim.patch_this_version(&CLAIMS, json!({"metadata": {"ownerReferences": owners}})));
        }
        changed
    }

    /// The owners a claim should have, where they are others. A claim of an older set or pod of the same name is left
    /// to the garbage collector; one with another controller is let go.
    fn owners(&mut self, claim: &Item, pod: &Item, ordinal: i64) -> Option<Vec<Value>> {
        let set = (self.set.name().to_owned(), self.set.uid().to_owned());
        if is_stale(claim, "StatefulSet", &set.0, &set.1) || is_stale(claim, "Pod", pod.name(), pod.uid()) {
            return None;
        }
        let policy = self.policy();
        let old = claim.list("/metadata/ownerReferences");
        let is_ours = |owner: &Value| owner["uid"] == *set.1 || owner["uid"] == pod.uid();
        let mut new: Vec<Value> = old.iter().filter(|owner| !is_ours(owner)).cloned().collect();
        let foreign = new.iter().any(|owner| owner["controller"] == true);
        if foreign && (policy.on_delete || policy.on_scale) {
            let message = format!(
                "PersistentVolumeClaim {} has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim",
                claim.name()
            );
            if new.len() == old.len() {
                return None;
            }
            self.plan.events.push(self.set.note(EventKind::Warning, "ConflictingController", message));
            return Some(new);
        }
        let scaled_down = !in_range(&self.set, ordinal);
        if policy.on_scale && scaled_down {
            new.push(pod.controller_reference("v1", "Pod"));
        } else if policy.on_delete {
            new.push(self.set.controller_reference("apps/v1", "StatefulSet"));
        }
        let told = |owners: &[Value]| -> Vec<(Value, bool)> {
            owners.iter().map(|owner| (owner["uid"].clone(), owner["controller"] == true)).collect()
        };
        let (mut before, mut after) = (told(old), told(&new));
        let order = |entry: &(Value, bool)| entry.0.as_str().unwrap_or_default().to_owned();
        before.sort_by_key(order);
        after.sort_by_key(order);
        (before != after).then_some(new)
    }
}

/// Owned by an earlier object of this kind and name.
fn is_stale(claim: &Item, kind: &str, name: &str, uid: &str) -> bool {
    let owners = claim.list("/metadata/ownerReferences").iter();
    owners.filter(|owner| owner["kind"] == kind && owner["name"] == name).any(|owner| owner["uid"] != uid)
}
