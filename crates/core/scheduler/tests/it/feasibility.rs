//! Which nodes can take a pod, and the words for why not.

use serde_json::{Value, json};

use crate::cluster::{Cluster, merge, node, on, pod, sized};

const NOT_HELPFUL: &str =
    "no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
const NO_VICTIMS: &str =
    "no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";

/// On one node with these extras and pods, the pod is refused for this reason, with this word on preemption.
fn refused(extra: Value, placed: &[Value], wanted: Value, (reason, preemption): (&str, &str)) {
    let mut cluster = Cluster::of_nodes([node("a", extra)]);
    for placed in placed {
        cluster.set("pods", placed.clone());
    }
    let message = cluster.schedule(wanted.clone()).expect_err(reason);
    assert_eq!(message, format!("0/1 nodes are available: {reason}. {preemption}"), "{wanted}");
}

fn term(key: &str) -> Value {
    json!([{"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": key}])
}

fn with_affinity(name: &str, side: &str, key: &str) -> Value {
    pod(name, json!({"spec": {"affinity": {side: {"requiredDuringSchedulingIgnoredDuringExecution": term(key)}}}}))
}

fn chooses(expression: Value) -> Value {
    let terms = json!({"nodeSelectorTerms": [{"matchExpressions": [expression]}]});
    pod("p", json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}}))
}

fn port(name: &str, port: Value) -> Value {
    pod(name, json!({"spec": {"containers": [{"name": "c", "ports": [port]}]}}))
}

#[test]
fn what_no_preemption_can_lift_is_said_so() {
    let taint = |effect: &str| json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}});
    let table = [
        (json!({"spec": {"unschedulable": true}}), pod("p", json!({})), "1 node(s) were unschedulable"),
        (taint("NoSchedule"), pod("p", json!({})), "1 node(s) had untolerated taint(s)"),
        (taint("NoExecute"), pod("p", json!({})), "1 node(s) had untolerated taint(s)"),
        (
            json!({}),
            pod("p", json!({"spec": {"nodeSelector": {"x": "y"}}})),
            "1 node(s) didn't match Pod's node affinity/selector",
        ),
        (
            json!({}),
            chooses(json!({"key": "zone", "operator": "NotIn", "values": ["a"]})),
            "1 node(s) didn't match Pod's node affinity/selector",
        ),
        (json!({}), sized("p", 3000, json!({})), "1 Insufficient cpu"),
        (json!({}), with_affinity("p", "podAffinity", "missing"), "1 node(s) didn't match pod affinity rules"),
        (
            json!({}),
            pod("p", json!({"spec": {"hostNetwork": true, "hostUsers": false}})),
            "1 node(s) didn't match Pod's required features",
        ),
    ];
    for (extra, wanted, reason) in table {
        refused(extra, &[], wanted, (reason, NOT_HELPFUL));
    }
}

#[test]
fn what_others_stand_in_the_way_of_counts_as_without_victims() {
    let held = |name: &str, ip: &str| port(name, json!({"hostPort": 80, "hostIP": ip}));
    let mut first = held("first", "127.0.0.1");
    crate::cluster::merge(&mut first, on("a"));
    refused(
        json!({}),
        &[first],
        held("p", "0.0.0.0"),
        ("1 node(s) didn't have free ports for the requested pod ports", NO_VICTIMS),
    );
    refused(json!({}), &[sized("big", 1500, on("a"))], sized("p", 600, json!({})), ("1 Insufficient cpu", NO_VICTIMS));
    let small = json!({"status": {"allocatable": {"pods": "1"}}});
    refused(small, &[pod("one", on("a"))], pod("p", json!({})), ("1 Too many pods", NO_VICTIMS));
    refused(
        json!({}),
        &[pod("one", on("a"))],
        with_affinity("p", "podAntiAffinity", "zone"),
        ("1 node(s) didn't match pod anti-affinity rules", NO_VICTIMS),
    );
    let mut shy = with_affinity("shy", "podAntiAffinity", "zone");
    crate::cluster::merge(&mut shy, on("a"));
    refused(
        json!({}),
        &[shy],
        pod("p", json!({})),
        ("1 node(s) didn't satisfy existing pods anti-affinity rules", NO_VICTIMS),
    );
}

#[test]
fn all_reasons_of_the_first_plugin_are_counted_over_all_nodes() {
    let tight = json!({"status": {"allocatable": {"cpu": "1", "memory": "1Gi"}}});
    let mut cluster = Cluster::of_nodes([
        node("a", tight.clone()),
        node("b", tight),
        node("c", json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})),
    ]);
    let requests = json!({"requests": {"cpu": "2", "memory": "2Gi", "example.com/gpu": "1"}});
    let wanted = pod("p", json!({"spec": {"containers": [{"name": "c", "resources": requests}]}}));
    assert_eq!(
        cluster.schedule(wanted).unwrap_err(),
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu, 2 Insufficient \
         example.com/gpu, 2 Insufficient memory. no new claims to deallocate, preemption: 0/3 nodes are available: \
         3 Preemption is not helpful for scheduling."
    );
}

#[test]
fn a_cluster_without_nodes_says_so() {
    let message = Cluster::of_nodes([]).schedule(pod("p", json!({}))).unwrap_err();
    assert_eq!(message, "no nodes available to schedule pods");
}

#[test]
fn a_pod_that_names_nodes_is_judged_on_them_alone() {
    let named = |operator: &str, values: Value| {
        let field = json!({"key": "metadata.name", "operator": operator, "values": values});
        let terms = json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
        pod(
            "p",
            json!({"spec": {"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": terms}}}}),
        )
    };
    let nodes = || Cluster::of_nodes([node("a", json!({})), node("b", json!({"spec": {"unschedulable": true}}))]);
    assert_eq!(nodes().schedule(named("In", json!(["a"]))), Ok("a".into()));
    assert_eq!(nodes().schedule(named("NotIn", json!(["b"]))), Ok("a".into()));
    assert_eq!(
        nodes().schedule(named("In", json!(["b"]))).unwrap_err(),
        "0/2 nodes are available: 1 node(s) didn't satisfy plugin(s) [NodeAffinity], 1 node(s) were unschedulable. \
         no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    );
}

#[test]
fn where_every_node_is_refused_at_once_no_room_is_made() {
    let field = |node: &str| json!({"key": "metadata.name", "operator": "In", "values": [node]});
    let terms = json!({"nodeSelectorTerms": [{"matchFields": [field("a"), field("b")]}]});
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
    let mut cluster = Cluster::of_nodes([node("a", json!({})), node("b", json!({}))]);
    assert_eq!(
        cluster.schedule(pod("p", json!({"spec": {"affinity": affinity}}))).unwrap_err(),
        "0/2 nodes are available: pod affinity terms conflict. not found"
    );
}

#[test]
fn tolerated_taints_and_cordons_keep_nobody_away() {
    let extra = json!({"spec": {"unschedulable": true, "taints": [
        {"key": "k", "value": "v", "effect": "NoSchedule"},
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]}});
    let mut cluster = Cluster::of_nodes([node("a", extra)]);
    assert_eq!(cluster.schedule(pod("p", json!({"spec": {"tolerations": [{"operator": "Exists"}]}}))), Ok("a".into()));
}

#[test]
fn the_first_of_a_group_that_wants_its_own_company_is_let_in() {
    let mut cluster = Cluster::of_nodes([node("a", json!({})), node("b", json!({}))]);
    let first = cluster.schedule(with_affinity("one", "podAffinity", "zone")).unwrap();
    for name in ["two", "three"] {
        assert_eq!(cluster.schedule(with_affinity(name, "podAffinity", "zone")).as_ref(), Ok(&first));
    }
}

#[test]
fn terms_may_choose_namespaces_by_label() {
    let mut cluster = Cluster::of_nodes([node("a", json!({})), node("b", json!({}))]);
    cluster.set("namespaces", json!({"metadata": {"name": "other", "labels": {"team": "x"}}}));
    cluster.set("pods", pod("there", json!({"metadata": {"namespace": "other"}, "spec": {"nodeName": "b"}})));
    let term = |selector: Value| {
        let term = json!([{"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": "zone",
            "namespaceSelector": selector}]);
        json!({"spec": {"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}}})
    };
    let chosen = term(json!({"matchLabels": {"team": "x"}}));
    assert_eq!(cluster.schedule(pod("p", chosen)), Ok("b".into()));
    assert!(cluster.schedule(pod("q", term(json!({"matchLabels": {"team": "y"}})))).is_err());
    assert_eq!(cluster.schedule(pod("r", term(json!({})))), Ok("b".into()));
}

#[test]
fn a_negative_namespace_selector_of_the_pod_itself_excludes_no_namespace() {
    let selector = json!({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["x"]}]});
    let term = json!([{"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": "zone",
        "namespaceSelector": selector}]);
    for (side, chosen) in [("podAffinity", "b"), ("podAntiAffinity", "a")] {
        let mut cluster = Cluster::of_nodes([node("a", json!({})), node("b", json!({}))]);
        cluster.set("namespaces", json!({"metadata": {"name": "other", "labels": {"team": "x"}}}));
        cluster.set("pods", pod("there", json!({"metadata": {"namespace": "other"}, "spec": {"nodeName": "b"}})));
        let affinity = json!({side: {"requiredDuringSchedulingIgnoredDuringExecution": term}});
        assert_eq!(cluster.schedule(pod("p", json!({"spec": {"affinity": affinity}}))), Ok(chosen.into()), "{side}");
    }
    let mut cluster = Cluster::of_nodes([node("a", json!({})), node("b", json!({}))]);
    cluster.set("namespaces", json!({"metadata": {"name": "n", "labels": {"team": "x"}}}));
    let apart = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}});
    cluster.set("pods", pod("there", json!({"spec": {"nodeName": "b", "affinity": apart}})));
    let wanted = pod("p", json!({"spec": {"nodeSelector": {"zone": "b"}}}));
    assert_eq!(cluster.schedule(wanted), Ok("b".into()), "a placed pod's selector does exclude");
}

#[test]
fn spreading_bounds_the_skew() {
    let spread = |name: &str, extra: Value| {
        let mut constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "a"}}});
        crate::cluster::merge(&mut constraint, extra);
        pod(name, json!({"spec": {"topologySpreadConstraints": [constraint]}}))
    };
    let mut cluster = Cluster::of_nodes([
        node("a", json!({})),
        node("b", json!({"spec": {"unschedulable": true}})),
        node("c", json!({"metadata": {"labels": null}})),
    ]);
    assert_eq!(cluster.schedule(spread("one", json!({}))), Ok("a".into()));
    assert_eq!(
        cluster.schedule(spread("two", json!({}))).unwrap_err(),
        "0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) didn't match pod \
         topology spread constraints (missing required label), 1 node(s) were unschedulable. no new claims to \
         deallocate, preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
    );
    assert_eq!(cluster.schedule(spread("three", json!({"maxSkew": 2}))), Ok("a".into()));
    assert!(cluster.schedule(spread("four", json!({"maxSkew": 3, "minDomains": 5}))).is_ok());
    assert!(cluster.schedule(spread("five", json!({"maxSkew": 3, "minDomains": 5}))).is_err());
}

#[test]
fn gates_hold_a_pod_until_they_are_lifted() {
    let mut cluster = Cluster::of_nodes([node("a", json!({}))]);
    cluster.set("pods", pod("p", json!({"spec": {"schedulingGates": [{"name": "example.com/g"}]}})));
    assert!(cluster.next().is_none());
    assert_eq!(cluster.schedule(pod("p", json!({}))), Ok("a".into()));
}

#[test]
fn a_nominated_node_beside_those_a_pod_names_is_judged_too() {
    let mut cluster = Cluster::of_nodes(["a", "b", "c"].map(|name| node(name, json!({}))));
    let field = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}]);
    let named =
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": field}}});
    let wanted = json!({"spec": {"affinity": named}, "status": {"nominatedNodeName": "b"}});
    let message = cluster.schedule(sized("p", 9000, wanted.clone())).unwrap_err();
    let counted = "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match Pod's node affinity/selector, \
                   1 node(s) didn't satisfy plugin(s) [NodeAffinity].";
    assert!(message.starts_with(counted), "{message}");
    cluster.set("nodes", node("b", json!({"spec": {"unschedulable": true}})));
    let message = cluster.schedule(sized("q", 9000, wanted)).unwrap_err();
    assert!(message.contains("didn't satisfy plugin(s) [NodeAffinity NodeUnschedulable]"), "{message}");
}

#[test]
fn amounts_beyond_all_bounds_break_nothing() {
    let huge = || {
        let container = |name: &str| json!({"name": name, "resources": {"requests": {"memory": "7Ei", "cpu": "8E"}}});
        json!({"spec": {"containers": [container("c"), container("d")]}})
    };
    let large = json!({"status": {"allocatable": {"memory": "7Ei", "cpu": "8E"}}});
    let mut cluster = Cluster::of_nodes([node("a", json!({})), node("b", large)]);
    let message = cluster.schedule(pod("p", huge())).unwrap_err();
    assert!(message.contains("2 Insufficient memory."), "{message}");
    for name in ["x", "y", "z"] {
        let mut placed = pod(name, huge());
        merge(&mut placed, on("a"));
        cluster.set("pods", placed);
    }
    assert!(cluster.schedule(sized("small", 100, json!({}))).is_ok());
    ["x", "y", "z"].iter().for_each(|name| cluster.gone("pods", pod(name, json!({}))));
    let requested = &cluster.scheduler.cluster().node("a").unwrap().requested;
    assert!(requested.memory == 0 && requested.cpu_milli <= 100, "{requested:?}");
}

#[test]
fn domains_of_keys_beyond_those_kept_follow_the_labels() {
    let labelled = |name: &str, rack: &str| node(name, json!({"metadata": {"labels": {"rack": rack}}}));
    let mut cluster = Cluster::of_nodes([labelled("a", "x"), labelled("b", "y"), labelled("c", "y")]);
    let apart = |key: &str| {
        let term = json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": "a"}}});
        json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}})
    };
    for key in 0..64 {
        let mut other = pod(&format!("other{key}"), apart(&format!("k{key}")));
        merge(&mut other, json!({"metadata": {"labels": {"app": "other"}}, "spec": {"nodeName": "gone"}}));
        cluster.set("pods", other);
    }
    cluster.set("pods", pod("there", on("b")));
    assert_eq!(cluster.schedule(pod("p", apart("rack"))), Ok("a".into()));
    cluster.gone("pods", pod("p", json!({})));
    // Numbered anew, the racks of `b` and `c` have other numbers than before.
    cluster.set("nodes", labelled("a", "y"));
    cluster.schedule(pod("p", apart("rack"))).unwrap_err();
}
