//! Claims that ask for more than their volume has. Volumes are expanded by the drivers that made them; this tells
//! people that it is up to those.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use coracle_reconcile::{Controller, EventKind, Key, Outcome, Plan, View, Watch};
use jiff::Timestamp;
use serde_json::Value;

use crate::pv_binder::{VOLUMES, is_larger};
use crate::shape::Item;
use crate::statefulset::CLAIMS;

/// Remembers which sizes it told of: a claim that grows changes often, and each size is told once.
#[derive(Default)]
pub struct Expander {
    told: Mutex<BTreeMap<Key, Value>>,
}

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
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(claim) = Item::get(view, &CLAIMS, key).filter(|claim| waits(view, claim)) else {
            told.remove(key);
            return plan;
        };
        let size = claim.at("/spec/resources/requests/storage").clone();
        if told.get(key) != Some(&size) {
            told.insert(key.clone(), size);
            let message = "waiting for an external controller to expand this PVC";
            plan.events.push(claim.note(EventKind::Normal, "ExternalExpanding", message));
        }
        plan
    }
}

/// Whether the claim asks for more than its own volume has.
fn waits(view: &dyn View, claim: &Item) -> bool {
    let asks = claim.at("/spec/resources/requests/storage");
    if claim.text("/status/phase") != "Bound" || !is_larger(asks, claim.at("/status/capacity/storage")) {
        return false;
    }
    let volume = Item::get(view, &VOLUMES, &Key::new("", claim.text("/spec/volumeName")));
    volume.is_some_and(|volume| volume.text("/spec/claimRef/uid") == claim.uid())
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::{FakeView, Witness};
    use serde_json::json;

    #[test]
    fn a_claim_that_grows_waits_for_its_driver_and_is_told_once_of_each_size() {
        let view =
            FakeView::new().with(VOLUMES, json!({"metadata": {"name": "v"}, "spec": {"claimRef": {"uid": "c-uid"}}}));
        let expander = Expander::default();
        for (asks, has, told) in
            [("1Gi", "1Gi", 0), ("2Gi", "1Gi", 1), ("2Gi", "1Gi", 0), ("3Gi", "1Gi", 1), ("3Gi", "3Gi", 0)]
        {
            let claim = json!({"metadata": {"name": "c", "namespace": "n"},
                "spec": {"volumeName": "v", "resources": {"requests": {"storage": asks}}},
                "status": {"phase": "Bound", "capacity": {"storage": has}}});
            view.put(&CLAIMS, claim);
            let plan = expander.decide(&view, &Key::new("n", "c"), &Outcome::default(), Timestamp::UNIX_EPOCH);
            assert_eq!(plan.events.len(), told, "{asks} {has}");
        }
    }
}
