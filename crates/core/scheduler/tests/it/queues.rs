//! When a pod is tried again.

use coracle_scheduler::Event;
use serde_json::{Value, json};

use crate::cluster::{Cluster, key, merge, node, on, pod, sized};

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
    cluster.tell(Event::BindFailed { key: key("one") });
    assert_eq!(cluster.run(), ["two on a"], "the room is free again, and the other waits out its back-off");
}

#[test]
fn a_refused_binding_of_a_pod_that_is_gone_brings_nothing_back() {
    let mut cluster = Cluster::of_nodes([node("a", json!({}))]);
    let one = sized("one", 1500, json!({}));
    assert!(cluster.schedule(one.clone()).is_ok());
    cluster.gone("pods", one);
    cluster.tell(Event::BindFailed { key: key("one") });
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
