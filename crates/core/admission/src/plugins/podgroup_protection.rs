//! PodGroups carry a finalizer from birth, so that none goes away that pods belong to. Nothing but the gate that serves
//! them switches it.

use coracle_meta::Value;

use crate::plugin::{Context, Plugin, Request, Verdict};

const FINALIZER: &str = "scheduling.k8s.io/podgroup-protection";

pub struct PodGroupProtection;

impl Plugin for PodGroupProtection {
    fn name(&self) -> &'static str {
        "PodGroupProtection"
    }

    fn mutate(&self, request: &Request<'_>, group: &mut Value, _: &Context<'_>) -> Verdict {
        let mut finalizers = group.list_at(&["metadata", "finalizers"]).to_vec();
        let has_it = finalizers.iter().any(|own| own.as_str() == Some(FINALIZER));
        if !request.is_of("scheduling.k8s.io", "podgroups") || !request.creates() || has_it {
            return Verdict::Admit;
        }
        finalizers.push(FINALIZER.into());
        group.set(&["metadata", "finalizers"], finalizers);
        Verdict::Mutate
    }
}
