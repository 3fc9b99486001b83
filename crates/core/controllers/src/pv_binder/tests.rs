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
    let told = |view: &FakeView| decide(view, &Key::new("n", "c")).events[0].message.clone();
    assert_eq!(told(&view), "waiting for pod p to be scheduled");
    for (name, status) in [("q", json!({})), ("done", json!({"phase": "Failed"}))] {
        let pod = json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"volumes": volumes}, "status": status});
        view.put(&crate::pods::PODS, pod);
    }
    assert_eq!(told(&view), "waiting for pods p,q to be scheduled");
}

/// Of modes and size, for the claim where `aside`.
fn offered(name: &str, modes: &[&str], size: &str, aside: bool) -> Value {
    let mut volume = volume(name, size);
    volume["spec"]["accessModes"] = json!(modes);
    if aside {
        volume["spec"]["claimRef"] = json!({"namespace": "n", "name": "c"});
    }
    volume
}

#[test]
fn few_modes_count_more_than_a_fitting_size_and_both_less_than_what_was_asked() {
    const ONCE: &str = "ReadWriteOnce";
    const MANY: &str = "ReadOnlyMany";
    let cases = [
        (vec![offered("a", &[ONCE, MANY], "1Gi", false), offered("b", &[ONCE], "5Gi", false)], "b"),
        (vec![offered("a", &[ONCE], "5Gi", false), offered("b", &[ONCE], "2Gi", false)], "b"),
        (vec![offered("a", &[ONCE], "1Gi", false), offered("b", &[ONCE], "2Gi", true)], "b"),
        (vec![offered("a", &[ONCE, MANY], "1Gi", true), offered("b", &[ONCE], "2Gi", false)], "b"),
        (vec![offered("a", &[MANY], "1Gi", true)], ""),
    ];
    for (volumes, chosen) in cases {
        let view = volumes.into_iter().fold(FakeView::new(), |view, volume| view.with(VOLUMES, volume));
        let view = view.with(CLAIMS, claim("1Gi"));
        decide(&view, &Key::new("n", "c"));
        assert_eq!(view.json(&CLAIMS, "n", "c")["spec"]["volumeName"].as_str().unwrap_or_default(), chosen);
    }
}

#[test]
fn a_claim_whose_node_is_chosen_gets_no_volume_of_another() {
    let class =
        json!({"metadata": {"name": "late"}, "provisioner": "x.example", "volumeBindingMode": "WaitForFirstConsumer"});
    let (mut volume, mut claim) = (volume("v", "1Gi"), claim("1Gi"));
    for item in [&mut volume, &mut claim] {
        item["spec"]["storageClassName"] = json!("late");
    }
    claim["metadata"]["annotations"] = json!({SELECTED_NODE: "a"});
    let view = FakeView::new().with(STORAGE_CLASSES, class).with(VOLUMES, volume).with(CLAIMS, claim);
    assert_eq!(decide(&view, &Key::new("n", "c")).events[0].reason, "ExternalProvisioning");
    assert!(view.json(&CLAIMS, "n", "c")["spec"]["volumeName"].is_null());
}

#[test]
fn classes_of_old_plugins_are_handed_to_their_successors() {
    let cases = [
        ("x.example", "ExternalProvisioning", Some("x.example")),
        ("kubernetes.io/aws-ebs", "ExternalProvisioning", Some("ebs.csi.aws.com")),
        ("kubernetes.io/no-provisioner", "ProvisioningFailed", None),
    ];
    for (provisioner, reason, driver) in cases {
        let mut claim = claim("1Gi");
        claim["spec"]["storageClassName"] = json!("s");
        let class = json!({"metadata": {"name": "s"}, "provisioner": provisioner});
        let view = FakeView::new().with(STORAGE_CLASSES, class).with(CLAIMS, claim);
        assert_eq!(decide(&view, &Key::new("n", "c")).events[0].reason, reason);
        let handed = view.json(&CLAIMS, "n", "c")["metadata"]["annotations"][PROVISIONERS[0]].clone();
        assert_eq!(handed.as_str(), driver, "{provisioner}");
    }
}

#[test]
fn an_empty_class_of_old_times_is_no_wish_for_the_default() {
    let class =
        json!({"metadata": {"name": "fast", "annotations": {IS_DEFAULT[0]: "true"}}, "provisioner": "x.example"});
    let mut none = claim("1Gi");
    none["metadata"]["annotations"] = json!({OLD_CLASS: ""});
    let view = FakeView::new().with(STORAGE_CLASSES, class).with(CLAIMS, none);
    assert_eq!(decide(&view, &Key::new("n", "c")).events[0].reason, "FailedBinding");
    assert!(view.json(&CLAIMS, "n", "c")["spec"]["storageClassName"].is_null());
}

#[test]
fn volumes_of_drivers_are_left_to_them() {
    let made_by = |driver: &str| json!({PROVISIONED_BY: driver});
    let cases = [
        (made_by("x.example"), Value::Null, "Released"),
        (json!({}), json!({"driver": "x.example"}), "Released"),
        (json!({MIGRATED_TO: "ebs.csi.aws.com", PROVISIONED_BY: "kubernetes.io/aws-ebs"}), Value::Null, "Released"),
        (made_by("kubernetes.io/host-path"), Value::Null, "Failed"),
        (json!({}), Value::Null, "Failed"),
    ];
    for (annotations, csi, phase) in cases {
        let mut gone = volume("v", "1Gi");
        gone["metadata"]["annotations"] = annotations.clone();
        gone["spec"]["persistentVolumeReclaimPolicy"] = json!("Delete");
        gone["spec"]["claimRef"] = json!({"namespace": "n", "name": "c", "uid": "u"});
        gone["spec"]["csi"] = csi;
        gone["status"]["phase"] = json!("Bound");
        let view = FakeView::new().with(VOLUMES, gone);
        decide(&view, &Key::new("", "v"));
        assert_eq!(view.json(&VOLUMES, "", "v")["status"]["phase"], phase, "{annotations}");
    }
}

#[test]
fn a_volume_that_comes_back_wakes_the_claim_that_lost_it() {
    let mut lost = claim("1Gi");
    lost["metadata"]["annotations"] = json!({BIND_COMPLETED: "yes"});
    lost["spec"]["volumeName"] = json!("v");
    lost["status"]["phase"] = json!("Lost");
    let view = FakeView::new().with(VOLUMES, volume("v", "1Gi")).with(CLAIMS, lost);
    let found = view.get(&VOLUMES, "", "v").unwrap();
    assert!(volume_keys(&view, &found).contains(&Key::new("n", "c")));
    decide(&view, &Key::new("n", "c"));
    assert_eq!(phases(&view, "v"), (json!("Bound"), json!("Bound")));
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
