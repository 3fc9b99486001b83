//! Nodes that fall silent one by one, together, and by a clock that jumps.

use super::taints::{NOT_READY, UNREACHABLE};
use super::*;
use coracle_testkit::{FakeView, Witness};

fn at(seconds: u64) -> Timestamp {
    "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + Duration::from_secs(seconds)
}

fn node(name: &str, ready: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"conditions": [
        {"type": "Ready", "status": ready, "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}})
}

fn lease(renewed: &str) -> Value {
    json!({"metadata": {"name": "x", "namespace": LEASE_NAMESPACE}, "spec": {"renewTime": renewed}})
}

fn taints(view: &FakeView) -> Vec<String> {
    let node = view.json(&NODES, "", "x");
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    taints
        .iter()
        .map(|taint| format!("{}:{}", taint["key"].as_str().unwrap(), taint["effect"].as_str().unwrap()))
        .collect()
}

/// Looks at a node until nothing is left to do, so many seconds after the start. The time of day is what it may be.
fn look(view: &FakeView, controller: &NodeLifecycle, name: &str, seconds: u64) -> Vec<Plan> {
    view.at(Duration::from_secs(seconds)).settle(controller, &Key::new("", name), at(0))
}

#[test]
fn a_silent_node_is_unknown_and_drives_pods_away() {
    let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "x"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let view = FakeView::new()
        .with(NODES, node("x", "True"))
        .with(NODES, node("y", "True"))
        .with(LEASES, lease("a"))
        .with(PODS, pod.clone());
    let (controller, key) = (NodeLifecycle::default(), Key::new("", "x"));
    assert!(look(&view, &controller, "x", 0).is_empty());
    view.put(&LEASES, lease("b"));
    assert!(look(&view, &controller, "x", 49).is_empty());
    let years = at(1_000_000_000);
    let plan = controller.decide(view.at(Duration::from_secs(60)), &key, &Outcome::default(), years);
    assert_eq!((plan.writes.len(), plan.wake_after), (0, Some(Duration::from_millis(39_001))));
    look(&view, &controller, "x", 100);
    let status = view.json(&NODES, "", "x")["status"].clone();
    let ready = condition(&status, "Ready").unwrap();
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("Unknown"), &json!("NodeStatusUnknown")));
    assert_eq!(taints(&view), [format!("{UNREACHABLE}:NoSchedule")]);
    assert!(!is_true(&view.json(&PODS, "n", "p")["status"], "Ready"));
    look(&view, &controller, "x", 105);
    assert_eq!(taints(&view), [format!("{UNREACHABLE}:NoSchedule"), format!("{UNREACHABLE}:NoExecute")]);
    // Who says that it is ready after all is not contradicted again and again.
    view.put(&PODS, pod);
    assert!(look(&view, &controller, "x", 110).is_empty());
    view.remove(&NODES, "", "x");
    let gone = controller.decide(&view, &key, &Outcome::default(), at(100));
    assert_eq!((gone.events[0].reason, gone.events[0].regarding["name"].as_str()), ("RemovingNode", Some("x")));
    assert!(controller.decide(&view, &key, &Outcome::default(), at(100)).is_empty());
}

/// Which of the nodes drive pods out once all were looked at every second up to then.
fn driving(view: &FakeView, controller: &NodeLifecycle, seconds: std::ops::RangeInclusive<u64>) -> Vec<String> {
    for second in seconds {
        for name in view.names(&NODES) {
            let renewed = json!({"renewTime": second});
            view.put(&LEASES, json!({"metadata": {"name": name, "namespace": LEASE_NAMESPACE}, "spec": renewed}));
            look(view, controller, &name, second);
        }
    }
    let nodes = view.list(&NODES, None);
    let out = nodes.iter().filter(|node| crate::node::NodeFacts::of(node).drives_out);
    out.map(|node| node.meta.name.clone()).collect()
}

#[test]
fn nodes_that_fall_out_are_cleared_one_after_the_other_and_not_when_it_is_most_of_a_zone() {
    let zone = |name: &str, ready: &str, zone: &str| {
        let mut node = node(name, ready);
        node["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": zone});
        node
    };
    let view = FakeView::new();
    let set = |name: &str, ready: &str, of: &str| view.put(&NODES, zone(name, ready, of));
    for (name, ready) in [("a", "False"), ("b", "False"), ("c", "True"), ("d", "True"), ("e", "True")] {
        set(name, ready, "small");
    }
    set("z", "True", "other");
    let controller = NodeLifecycle::default();
    assert_eq!(driving(&view, &controller, 0..=4), Vec::<String>::new());
    assert_eq!(driving(&view, &controller, 5..=14), ["a"]);
    assert_eq!(driving(&view, &controller, 15..=40), ["a", "b"]);
    // A third and fourth: most of the zone. Nobody else is driven out, and those that are stay so.
    set("c", "False", "small");
    set("d", "False", "small");
    assert_eq!(driving(&view, &controller, 41..=49), ["a", "b"]);
    // The fifth: all of it, while others are ready.
    set("e", "False", "small");
    assert_eq!(driving(&view, &controller, 50..=90), ["a", "b", "c", "d", "e"]);
    // Nobody at all is ready: it is rather we who are cut off.
    set("z", "False", "other");
    assert_eq!(driving(&view, &controller, 91..=99), Vec::<String>::new());
}

#[test]
fn with_no_node_ready_nobody_is_driven_away() {
    let view = FakeView::new().with(NODES, node("x", "False"));
    let controller = NodeLifecycle::default();
    look(&view, &controller, "x", 0);
    look(&view, &controller, "x", 30);
    assert_eq!(taints(&view), [format!("{NOT_READY}:NoSchedule")]);
}

#[test]
fn a_ready_node_loses_its_taints_and_a_cordoned_one_gets_one() {
    let mut tree = node("x", "True");
    let taint = |key: &str, effect: &str| json!({"key": key, "effect": effect});
    let pressure = "node.kubernetes.io/memory-pressure";
    tree["spec"] = json!({"unschedulable": true, "taints": [taint(NOT_READY, "NoSchedule"), taint(NOT_READY, "NoExecute"),
        taint("mine", "NoSchedule"), taint(pressure, "NoSchedule"), taint(pressure, "NoExecute")]});
    let view = FakeView::new().with(NODES, tree);
    look(&view, &NodeLifecycle::default(), "x", 0);
    let unschedulable = "node.kubernetes.io/unschedulable:NoSchedule".to_owned();
    assert_eq!(taints(&view), ["mine:NoSchedule".to_owned(), format!("{pressure}:NoExecute"), unschedulable]);
}
