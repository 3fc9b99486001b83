//! Claims and volumes through their lives.

use super::*;
use coracle_reconcile::{Answer, Ask};
use coracle_testkit::{FakeView, Witness};

fn volume(name: &str, size: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain"},
        "status": {"phase": "Available"}})
}

fn claim(size: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c", "namespace": "n"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
        "status": {"phase": "Pending"}})
}

fn decide(view: &FakeView, key: &Key) -> Plan {
    let plan = PvBinder.decide(view, key, &Outcome::default(), Timestamp::UNIX_EPOCH);
    if plan.asks.is_empty() {
        view.apply(&plan);
        return plan;
    }
    let answer = |ask: &Ask| match ask {
        Ask::Read { resource, namespace, name } => {
            Answer::Object(Some(view.json(resource, namespace, name)).filter(|found| !found.is_null()))
        }
        other => panic!("{other:?}"),
    };
    let answers = plan.asks.iter().map(answer).collect();
    let last = Outcome { asked: plan.asks, answers, ..Outcome::default() };
    let plan = PvBinder.decide(view, key, &last, Timestamp::UNIX_EPOCH);
    view.apply(&plan);
    plan
}

fn phases(view: &FakeView, volume: &str) -> (Value, Value) {
    let phase = |resource: &Resource, namespace, name| view.json(resource, namespace, name)["status"]["phase"].clone();
    (phase(&CLAIMS, "n", "c"), phase(&VOLUMES, "", volume))
}

#[test]
fn a_claim_gets_the_smallest_volume_that_fits_and_leaves_it_released() {
    let view = FakeView::new()
        .with(VOLUMES, volume("small", "1Gi"))
        .with(VOLUMES, volume("large", "9Gi"))
        .with(VOLUMES, volume("fits", "2Gi"))
        .with(CLAIMS, claim("1500Mi"));
    let (claim_key, volume_key) = (Key::new("n", "c"), Key::new("", "fits"));
    decide(&view, &claim_key);
    let bound = view.json(&CLAIMS, "n", "c");
    assert_eq!(
        (&bound["spec"]["volumeName"], &bound["status"]["capacity"]["storage"]),
        (&json!("fits"), &json!("2Gi"))
    );
    assert_eq!(phases(&view, "fits"), (json!("Bound"), json!("Bound")));
    assert!(decide(&view, &claim_key).is_empty() && decide(&view, &volume_key).is_empty());
    view.remove(&CLAIMS, "n", "c");
    decide(&view, &volume_key);
    assert_eq!(phases(&view, "fits").1, "Released");
    assert!(decide(&view, &volume_key).is_empty());
}

#[test]
fn a_volume_set_aside_goes_to_its_claim_alone() {
    let mut aside = volume("v", "1Gi");
    aside["spec"]["claimRef"] = json!({"namespace": "n", "name": "other"});
    let view = FakeView::new().with(VOLUMES, aside.clone()).with(CLAIMS, claim("1Gi"));
    let plan = decide(&view, &Key::new("n", "c"));
    assert_eq!(plan.events[0].reason, "FailedBinding");
    aside["spec"]["claimRef"]["name"] = json!("c");
    view.put(&VOLUMES, aside);
    decide(&view, &Key::new("n", "c"));
    assert_eq!(phases(&view, "v"), (json!("Bound"), json!("Bound")));
    assert!(view.json(&VOLUMES, "", "v")["metadata"]["annotations"].is_null());
}

#[test]
fn a_claim_whose_volume_is_gone_is_lost() {
    let view = FakeView::new().with(VOLUMES, volume("v", "1Gi")).with(CLAIMS, claim("1Gi"));
    decide(&view, &Key::new("n", "c"));
    view.remove(&VOLUMES, "", "v");
    let plan = decide(&view, &Key::new("n", "c"));
    assert_eq!(plan.events[0].reason, "ClaimLost");
    assert_eq!(phases(&view, "v").0, "Lost");
    assert!(decide(&view, &Key::new("n", "c")).is_empty());
}

#[test]
fn a_claim_of_a_class_is_handed_to_its_provisioner() {
    let class =
        json!({"metadata": {"name": "fast", "annotations": {IS_DEFAULT[0]: "true"}}, "provisioner": "x.example"});
    let view = FakeView::new().with(STORAGE_CLASSES, class).with(CLAIMS, claim("1Gi"));
    decide(&view, &Key::new("n", "c"));
    let plan = decide(&view, &Key::new("n", "c"));
    assert_eq!(plan.events[0].reason, "ExternalProvisioning");
    let claim = view.json(&CLAIMS, "n", "c");
    assert_eq!(claim["spec"]["storageClassName"], "fast");
    assert_eq!(claim["metadata"]["annotations"][PROVISIONERS[0]], "x.example");
}

#[test]
fn a_claim_that_waits_for_a_consumer_is_bound_by_nobody_else() {
    let class =
        json!({"metadata": {"name": "late"}, "provisioner": "x.example", "volumeBindingMode": "WaitForFirstConsumer"});
    let (mut volume, mut claim) = (volume("v", "1Gi"), claim("1Gi"));
    for item in [&mut volume, &mut claim] {
        item["spec"]["storageClassName"] = json!("late");
    }
    let view = FakeView::new().with(STORAGE_CLASSES, class).with(VOLUMES, volume).with(CLAIMS, claim);
    let plan = decide(&view, &Key::new("n", "c"));
    assert_eq!((plan.writes.len(), plan.events[0].reason), (0, "WaitForFirstConsumer"));
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
    view.put(&crate::pods::PODS, json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"volumes": volumes}}));
    assert_eq!(decide(&view, &Key::new("n", "c")).events[0].reason, "WaitForPodScheduled");
}

#[test]
fn a_volume_of_two_claims_is_told() {
    let mut taken = volume("v", "1Gi");
    taken["spec"]["claimRef"] = json!({"namespace": "n", "name": "other", "uid": "other-uid"});
    let mut misled = claim("1Gi");
    misled["spec"]["volumeName"] = json!("v");
    misled["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
    let view = FakeView::new().with(VOLUMES, taken).with(CLAIMS, misled);
    assert_eq!(decide(&view, &Key::new("n", "c")).events[0].reason, "ClaimMisbound");
}

#[test]
fn a_volume_of_another_mode_is_told() {
    let mut aside = volume("v", "1Gi");
    aside["spec"]["claimRef"] = json!({"namespace": "n", "name": "c", "uid": "c-uid"});
    aside["spec"]["volumeMode"] = json!("Block");
    let view = FakeView::new().with(VOLUMES, aside).with(CLAIMS, claim("1Gi"));
    assert_eq!(decide(&view, &Key::new("", "v")).events[0].reason, "VolumeMismatch");
}

#[test]
fn a_claim_tells_the_attributes_of_its_volume() {
    let mut gold = volume("v", "1Gi");
    gold["spec"]["volumeAttributesClassName"] = json!("gold");
    let mut wanting = claim("1Gi");
    wanting["spec"]["volumeAttributesClassName"] = json!("gold");
    let view = FakeView::new().with(VOLUMES, gold).with(CLAIMS, wanting);
    decide(&view, &Key::new("n", "c"));
    assert_eq!(view.json(&CLAIMS, "n", "c")["status"]["currentVolumeAttributesClassName"], "gold");
}

#[test]
fn what_cannot_be_reclaimed_fails_once() {
    for (policy, reason) in [("Delete", "VolumeFailedDelete"), ("Recycle", "VolumeFailedRecycle")] {
        let mut gone = volume("v", "1Gi");
        gone["spec"]["persistentVolumeReclaimPolicy"] = json!(policy);
        gone["spec"]["claimRef"] = json!({"namespace": "n", "name": "c", "uid": "u"});
        gone["status"]["phase"] = json!("Bound");
        let view = FakeView::new().with(VOLUMES, gone);
        let plan = decide(&view, &Key::new("", "v"));
        assert_eq!(plan.events[0].reason, reason);
        assert_eq!(view.json(&VOLUMES, "", "v")["status"]["phase"], "Failed");
        assert!(decide(&view, &Key::new("", "v")).is_empty());
    }
}
