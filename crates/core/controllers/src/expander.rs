//! Claims that ask for more than their volume has. Volumes are expanded by the drivers that made them; this tells
//! people that it is up to those.

use coracle_reconcile::{Controller, EventKind, Key, Outcome, Plan, View, Watch};
use jiff::Timestamp;

use crate::pv_binder::{VOLUMES, is_larger};
use crate::shape::Item;
use crate::statefulset::CLAIMS;

pub struct Expander;

impl Controller for Expander {
    fn name(&self) -> &'static str {
        "persistentvolume-expander-controller"
    }

    fn component(&self) -> &'static str {
        "volume_expand"
    }

    fn identity(&self) -> &'static str {
        "expand-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::itself(CLAIMS)]
    }

    fn reads(&self) -> Vec<coracle_meta::Resource> {
        vec![VOLUMES]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, _now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(claim) = Item::get(view, &CLAIMS, key) else { return plan };
        let asks = claim.at("/spec/resources/requests/storage");
        if claim.text("/status/phase") != "Bound" || !is_larger(asks, claim.at("/status/capacity/storage")) {
            return plan;
        }
        let volume = Item::get(view, &VOLUMES, &Key::new("", claim.text("/spec/volumeName")));
        if volume.is_some_and(|volume| volume.text("/spec/claimRef/uid") == claim.uid()) {
            let message = "waiting for an external controller to expand this PVC";
            plan.events.push(claim.note(EventKind::Normal, "ExternalExpanding", message));
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::{FakeView, Witness};
    use serde_json::json;

    #[test]
    fn a_claim_that_grows_waits_for_its_driver() {
        for (asks, told) in [("1Gi", 0), ("2Gi", 1)] {
            let view = FakeView::new()
                .with(VOLUMES, json!({"metadata": {"name": "v"}, "spec": {"claimRef": {"uid": "c-uid"}}}))
                .with(
                    CLAIMS,
                    json!({"metadata": {"name": "c", "namespace": "n"},
                        "spec": {"volumeName": "v", "resources": {"requests": {"storage": asks}}},
                        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}),
                );
            let plan = Expander.decide(&view, &Key::new("n", "c"), &Outcome::default(), Timestamp::UNIX_EPOCH);
            assert_eq!(plan.events.len(), told, "{asks}");
        }
    }
}
