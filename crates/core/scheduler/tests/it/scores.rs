//! Which of several feasible nodes is chosen.

use serde_json::{Value, json};

use crate::cluster::{Cluster, node, on, pod, sized};

fn chosen(nodes: [Value; 2], placed: &[Value], wanted: Value) -> String {
    let mut cluster = Cluster::of_nodes(nodes);
    for placed in placed {
        cluster.set("pods", placed.clone());
    }
    cluster.schedule(wanted).expect("some node fits")
}

#[test]
fn each_plugin_can_tip_the_scales() {
    let plain = || node("b", json!({}));
    let preferred = |kind: &str, term: Value| {
        pod("p", json!({"spec": {"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}}}))
    };
    let company = json!({"weight": 100, "podAffinityTerm":
        {"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": "zone"}});
    let likes_a = json!({"weight": 1, "preference":
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}});
    let image = json!({"status": {"images": [{"names": ["big:latest"], "sizeBytes": 2_000_000_000u64}]}});
    let disliked = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    let needs_image = pod("p", json!({"spec": {"containers": [{"name": "c", "image": "big"}]}}));
    let spread = json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"app": "a"}}}]);
    let table = [
        ("an emptier node", node("a", json!({})), vec![sized("x", 1000, on("b"))], pod("p", json!({}))),
        ("no dislike", node("a", json!({})), vec![], pod("p", json!({"metadata": {"name": "q"}}))),
        ("a liked label", node("a", json!({})), vec![], preferred("nodeAffinity", likes_a)),
        ("liked company", node("a", json!({})), vec![pod("x", on("a"))], preferred("podAffinity", company.clone())),
        ("shunned company", node("a", json!({})), vec![pod("x", on("b"))], preferred("podAntiAffinity", company)),
        ("its image", node("a", image), vec![], needs_image),
        (
            "evenness",
            node("a", json!({})),
            vec![pod("x", on("b"))],
            pod("p", json!({"spec": {"topologySpreadConstraints": spread}})),
        ),
    ];
    for (why, a, placed, wanted) in table {
        let other = if why == "no dislike" { node("b", disliked.clone()) } else { plain() };
        assert_eq!(chosen([a, other], &placed, wanted), "a", "{why}");
    }
}

#[test]
fn balance_counts_what_the_pod_changes() {
    let cpu_heavy = sized("x", 1000, on("b"));
    let asks_cpu = sized("p", 500, json!({}));
    assert_eq!(chosen([node("a", json!({})), node("b", json!({}))], &[cpu_heavy], asks_cpu), "a");
}

#[test]
fn pods_of_a_workload_are_spread_by_default() {
    let nodes = [node("a", json!({})), node("b", json!({}))];
    let mut cluster = Cluster::of_nodes(nodes);
    cluster.set("services", json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"selector": {"app": "a"}}}));
    cluster.set("pods", pod("x", on("a")));
    cluster.set("pods", pod("y", json!({"metadata": {"labels": {"app": "b"}}, "spec": {"nodeName": "b"}})));
    assert_eq!(cluster.schedule(pod("p", json!({}))), Ok("b".into()));
}

#[test]
fn pods_scheduled_one_after_another_fill_nodes_evenly() {
    let mut cluster = Cluster::of_nodes((0..4).map(|at| node(&format!("n{at}"), json!({}))));
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for at in 0..12 {
        *counts.entry(cluster.schedule(sized(&format!("p{at}"), 100, json!({}))).unwrap()).or_default() += 1;
    }
    assert!(counts.values().all(|count| *count == 3), "{counts:?}");
}
