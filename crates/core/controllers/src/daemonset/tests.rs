//! Daemon sets on a fake cluster whose pods become ready when the test says so.

use coracle_testkit::{FakeView, Witness};

use super::*;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn node(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {}})
}

fn cluster(strategy: Value) -> FakeView {
    let set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "log", "namespace": "n", "generation": 1,
            "annotations": {"deprecated.daemonset.template.generation": "1"}},
        "spec": {"selector": {"matchLabels": {"app": "log"}}, "updateStrategy": strategy, "revisionHistoryLimit": 1,
            "template": {"metadata": {"labels": {"app": "log"}}, "spec": {"containers": [{"name": "c", "image": "a"}]}}}});
    FakeView::new().with(DAEMON_SETS, set).with(NODES, node("a")).with(NODES, node("b")).with(NODES, node("c"))
}

fn rolling(max_unavailable: i64, max_surge: i64) -> Value {
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": max_unavailable, "maxSurge": max_surge}})
}

fn settle(view: &FakeView) -> Vec<Plan> {
    view.settle(&DaemonSet::default(), &Key::new("n", "log"), now())
}

fn pods_of(view: &FakeView) -> Vec<Item> {
    Item::all(view.list(&PODS, None))
}

/// All pods start on the nodes they were made for.
fn start(view: &FakeView) {
    for pod in pods_of(view) {
        let mut tree = pod.tree().clone();
        tree["spec"]["nodeName"] = json!(target(&pod).unwrap());
        tree["status"] = json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        view.put(&PODS, tree);
    }
}

fn change_image(view: &FakeView, image: &str) {
    let mut tree = view.json(&DAEMON_SETS, "n", "log");
    tree["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    let generation = tree["metadata"]["generation"].as_i64().unwrap() + 1;
    tree["metadata"]["generation"] = json!(generation);
    tree["metadata"]["annotations"][GENERATION] = json!(generation.to_string());
    view.put(&DAEMON_SETS, tree);
}

fn images(view: &FakeView) -> Vec<String> {
    let mut images: Vec<String> =
        pods_of(view).iter().map(|pod| pod.text("/spec/containers/0/image").to_owned()).collect();
    images.sort();
    images
}

fn status(view: &FakeView) -> Value {
    view.json(&DAEMON_SETS, "n", "log")["status"].clone()
}

#[test]
fn every_node_gets_one_pod_made_for_it() {
    let view = cluster(rolling(1, 0));
    settle(&view);
    let pods = pods_of(&view);
    assert_eq!(pods.iter().filter_map(target).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(pods[0].list("/spec/tolerations").len(), 6);
    assert_eq!(pods[0].meta().label(GENERATION_LABEL), Some("1"));
    let revision = Item::all(view.list(&REVISIONS, None)).remove(0);
    assert_eq!(revision.meta().label(HASH_LABEL), pods[0].meta().label(HASH_LABEL));
    assert_eq!((revision.int("/revision"), revision.text("/data/spec/template/$patch")), (1, "replace"));
    start(&view);
    settle(&view);
    let expected = json!({"currentNumberScheduled": 3, "numberMisscheduled": 0, "desiredNumberScheduled": 3,
        "numberReady": 3, "observedGeneration": 1, "updatedNumberScheduled": 3, "numberAvailable": 3});
    assert_eq!(status(&view), expected);
}

#[test]
fn a_new_template_takes_over_node_by_node_and_undo_needs_no_new_revision() {
    let view = cluster(rolling(1, 0));
    settle(&view);
    start(&view);
    change_image(&view, "b");
    let first = DaemonSet::default().decide(&view, &Key::new("n", "log"), &Outcome::default(), now());
    view.apply(&first);
    assert_eq!(pods_of(&view).len(), 2);
    for _ in 0..4 {
        settle(&view);
        start(&view);
    }
    assert_eq!(images(&view), ["b", "b", "b"]);
    change_image(&view, "a");
    for _ in 0..4 {
        settle(&view);
        start(&view);
    }
    let revisions = Item::all(view.list(&REVISIONS, None));
    let mut numbers: Vec<i64> = revisions.iter().map(|revision| revision.int("/revision")).collect();
    numbers.sort();
    assert_eq!((numbers, images(&view)), (vec![2, 3], vec!["a".to_owned(); 3]));
}

#[test]
fn surging_keeps_the_old_pod_until_the_new_one_is_available() {
    let view = cluster(rolling(0, 1));
    settle(&view);
    start(&view);
    change_image(&view, "b");
    settle(&view);
    assert_eq!(images(&view), ["a", "a", "a", "b"]);
    for _ in 0..6 {
        start(&view);
        settle(&view);
    }
    assert_eq!(images(&view), ["b", "b", "b"]);
}

#[test]
fn on_delete_waits_for_the_operator() {
    let view = cluster(json!({"type": "OnDelete"}));
    settle(&view);
    start(&view);
    change_image(&view, "b");
    settle(&view);
    assert_eq!(images(&view), ["a", "a", "a"]);
    let name = pods_of(&view)[0].name().to_owned();
    view.remove(&PODS, "n", &name);
    settle(&view);
    assert_eq!(images(&view), ["a", "a", "b"]);
    assert_eq!(status(&view)["updatedNumberScheduled"], 1);
}

#[test]
fn nodes_that_stop_matching_lose_their_pod() {
    let view = cluster(rolling(1, 0));
    let mut tree = view.json(&DAEMON_SETS, "n", "log");
    tree["spec"]["template"]["spec"]["nodeSelector"] = json!({"color": "blue"});
    view.put(&DAEMON_SETS, tree);
    settle(&view);
    assert!(pods_of(&view).is_empty());
    let mut blue = node("b");
    blue["metadata"]["labels"]["color"] = json!("blue");
    view.put(&NODES, blue);
    settle(&view);
    assert_eq!(pods_of(&view).iter().filter_map(target).collect::<Vec<_>>(), ["b"]);
    view.put(&NODES, node("b"));
    settle(&view);
    assert!(pods_of(&view).is_empty());
}

#[test]
fn failed_pods_are_replaced_and_told() {
    let view = cluster(rolling(1, 0));
    settle(&view);
    start(&view);
    let mut tree = pods_of(&view)[0].tree().clone();
    tree["status"] = json!({"phase": "Failed"});
    view.put(&PODS, tree);
    let plans = settle(&view);
    assert_eq!(plans[0].events[0].reason, "FailedDaemonPod");
    assert_eq!(pods_of(&view).iter().filter(|pod| pods::phase(pod) == "Failed").count(), 0);
    assert_eq!(pods_of(&view).len(), 3);
}

#[test]
fn what_is_refused_is_told() {
    let view = cluster(rolling(1, 0));
    let told = |kind: &str| {
        let key = Key::new("n", "log");
        let first = DaemonSet::default().decide(&view, &key, &Outcome::default(), now());
        let is_meant = |write: &Write| match write {
            Write::Create { resource, .. } => kind == "FailedCreate" && *resource == PODS,
            Write::Delete { resource, .. } => kind == "FailedDelete" && *resource == PODS,
            _ => false,
        };
        let refused = first.writes.into_iter().find(is_meant);
        let error = Some(coracle_meta::Status::internal("no"));
        let plan = DaemonSet::default().decide(&view, &key, &Outcome { error, refused, ..Outcome::default() }, now());
        plan.events.iter().filter(|event| event.reason == kind).count()
    };
    assert_eq!((told("FailedCreate"), told("FailedDelete")), (1, 0));
    settle(&view);
    start(&view);
    view.remove(&NODES, "", "a");
    settle(&view);
    change_image(&view, "b");
    settle(&view);
    view.put(&NODES, {
        let mut node = node("b");
        node["spec"]["taints"] = json!([{"key": "k", "effect": "NoExecute"}]);
        node
    });
    assert_eq!(told("FailedDelete"), 1);
}

#[test]
fn a_selector_of_everything_is_told() {
    let view = cluster(rolling(1, 0));
    let mut set = view.json(&DAEMON_SETS, "n", "log");
    set["spec"]["selector"] = json!({});
    view.put(&DAEMON_SETS, set);
    let plan = DaemonSet::default().decide(&view, &Key::new("n", "log"), &Outcome::default(), now());
    assert_eq!((plan.writes.len(), plan.events[0].reason), (0, "SelectingAll"));
}

#[test]
fn a_daemon_that_ended_well_is_told_and_replaced() {
    let view = cluster(rolling(1, 0));
    settle(&view);
    start(&view);
    let mut pod = (*pods_of(&view)[0].tree()).clone();
    pod["status"] = json!({"phase": "Succeeded"});
    view.put(&PODS, pod);
    let plan = DaemonSet::default().decide(&view, &Key::new("n", "log"), &Outcome::default(), now());
    assert_eq!(plan.events[0].reason, "SucceededDaemonPod");
}

#[test]
fn of_two_revisions_of_one_template_the_older_goes_after_a_moment() {
    let view = cluster(rolling(1, 0));
    settle(&view);
    let mut double = view.json(&REVISIONS, "n", &view.names(&REVISIONS)[0]);
    double["metadata"]["name"] = json!("log-double");
    double["metadata"]["uid"] = json!("double");
    double["metadata"]["creationTimestamp"] = json!("2026-01-01T00:59:59Z");
    double["revision"] = json!(double["revision"].as_i64().unwrap() + 1);
    view.put(&REVISIONS, double);
    let decide = |now| DaemonSet::default().decide(&view, &Key::new("n", "log"), &Outcome::default(), now);
    let plan = decide(now());
    assert!(!plan.writes.iter().any(|write| matches!(write, Write::Delete { .. })), "{plan:?}");
    assert_eq!(plan.wake_after, Some(std::time::Duration::from_secs(1)));
    view.apply(&decide(now() + SignedDuration::from_secs(1)));
    assert_eq!(view.names(&REVISIONS), ["log-double"]);
}

#[test]
fn two_templates_of_one_hash_are_told_apart() {
    let view = cluster(rolling(1, 0));
    settle(&view);
    let mut revision = view.json(&REVISIONS, "n", &view.names(&REVISIONS)[0]);
    revision["data"]["spec"]["template"]["spec"]["x"] = json!("another");
    view.put(&REVISIONS, revision);
    settle(&view);
    assert_eq!(view.json(&DAEMON_SETS, "n", "log")["status"]["collisionCount"], 1);
    assert_eq!(view.names(&REVISIONS).len(), 2);
}
