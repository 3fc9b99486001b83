//! When a pod is tried again.

use coracle_scheduler::{Effect, Event, Reason};
use serde_json::{Value, json};

use crate::cluster::{Cluster, key, merge, node, on, pod, sized};

fn refused(name: &str) -> Event {
    Event::BindFailed { key: key(name), uid: name.into(), message: "no".into() }
}

/// A pod that the one node refuses; then a change; tells whether the pod was tried again.
fn tried_again(extra: Value, wanted: Value, change: impl FnOnce(&mut Cluster)) -> bool {
    let mut cluster = Cluster::of_nodes([node("a", extra)]);
    cluster.set("pods", sized("there", 1500, on("a")));
    cluster.schedule(wanted).expect_err("the node refuses it");
    change(&mut cluster);
    cluster.now += 20;
    !cluster.run().is_empty()
}

#[test]
fn a_change_wakes_exactly_the_pods_it_may_help() {
    let large = || sized("p", 1000, json!({}));
    let choosy = || pod("p", json!({"spec": {"nodeSelector": {"disk": "ssd"}}}));
    let tainted = || json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    let with_disk = || node("a", json!({"metadata": {"labels": {"disk": "ssd"}}}));
    let bigger = || node("a", json!({"status": {"allocatable": {"cpu": "4"}}}));

    assert!(tried_again(json!({}), large(), |cluster| cluster.gone("pods", sized("there", 1500, on("a")))));
    assert!(tried_again(json!({}), large(), |cluster| cluster.set("nodes", bigger())));
    assert!(tried_again(json!({}), large(), |cluster| cluster.set("nodes", node("b", json!({})))));
    assert!(!tried_again(json!({}), large(), |cluster| cluster.set("nodes", with_disk())));
    assert!(!tried_again(json!({}), large(), |cluster| cluster.set("pods", pod("new", on("a")))));
    assert!(tried_again(json!({}), choosy(), |cluster| cluster.set("nodes", with_disk())));
    assert!(!tried_again(json!({}), choosy(), |cluster| cluster.set("nodes", bigger())));
    assert!(!tried_again(json!({}), choosy(), |cluster| cluster.gone("pods", sized("there", 1500, on("a")))));
    assert!(tried_again(tainted(), pod("p", json!({})), |cluster| cluster.set("nodes", node("a", json!({})))));
    let tolerant = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
    assert!(tried_again(tainted(), pod("p", json!({})), |cluster| cluster.set("pods", pod("p", tolerant))));
    let renamed = json!({"metadata": {"labels": {"more": "labels"}}});
    assert!(!tried_again(tainted(), pod("p", json!({})), |cluster| cluster.set("pods", pod("p", renamed))));
}

#[test]
fn a_decided_pod_holds_its_place_before_it_is_bound() {
    let mut cluster = Cluster::of_nodes([node("a", json!({}))]);
    cluster.set("pods", sized("one", 1500, json!({})));
    cluster.set("pods", sized("two", 1500, json!({})));
    assert_eq!(cluster.run(), ["one on a", "two refused"]);
    cluster.tell(refused("one"));
    assert_eq!(
        cluster.run(),
        ["one refused", "two on a"],
        "the room is free again, and the first waits out its back-off"
    );
}

#[test]
fn a_refused_binding_is_told_and_takes_the_expected_node_back() {
    let mut cluster = Cluster::of_nodes([node("a", json!({}))]);
    assert!(cluster.schedule(pod("p", json!({}))).is_ok());
    cluster.set("pods", pod("p", json!({"status": {"nominatedNodeName": "a"}})));
    cluster.tell(refused("p"));
    let Some(Effect::Failed { reason, message, nominate, .. }) = cluster.next() else { panic!("it is not told") };
    assert_eq!((reason, message.as_str(), nominate.as_deref()), (Reason::SchedulerError, "no", Some("")));
}

#[test]
fn after_a_refused_binding_the_pod_is_tried_as_it_is_by_then() {
    let mut cluster = Cluster::of_nodes([node("a", json!({}))]);
    assert!(cluster.schedule(pod("p", json!({}))).is_ok());
    cluster.set("pods", pod("p", json!({"metadata": {"labels": {"app": "b"}}})));
    cluster.tell(refused("p"));
    let labels = &cluster.scheduler.queue().get(&key("p")).expect("it waits again").labels;
    assert_eq!(labels[0].1, "b");
}

#[test]
fn a_pod_that_is_deleted_on_its_way_to_its_node_leaves_the_room_to_others() {
    let mut cluster = Cluster::of_nodes([node("a", json!({}))]);
    assert!(cluster.schedule(sized("p", 1500, json!({}))).is_ok());
    cluster.schedule(sized("q", 1500, json!({}))).unwrap_err();
    let leaving = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/y"]}});
    cluster.set("pods", sized("p", 1500, leaving));
    assert_eq!(cluster.run(), ["q on a"]);
    cluster.tell(refused("p"));
    cluster.now += 600;
    assert!(cluster.run().is_empty(), "it is not tried again");
}

/// A pod of the same name and another uid.
fn another(name: &str) -> Value {
    sized(name, 1500, json!({"metadata": {"uid": "another"}}))
}

#[test]
fn what_comes_of_a_pod_that_is_gone_does_not_touch_the_one_that_took_its_name() {
    let mut cluster = Cluster::of_nodes([node("a", json!({}))]);
    let one = sized("p", 1500, json!({}));
    assert!(cluster.schedule(one.clone()).is_ok());
    cluster.gone("pods", one);
    assert!(cluster.schedule(another("p")).is_ok());
    cluster.tell(refused("p"));
    cluster.tell(Event::Prepared { key: key("p"), uid: "p".into(), done: false });
    assert_eq!(cluster.run(), Vec::<String>::new());
    assert_eq!(cluster.scheduler.cluster().node("a").unwrap().requested.cpu_milli, 1500, "its place is kept for it");
}

#[test]
fn a_pod_that_took_the_name_of_a_placed_one_unseen_is_scheduled() {
    let mut cluster = Cluster::of_nodes([node("a", json!({}))]);
    cluster.set("pods", sized("p", 1500, on("a")));
    assert_eq!(cluster.schedule(another("p")), Ok("a".into()), "a new list tells only of what is there");
}

#[test]
fn a_refused_binding_of_a_pod_that_is_gone_brings_nothing_back() {
    let mut cluster = Cluster::of_nodes([node("a", json!({}))]);
    let one = sized("one", 1500, json!({}));
    assert!(cluster.schedule(one.clone()).is_ok());
    cluster.gone("pods", one);
    cluster.tell(refused("one"));
    cluster.now += 600;
    assert!(cluster.run().is_empty());
    assert_eq!(cluster.scheduler.cluster().node("a").unwrap().requested.cpu_milli, 0);
}

#[test]
fn a_pod_of_the_same_name_is_another_pod() {
    let mut cluster = Cluster::of_nodes([node("a", json!({}))]);
    cluster.schedule(sized("p", 9000, json!({}))).unwrap_err();
    let mut again = sized("p", 100, json!({}));
    merge(&mut again, json!({"metadata": {"uid": "other"}}));
    assert_eq!(cluster.schedule(again), Ok("a".into()));
}

#[test]
fn pods_of_other_schedulers_are_left_alone() {
    let mut cluster = Cluster::of_nodes([node("a", json!({}))]);
    cluster.set("pods", pod("p", json!({"spec": {"schedulerName": "mine"}})));
    assert!(cluster.next().is_none());
}

#[test]
fn finished_pods_use_nothing() {
    let mut cluster = Cluster::of_nodes([node("a", json!({}))]);
    cluster.set("pods", sized("there", 1500, on("a")));
    cluster.schedule(sized("p", 1500, json!({}))).unwrap_err();
    let mut finished = sized("there", 1500, on("a"));
    merge(&mut finished, json!({"status": {"phase": "Succeeded"}}));
    cluster.set("pods", finished);
    assert_eq!(cluster.run(), ["p on a"]);
}
