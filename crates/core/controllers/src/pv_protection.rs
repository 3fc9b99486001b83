//! PersistentVolumes stay as long as they are bound.

use coracle_reconcile::{Controller, Key, Outcome, Plan, View, Watch};
use jiff::Timestamp;

use crate::protection::{Need, add, need, remove};
use crate::pv_binder::VOLUMES;
use crate::shape::Item;

const FINALIZER: &str = "kubernetes.io/pv-protection";

pub struct PvProtection;

impl Controller for PvProtection {
    fn name(&self) -> &'static str {
        "persistentvolume-protection-controller"
    }

    fn component(&self) -> &'static str {
        "pv-protection-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::itself(VOLUMES)]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, _now: Timestamp) -> Plan {
        let Some(volume) = Item::get(view, &VOLUMES, key) else { return Plan::default() };
        match need(&volume, FINALIZER) {
            Need::Add => add(&volume, &VOLUMES, FINALIZER),
            Need::Judge if volume.text("/status/phase") != "Bound" => remove(&volume, &VOLUMES, FINALIZER),
            _ => Plan::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::FakeView;
    use serde_json::json;

    #[test]
    fn a_bound_volume_stays() {
        for (phase, stays) in [("Bound", true), ("Released", false), ("Available", false)] {
            let view = FakeView::new().with(
                VOLUMES,
                json!({"metadata": {"name": "v", "finalizers": [FINALIZER],
                    "deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": phase}}),
            );
            view.settle(&PvProtection, &Key::new("", "v"), Timestamp::UNIX_EPOCH);
            assert_eq!(!view.names(&VOLUMES).is_empty(), stays, "{phase}");
        }
        let view = FakeView::new().with(VOLUMES, json!({"metadata": {"name": "v"}}));
        view.settle(&PvProtection, &Key::new("", "v"), Timestamp::UNIX_EPOCH);
        assert_eq!(view.json(&VOLUMES, "", "v")["metadata"]["finalizers"], json!([FINALIZER]));
    }
}
