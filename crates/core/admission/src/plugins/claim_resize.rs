//! Claims grow only when they are bound and their class lets volumes grow. Source: Kubernetes
//! `plugin/pkg/admission/storage/persistentvolume/resize`.

use coracle_meta::{Quantity, Resource, Value};

use crate::plugin::{Context, Operation, Plugin, Request, Verdict, forbidden};

pub struct PersistentVolumeClaimResize;

const CLASSES: Resource = Resource::new("storage.k8s.io", "storageclasses");
const SIZE: [&str; 4] = ["spec", "resources", "requests", "storage"];

impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn validate(&self, request: &Request<'_>, claim: &Value, context: &Context<'_>) -> Verdict {
        let is_update = request.operation == Operation::Update && request.is_core("persistentvolumeclaims");
        let Some(old) = request.old.filter(|_| is_update) else { return Verdict::Admit };
        let size = |claim: &Value| Quantity::from_value(claim.at(&SIZE)).unwrap_or(Quantity::ZERO);
        if size(claim) <= size(old) {
            return Verdict::Admit;
        }
        if old.str_at(&["status", "phase"]) != "Bound" {
            return forbidden(request, "Only bound persistent volume claims can be expanded");
        }
        if may_grow(claim, old, context) {
            return Verdict::Admit;
        }
        forbidden(
            request,
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support \
             resize",
        )
    }
}

fn may_grow(claim: &Value, old: &Value, context: &Context<'_>) -> bool {
    let (name, before) = (class_of(claim), class_of(old));
    if name.is_empty() || name != before {
        return false;
    }
    let class = context.facts.get(&CLASSES, "", name);
    let class = class.and_then(|class| Value::from_json(&class.bytes).ok());
    class.is_some_and(|class| class.bool_at(&["allowVolumeExpansion"]))
}

fn class_of(claim: &Value) -> &str {
    let beta = claim.str_at(&["metadata", "annotations", "volume.beta.kubernetes.io/storage-class"]);
    if beta.is_empty() { claim.str_at(&["spec", "storageClassName"]) } else { beta }
}
