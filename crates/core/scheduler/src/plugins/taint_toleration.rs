//! Taints keep pods away that do not tolerate them: NoSchedule and NoExecute by rule, PreferNoSchedule by score.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::framework::{Check, Plugin, Rejection, Wake, scale};
use crate::{NodeInfo, PodInfo, Snapshot};

pub struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _snapshot: &'a Snapshot) -> Option<Box<dyn Check + 'a>> {
        Some(Box::new(Tolerated(&pod.tolerations)))
    }

    fn wakes(&self) -> &'static [Wake] {
        &[Wake::NodeAdded, Wake::NodeTaints]
    }
}

struct Tolerated<'a>(&'a [Toleration]);

impl Check for Tolerated<'_> {
    fn filter(&self, node: &NodeInfo) -> Vec<Rejection> {
        let binding = |taint: &&Taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute";
        match node.taints.iter().filter(binding).all(|taint| tolerates(self.0, taint)) {
            true => Vec::new(),
            false => vec![Rejection::lasting("node(s) had untolerated taint(s)")],
        }
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let disliked = |taint: &&Taint| taint.effect == "PreferNoSchedule" && !tolerates(self.0, taint);
        node.taints.iter().filter(disliked).count() as i64
    }

    fn normalise(&self, scores: &mut [i64]) {
        scale(scores, true);
    }
}

/// Whether any of the tolerations covers the taint. Kubernetes API, `v1.Toleration`.
pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| {
        let key = toleration.key.as_deref().unwrap_or_default();
        let value = toleration.value.as_deref().unwrap_or_default();
        let effect = toleration.effect.as_deref().unwrap_or_default();
        let same_value = match toleration.operator.as_deref().unwrap_or("Equal") {
            "Exists" => true,
            "Equal" | "" => value == taint.value.as_deref().unwrap_or_default(),
            _ => false,
        };
        (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key) && same_value
    })
}
