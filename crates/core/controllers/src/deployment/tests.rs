//! Rollouts on a fake cluster whose replica sets follow at once.

use coracle_testkit::{FakeView, Witness};

use super::*;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn deployment(replicas: i64, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "n", "generation": 1},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "revisionHistoryLimit": 1,
            "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": image}]}}}})
}

fn key() -> Key {
    Key::new("n", "web")
}

/// Lets every set reach its size, all pods available.
fn follow(view: &FakeView) {
    for set in view.list(&REPLICA_SETS, None) {
        let mut tree: Value = serde_json::from_slice(&set.json()).unwrap();
        let (size, generation) = (tree["spec"]["replicas"].clone(), tree["metadata"]["generation"].clone());
        tree["status"] = json!({"replicas": size, "readyReplicas": size, "availableReplicas": size,
            "terminatingReplicas": 0, "observedGeneration": generation});
        view.put(&REPLICA_SETS, tree);
    }
}

fn roll_out(view: &FakeView) {
    for _ in 0..10 {
        view.settle(&Deployment, &key(), now());
        follow(view);
    }
}

fn change_image(view: &FakeView, image: &str) {
    let mut tree = view.json(&DEPLOYMENTS, "n", "web");
    tree["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    tree["metadata"]["generation"] = json!(tree["metadata"]["generation"].as_i64().unwrap() + 1);
    view.put(&DEPLOYMENTS, tree);
}

fn sizes(view: &FakeView) -> Vec<(String, i64)> {
    let sets = Item::all(view.list(&REPLICA_SETS, None));
    let mut sizes: Vec<_> =
        sets.iter().map(|set| (set.annotation(REVISION).unwrap().to_owned(), set.int("/spec/replicas"))).collect();
    sizes.sort();
    sizes
}

#[test]
fn a_first_rollout_completes() {
    let view = FakeView::new().with(DEPLOYMENTS, deployment(3, "a"));
    roll_out(&view);
    assert_eq!(sizes(&view), [("1".into(), 3)]);
    let status = view.json(&DEPLOYMENTS, "n", "web");
    assert_eq!(status["metadata"]["annotations"][REVISION], "1");
    assert_eq!(status["status"]["availableReplicas"], 3);
    assert_eq!(crate::shape::condition(&status["status"], "Progressing").unwrap()["reason"], "NewReplicaSetAvailable");
    assert_eq!(crate::shape::condition(&status["status"], "Available").unwrap()["status"], "True");
}

#[test]
fn a_new_template_takes_over_in_steps_and_undo_raises_the_revision() {
    let view = FakeView::new().with(DEPLOYMENTS, deployment(4, "a"));
    roll_out(&view);
    change_image(&view, "b");
    view.settle(&Deployment, &key(), now());
    assert_eq!(sizes(&view), [("1".into(), 3), ("2".into(), 2)]);
    roll_out(&view);
    assert_eq!(sizes(&view), [("1".into(), 0), ("2".into(), 4)]);
    change_image(&view, "a");
    roll_out(&view);
    assert_eq!(sizes(&view), [("2".into(), 0), ("3".into(), 4)]);
    let sets = Item::all(view.list(&REPLICA_SETS, None));
    assert!(sets.iter().any(|set| set.annotation(REVISION_HISTORY) == Some("1")));
}

#[test]
fn history_beyond_the_limit_goes() {
    let view = FakeView::new().with(DEPLOYMENTS, deployment(1, "a"));
    for image in ["b", "c", "d"] {
        roll_out(&view);
        change_image(&view, image);
    }
    roll_out(&view);
    assert_eq!(sizes(&view), [("3".into(), 0), ("4".into(), 1)]);
}

#[test]
fn scaling_in_mid_rollout_keeps_proportions() {
    let view = FakeView::new().with(DEPLOYMENTS, deployment(4, "a"));
    roll_out(&view);
    change_image(&view, "b");
    view.settle(&Deployment, &key(), now());
    let mut tree = view.json(&DEPLOYMENTS, "n", "web");
    tree["spec"]["replicas"] = json!(8);
    tree["metadata"]["generation"] = json!(3);
    view.put(&DEPLOYMENTS, tree);
    let plan = Deployment.decide(&view, &key(), &Outcome::default(), now());
    view.apply(&plan);
    assert_eq!(sizes(&view), [("1".into(), 6), ("2".into(), 4)]);
}

#[test]
fn recreate_waits_for_the_old_pods() {
    let mut tree = deployment(2, "a");
    tree["spec"]["strategy"] = json!({"type": "Recreate"});
    let view = FakeView::new().with(DEPLOYMENTS, tree);
    roll_out(&view);
    change_image(&view, "b");
    view.settle(&Deployment, &key(), now());
    assert_eq!(sizes(&view), [("1".into(), 0)]);
    roll_out(&view);
    assert_eq!(sizes(&view), [("1".into(), 0), ("2".into(), 2)]);
}

#[test]
fn no_progress_within_the_deadline_is_told() {
    let view = FakeView::new().with(DEPLOYMENTS, deployment(1, "a"));
    view.settle(&Deployment, &key(), now());
    let plan = Deployment.decide(&view, &key(), &Outcome::default(), now());
    assert_eq!(plan.wake_after, Some(std::time::Duration::from_secs(601)));
    let later = now() + std::time::Duration::from_secs(601);
    view.settle(&Deployment, &key(), later);
    let status = view.json(&DEPLOYMENTS, "n", "web")["status"].clone();
    let progressing = crate::shape::condition(&status, "Progressing").unwrap();
    assert_eq!((&progressing["status"], &progressing["reason"]), (&json!("False"), &json!("ProgressDeadlineExceeded")));
}

#[test]
fn what_is_odd_is_told() {
    let mut tree = deployment(1, "a");
    tree["spec"]["selector"] = json!({});
    let view = FakeView::new().with(DEPLOYMENTS, tree);
    let plan = Deployment.decide(&view, &key(), &Outcome::default(), now());
    assert_eq!(plan.events[0].reason, "SelectingAll");

    let view = FakeView::new().with(DEPLOYMENTS, deployment(1, "a"));
    let first = Deployment.decide(&view, &key(), &Outcome::default(), now());
    let (error, refused) = (Some(coracle_meta::Status::internal("no")), first.writes.first().cloned());
    let plan = Deployment.decide(&view, &key(), &Outcome { error, refused, ..Outcome::default() }, now());
    assert_eq!(plan.events[0].reason, "ReplicaSetCreateError");
}

#[test]
fn failures_of_its_sets_are_its_own() {
    let view = FakeView::new().with(DEPLOYMENTS, deployment(1, "a"));
    view.settle(&Deployment, &key(), now());
    let mut set = (*Item::all(view.list(&REPLICA_SETS, None))[0].tree()).clone();
    set["status"] = json!({"replicas": 0, "observedGeneration": 1, "conditions": [
        {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}]});
    view.put(&REPLICA_SETS, set);
    view.settle(&Deployment, &key(), now());
    let status = view.json(&DEPLOYMENTS, "n", "web")["status"].clone();
    assert_eq!(crate::shape::condition(&status, "ReplicaFailure").unwrap()["reason"], "FailedCreate");
}

#[test]
fn a_name_that_is_taken_raises_the_collision_count() {
    let view = FakeView::new().with(DEPLOYMENTS, deployment(1, "a"));
    let first = Deployment.decide(&view, &key(), &Outcome::default(), now());
    let Some(Write::Create { object, .. }) = first.writes.first() else { panic!("a set is made: {first:?}") };
    let taken = json!({"metadata": {"name": object["metadata"]["name"], "namespace": "n"}, "spec": {"replicas": 0}});
    view.put(&REPLICA_SETS, taken);
    view.settle(&Deployment, &key(), now());
    assert_eq!(view.json(&DEPLOYMENTS, "n", "web")["status"]["collisionCount"], 1);
    assert_eq!(view.names(&REPLICA_SETS).len(), 2);
}
