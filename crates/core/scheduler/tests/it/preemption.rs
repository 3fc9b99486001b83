//! Who has to go for whom.

use coracle_scheduler::{Effect, Event};
use serde_json::{Value, json};

use crate::cluster::{Cluster, key, merge, node, on, pod, sized};

fn ranked(name: &str, milli: u32, priority: i32, extra: Value) -> Value {
    let mut pod = sized(name, milli, json!({"spec": {"priority": priority}}));
    merge(&mut pod, extra);
    pod
}

fn started(at: &str) -> Value {
    json!({"status": {"startTime": at}})
}

#[test]
fn the_least_important_pods_that_make_room_have_to_go() {
    let mut cluster = Cluster::of_nodes([node("a", json!({})), node("b", json!({}))]);
    for (name, at, milli, priority) in [("a1", "a", 1500, 50), ("a2", "a", 400, 5), ("b1", "b", 1800, 10)] {
        cluster.set("pods", ranked(name, milli, priority, on(at)));
    }
    cluster.set("pods", ranked("high", 1000, 100, json!({})));
    let failed = cluster.next();
    let Some(Effect::Failed { message, nominate, .. }) = failed else { panic!("{failed:?}") };
    assert_eq!(message, "0/2 nodes are available: 2 Insufficient cpu.");
    assert_eq!(nominate.as_deref(), Some("b"));
    assert_eq!(cluster.run(), ["high evicts b1"]);
}

#[test]
fn a_victim_gone_lets_the_pod_in_where_it_was_nominated() {
    let mut cluster = Cluster::of_nodes([node("a", json!({}))]);
    let low = ranked("low", 1500, 0, on("a"));
    cluster.set("pods", low.clone());
    cluster.set("pods", ranked("high", 1500, 10, json!({})));
    assert_eq!(cluster.run(), ["high refused", "high evicts low"]);
    cluster.gone("pods", low);
    assert!(cluster.run().is_empty(), "its evictions are still under way");
    cluster.tell(Event::Preempted { key: key("high"), uid: "high".into(), done: true });
    assert_eq!(cluster.run(), ["high on a"]);
}

#[test]
fn others_do_not_take_the_room_that_was_made() {
    let mut cluster = Cluster::of_nodes([node("a", json!({}))]);
    let low = ranked("low", 1500, 0, on("a"));
    cluster.set("pods", low.clone());
    cluster.set("pods", ranked("high", 1500, 10, json!({})));
    cluster.run();
    cluster.gone("pods", low);
    cluster.set("pods", ranked("middle", 1500, 5, json!({})));
    assert_eq!(cluster.run(), ["middle refused"]);
    cluster.set("pods", ranked("higher", 1500, 20, json!({})));
    assert_eq!(cluster.run(), ["higher on a"]);
}

#[test]
fn what_does_not_help_is_not_done() {
    let wait = json!({"spec": {"preemptionPolicy": "Never"}});
    let table = [
        (ranked("p", 1500, 10, wait), "preemption: not eligible due to preemptionPolicy=Never."),
        (
            ranked("p", 1500, 0, json!({})),
            "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
        ),
        (ranked("p", 1800, 10, json!({})), "preemption: 0/1 nodes are available: 1 Insufficient cpu."),
    ];
    for (wanted, tail) in table {
        let mut cluster = Cluster::of_nodes([node("a", json!({}))]);
        cluster.set("pods", ranked("low", 1000, 0, on("a")));
        cluster.set("pods", ranked("lasting", 300, 1000, on("a")));
        let message = cluster.schedule(wanted).unwrap_err();
        assert_eq!(
            message,
            format!("0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, {tail}")
        );
        assert!(cluster.run().is_empty());
    }
}

#[test]
fn budgets_and_later_starts_decide_between_equals() {
    let budget = json!({"metadata": {"name": "b", "namespace": "n"},
        "spec": {"selector": {"matchLabels": {"guarded": "yes"}}}, "status": {"disruptionsAllowed": 0}});
    let guarded = json!({"metadata": {"labels": {"guarded": "yes"}}});
    let cases =
        [(Some(budget), guarded, json!({})), (None, started("2026-01-01T00:00:00Z"), started("2026-01-02T00:00:00Z"))];
    for (budget, first, second) in cases {
        let mut cluster = Cluster::of_nodes([node("a", json!({})), node("b", json!({}))]);
        budget.into_iter().for_each(|budget| cluster.set("poddisruptionbudgets", budget));
        for (name, at, extra) in [("x", "a", first), ("y", "b", second)] {
            let mut victim = ranked(name, 1500, 0, on(at));
            merge(&mut victim, extra);
            cluster.set("pods", victim);
        }
        cluster.set("pods", ranked("high", 1500, 10, json!({})));
        assert_eq!(cluster.run(), ["high refused", "high evicts y"]);
    }
}

#[test]
fn a_pod_waits_for_victims_that_are_leaving() {
    let mut cluster = Cluster::of_nodes([node("a", json!({}))]);
    let mut leaving = ranked("low", 1500, 0, on("a"));
    merge(
        &mut leaving,
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]}}),
    );
    cluster.set("pods", leaving);
    let nominated = ranked("high", 1500, 10, json!({"status": {"nominatedNodeName": "a"}}));
    assert_eq!(
        cluster.schedule(nominated).unwrap_err(),
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due \
         to a terminating pod on the nominated node."
    );
}

#[test]
fn rules_between_pods_are_lifted_by_eviction() {
    let apart = json!([{"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": "zone"}]);
    let spec = json!({"spec": {"priority": 10, "affinity":
        {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": apart}}}});
    let mut cluster = Cluster::of_nodes([node("a", json!({}))]);
    cluster.set("pods", pod("low", on("a")));
    cluster.set("pods", pod("other", json!({"metadata": {"labels": {"app": "b"}}, "spec": {"nodeName": "a"}})));
    cluster.set("pods", pod("high", spec));
    assert_eq!(cluster.run(), ["high refused", "high evicts low"]);
}
