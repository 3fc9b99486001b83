//! Volumes and claims carry a finalizer from birth, so that none in use goes away.

use coracle_meta::Value;

use crate::plugin::{Context, Plugin, Request, Verdict};

pub struct StorageObjectInUseProtection;

impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn mutate(&self, request: &Request<'_>, object: &mut Value, _: &Context<'_>) -> Verdict {
        let finalizer = match request.resource.plural.as_ref() {
            _ if !request.creates() => return Verdict::Admit,
            "persistentvolumes" if request.is_core("persistentvolumes") => "kubernetes.io/pv-protection",
            "persistentvolumeclaims" if request.is_core("persistentvolumeclaims") => "kubernetes.io/pvc-protection",
            _ => return Verdict::Admit,
        };
        let mut finalizers = object.list_at(&["metadata", "finalizers"]).to_vec();
        if finalizers.iter().any(|own| own.as_str() == Some(finalizer)) {
            return Verdict::Admit;
        }
        finalizers.push(finalizer.into());
        object.set(&["metadata", "finalizers"], finalizers);
        Verdict::Mutate
    }
}
