//! Stateful sets on a fake cluster whose pods become ready when the test says so.

use coracle_testkit::{FakeView, Witness};

use super::*;
use coracle_reconcile::Write;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn cluster(spec: Value) -> FakeView {
    let mut tree = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "db", "namespace": "n", "generation": 1},
        "spec": {"replicas": 2, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 1,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "a"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]}});
    for (key, value) in spec.as_object().unwrap() {
        tree["spec"][key] = value.clone();
    }
    FakeView::new().with(STATEFUL_SETS, tree)
}

fn settle(view: &FakeView) -> Vec<Plan> {
    view.settle(&StatefulSet, &Key::new("n", "db"), now())
}

fn change(view: &FakeView, edit: impl Fn(&mut Value)) {
    let mut tree = view.json(&STATEFUL_SETS, "n", "db");
    edit(&mut tree["spec"]);
    tree["metadata"]["generation"] = json!(tree["metadata"]["generation"].as_i64().unwrap() + 1);
    view.put(&STATEFUL_SETS, tree);
}

fn set_image(view: &FakeView, image: &str) {
    change(view, |spec| spec["template"]["spec"]["containers"][0]["image"] = json!(image));
}

fn start(view: &FakeView) {
    for pod in Item::all(view.list(&PODS, None)) {
        let mut tree = pod.tree().clone();
        tree["status"] = json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        view.put(&PODS, tree);
    }
}

fn run(view: &FakeView) {
    for _ in 0..8 {
        settle(view);
        start(view);
    }
    settle(view);
}

fn images(view: &FakeView) -> Vec<String> {
    Item::all(view.list(&PODS, None)).iter().map(|pod| pod.text("/spec/containers/0/image").to_owned()).collect()
}

fn status(view: &FakeView) -> Value {
    view.json(&STATEFUL_SETS, "n", "db")["status"].clone()
}

#[test]
fn pods_come_up_one_after_the_other_with_claims_and_names() {
    let view = cluster(json!({"ordinals": {"start": 3}}));
    let plans = settle(&view);
    assert_eq!(view.names(&PODS), ["db-3"]);
    let told: Vec<&str> = plans[0].events.iter().map(|event| event.message.as_str()).collect();
    let expected =
        ["Create Claim data-db-3 Pod db-3 in StatefulSet db success", "Create Pod db-3 in StatefulSet db successful"];
    assert_eq!(told, expected);
    start(&view);
    settle(&view);
    assert_eq!((view.names(&PODS), view.names(&CLAIMS)), (names("db", 3..5), names("data-db", 3..5)));
    let pod = view.json(&PODS, "n", "db-4");
    assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("db-4"), &json!("db")));
    assert_eq!(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "4");
    assert_eq!(pod["spec"]["volumes"], json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-4"}}]));
    run(&view);
    let name = view.names(&REVISIONS)[0].clone();
    let expected = json!({"observedGeneration": 1, "replicas": 2, "readyReplicas": 2, "currentReplicas": 2,
        "updatedReplicas": 2, "availableReplicas": 2, "currentRevision": name, "updateRevision": name,
        "collisionCount": 0});
    assert_eq!(status(&view), expected);
}

fn names(start: &str, range: std::ops::Range<i64>) -> Vec<String> {
    range.map(|ordinal| format!("{start}-{ordinal}")).collect()
}

#[test]
fn parallel_sets_come_up_at_once() {
    let view = cluster(json!({"replicas": 3, "podManagementPolicy": "Parallel"}));
    let plan = StatefulSet.decide(&view, &Key::new("n", "db"), &Outcome::default(), now());
    view.apply(&plan);
    assert_eq!(view.names(&PODS), names("db", 0..3));
}

#[test]
fn scaling_down_goes_from_the_top_and_stops_at_the_unhealthy() {
    let view = cluster(json!({"replicas": 3}));
    run(&view);
    let mut sick = view.json(&PODS, "n", "db-1");
    sick["status"]["conditions"][0]["status"] = json!("False");
    view.put(&PODS, sick);
    change(&view, |spec| spec["replicas"] = json!(1));
    settle(&view);
    assert!(view.names(&PODS).len() < 3, "{:?}", view.names(&PODS));
    run(&view);
    assert_eq!(view.names(&PODS), ["db-0"]);
    assert_eq!(view.names(&CLAIMS).len(), 3);
}

#[test]
fn a_new_template_takes_over_from_the_top_down_to_the_partition() {
    let view = cluster(json!({"replicas": 3,
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}}));
    run(&view);
    set_image(&view, "b");
    let plan = StatefulSet.decide(&view, &Key::new("n", "db"), &Outcome::default(), now());
    view.apply(&plan);
    assert_eq!(view.names(&PODS), ["db-0", "db-1"]);
    run(&view);
    assert_eq!(images(&view), ["a", "b", "b"]);
    assert_ne!(status(&view)["currentRevision"], status(&view)["updateRevision"]);
    view.remove(&PODS, "n", "db-0");
    run(&view);
    assert_eq!(images(&view), ["a", "b", "b"], "a pod below the partition comes back as it was");
    change(&view, |spec| spec["updateStrategy"]["rollingUpdate"]["partition"] = json!(0));
    run(&view);
    assert_eq!(images(&view), ["b", "b", "b"]);
    assert_eq!(status(&view)["currentRevision"], status(&view)["updateRevision"]);
    set_image(&view, "a");
    run(&view);
    let mut numbers: Vec<i64> =
        Item::all(view.list(&REVISIONS, None)).iter().map(|item| item.int("/revision")).collect();
    numbers.sort();
    assert_eq!((numbers, images(&view)), (vec![2, 3], vec!["a".to_owned(); 3]));
}

#[test]
fn on_delete_waits_for_the_operator() {
    let view = cluster(json!({"updateStrategy": {"type": "OnDelete"}}));
    run(&view);
    set_image(&view, "b");
    run(&view);
    assert_eq!(images(&view), ["a", "a"]);
    view.remove(&PODS, "n", "db-1");
    run(&view);
    assert_eq!(images(&view), ["a", "b"]);
}

#[test]
fn claims_belong_to_whom_the_policy_says() {
    let view =
        cluster(json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"}}));
    run(&view);
    let owner = |claim: &str| view.json(&CLAIMS, "n", claim)["metadata"]["ownerReferences"][0]["kind"].clone();
    assert_eq!((owner("data-db-0"), owner("data-db-1")), (json!("StatefulSet"), json!("StatefulSet")));
    change(&view, |spec| spec["replicas"] = json!(1));
    settle(&view);
    assert_eq!((owner("data-db-0"), owner("data-db-1")), (json!("StatefulSet"), json!("Pod")));
    change(&view, |spec| spec["replicas"] = json!(2));
    let plan = StatefulSet.decide(&view, &Key::new("n", "db"), &Outcome::default(), now());
    assert!(plan.writes.iter().all(|write| !matches!(write, coracle_reconcile::Write::Create { .. })));
    view.remove(&CLAIMS, "n", "data-db-1");
    run(&view);
    assert_eq!(owner("data-db-1"), json!("StatefulSet"));
}

#[test]
fn failed_pods_come_back() {
    let view = cluster(json!({}));
    run(&view);
    let mut pod = view.json(&PODS, "n", "db-0");
    pod["status"] = json!({"phase": "Failed"});
    view.put(&PODS, pod);
    let plans = settle(&view);
    assert_eq!(plans[0].events[0].message, "Delete Pod db-0 in StatefulSet db successful");
    assert_eq!(view.json(&PODS, "n", "db-0").get("status"), None);
}

#[test]
fn a_bounded_number_of_pods_is_replaced_at_a_time() {
    let view = cluster(json!({"replicas": 4, "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 2}}}));
    run(&view);
    set_image(&view, "b");
    let plan = StatefulSet.decide(&view, &Key::new("n", "db"), &Outcome::default(), now());
    view.apply(&plan);
    assert_eq!(view.names(&PODS), ["db-0", "db-1"]);
    run(&view);
    assert_eq!(images(&view), ["b", "b", "b", "b"]);
}

#[test]
fn what_is_refused_is_told() {
    let view = cluster(json!({"replicas": 1}));
    let told = |wanted: fn(&coracle_reconcile::Write) -> bool| {
        let first = StatefulSet.decide(&view, &Key::new("n", "db"), &Outcome::default(), now());
        let refused = first.writes.into_iter().find(wanted);
        let last = Outcome { error: Some(Status::new(500, "", "no")), refused, ..Outcome::default() };
        let plan = StatefulSet.decide(&view, &Key::new("n", "db"), &last, now());
        let event = plan.events.into_iter().find(|event| event.reason.starts_with("Failed"));
        event.map(|event| (event.reason, event.message)).unwrap_or_default()
    };
    use coracle_reconcile::Write::{Create, Delete, Patch};
    let message = "Create Claim data-db-0 for Pod db-0 in StatefulSet db failed error: no";
    assert_eq!(
        told(|write| matches!(write, Create { resource, .. } if *resource == CLAIMS)),
        ("FailedCreate", message.into())
    );
    let message = "Create Pod db-0 in StatefulSet db failed error: no";
    assert_eq!(
        told(|write| matches!(write, Create { resource, .. } if *resource == PODS)),
        ("FailedCreate", message.into())
    );
    run(&view);
    let mut pod = view.json(&PODS, "n", "db-0");
    pod["metadata"]["labels"].as_object_mut().unwrap().remove("statefulset.kubernetes.io/pod-name");
    view.put(&PODS, pod);
    let message = "Update Pod db-0 in StatefulSet db failed error: no";
    assert_eq!(
        told(|write| matches!(write, Patch { resource, .. } if *resource == PODS)),
        ("FailedUpdate", message.into())
    );
    settle(&view);
    change(&view, |spec| spec["replicas"] = json!(0));
    let message = "Delete Pod db-0 in StatefulSet db failed error: no";
    assert_eq!(told(|write| matches!(write, Delete { .. })), ("FailedDelete", message.into()));
}

#[test]
fn a_claim_with_another_controller_is_told() {
    let view = cluster(json!({"replicas": 1, "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"}}));
    run(&view);
    let mut claim = view.json(&CLAIMS, "n", "data-db-0");
    let other = json!({"apiVersion": "x/v1", "kind": "Other", "name": "o", "uid": "o", "controller": true});
    claim["metadata"]["ownerReferences"].as_array_mut().unwrap().push(other);
    view.put(&CLAIMS, claim);
    let plan = StatefulSet.decide(&view, &Key::new("n", "db"), &Outcome::default(), now());
    assert!(plan.events.iter().any(|event| event.reason == "ConflictingController"), "{plan:#?}");
}

#[test]
fn a_set_of_an_absurd_size_grows_by_what_can_be_made_at_once() {
    let view = cluster(json!({"replicas": i32::MAX, "podManagementPolicy": "Parallel", "volumeClaimTemplates": []}));
    let plan = |view: &FakeView| StatefulSet.decide(view, &Key::new("n", "db"), &Outcome::default(), now());
    let pods = |plan: &Plan| {
        let made =
            plan.writes.iter().filter(|write| matches!(write, Write::Create { resource, .. } if *resource == PODS));
        made.count()
    };
    let first = plan(&view);
    assert_eq!(pods(&first), 500);
    view.apply(&first);
    start(&view);
    assert_eq!(pods(&plan(&view)), 500);
}

#[test]
fn a_revision_of_the_same_template_is_no_collision_whoever_owns_it_still() {
    let view = cluster(json!({}));
    run(&view);
    let mut revision = view.json(&REVISIONS, "n", &view.names(&REVISIONS)[0]);
    // The set was deleted and made anew, and its pods and revisions do not show yet that they are orphans.
    revision["metadata"]["ownerReferences"][0]["uid"] = json!("before");
    view.put(&REVISIONS, revision.clone());
    let plan = StatefulSet.decide(&view, &Key::new("n", "db"), &Outcome::default(), now());
    assert!(plan.writes.is_empty(), "{plan:#?}");
    revision["data"]["spec"]["template"]["spec"]["x"] = json!("another template of the same hash");
    view.put(&REVISIONS, revision);
    settle(&view);
    assert_eq!(status(&view)["collisionCount"], 1);
}
