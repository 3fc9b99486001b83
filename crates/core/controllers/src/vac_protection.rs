//! VolumeAttributesClasses stay as long as a claim or a volume names them.

use coracle_meta::{Object, Resource};
use coracle_reconcile::{Answer, Ask, Controller, Key, Outcome, Plan, View, Watch};
use jiff::Timestamp;
use serde_json::Value;

use crate::protection::{Need, add, need, remove};
use crate::pv_binder::VOLUMES;
use crate::shape::Item;
use crate::statefulset::CLAIMS;

const CLASSES: Resource = Resource::new("storage.k8s.io", "volumeattributesclasses");
const FINALIZER: &str = "kubernetes.io/vac-protection";

pub struct VacProtection;

impl Controller for VacProtection {
    fn name(&self) -> &'static str {
        "volumeattributesclass-protection-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::itself(CLASSES),
            Watch { resource: CLAIMS, keys: classes_of },
            Watch { resource: VOLUMES, keys: classes_of },
        ]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, _now: Timestamp) -> Plan {
        let Some(class) = Item::get(view, &CLASSES, key) else { return Plan::default() };
        match need(&class, FINALIZER) {
            Need::Nothing => return Plan::default(),
            Need::Add => return add(&class, &CLASSES, FINALIZER),
            Need::Judge => {}
        }
        let names = |object: &Value| named(object).iter().any(|name| name == class.name());
        for resource in [CLAIMS, VOLUMES] {
            if Item::all(view.list(&resource, None)).iter().any(|item| names(item.tree())) {
                return Plan::default();
            }
        }
        let ask = |resource| Ask::List { resource, namespace: String::new(), selector: String::new() };
        let asks = vec![ask(CLAIMS), ask(VOLUMES)];
        for ask in &asks {
            match last.answer(ask) {
                Some(Answer::Objects(found)) if found.iter().any(names) => return Plan::default(),
                Some(Answer::Objects(_)) => {}
                _ => return Plan { asks, ..Plan::default() },
            }
        }
        remove(&class, &CLASSES, FINALIZER)
    }
}

/// The classes that a claim or a volume names.
fn named(object: &Value) -> Vec<String> {
    let places = [
        &object["spec"]["volumeAttributesClassName"],
        &object["status"]["currentVolumeAttributesClassName"],
        &object["status"]["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
    ];
    places.into_iter().filter_map(|place| Some(place.as_str()?.to_owned())).filter(|name| !name.is_empty()).collect()
}

fn classes_of(_: &dyn View, object: &Object) -> Vec<Key> {
    let Ok(tree) = object.decode::<Value>() else { return Vec::new() };
    named(&tree).into_iter().map(|name| Key::new("", name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::{FakeView, Witness};
    use serde_json::json;

    fn class() -> Value {
        json!({"metadata": {"name": "gold", "finalizers": [FINALIZER], "deletionTimestamp": "2026-01-01T00:00:00Z"}})
    }

    #[test]
    fn a_class_that_a_claim_names_stays() {
        let claim = json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {"volumeAttributesClassName": "gold"}});
        let view = FakeView::new().with(CLASSES, class()).with(CLAIMS, claim);
        let plan = VacProtection.decide(&view, &Key::new("", "gold"), &Outcome::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(plan, Plan::default());
    }

    #[test]
    fn an_unused_class_goes_once_the_store_agrees() {
        let view = FakeView::new().with(CLASSES, class());
        let key = Key::new("", "gold");
        let asks = VacProtection.decide(&view, &key, &Outcome::default(), Timestamp::UNIX_EPOCH).asks;
        let answers = vec![Answer::Objects(Vec::new()); asks.len()];
        let last = Outcome { asked: asks, answers, ..Outcome::default() };
        view.apply(&VacProtection.decide(&view, &key, &last, Timestamp::UNIX_EPOCH));
        assert!(view.names(&CLASSES).is_empty());
    }
}
