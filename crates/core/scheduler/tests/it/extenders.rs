//! Extenders: who is asked what, and what comes of the answers.

use std::collections::BTreeMap;

use coracle_scheduler::config::Configuration;
use coracle_scheduler::extender::{Answer, Filtered, Victims};
use coracle_scheduler::{Effect, Event, Reason};
use serde_json::{Value, json};

use crate::cluster::{Cluster, key, node, on, pod, sized};

/// Nodes `a` and `b`, and these extenders.
fn cluster(extenders: Value) -> Cluster {
    let config = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration", "extenders": extenders,
    });
    let scheduler = Configuration::read(config)
        .and_then(|read| read.scheduler(coracle_meta::Gates::default()))
        .expect("a configuration");
    Cluster::with(scheduler, ["a", "b"].map(|name| ("nodes", node(name, json!({})))))
}

fn filtering() -> Value {
    json!({"urlPrefix": "http://x", "filterVerb": "filter"})
}

fn answer(cluster: &mut Cluster, name: &str, answer: Answer) -> Vec<String> {
    cluster.tell(Event::Answered { key: key(name), uid: name.into(), answer });
    cluster.run()
}

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, why)| (name.to_string(), why.to_string())).collect()
}

fn keep(names: &[&str]) -> Answer {
    Answer::Filter(Ok(Filtered { kept: names.iter().map(ToString::to_string).collect(), ..Filtered::default() }))
}

fn refuse(pairs: &[(&str, &str)]) -> Answer {
    Answer::Filter(Ok(Filtered { failed: texts(pairs), ..Filtered::default() }))
}

fn failed(effect: Option<Effect>) -> (Reason, String) {
    match effect {
        Some(Effect::Failed { reason, message, .. }) => (reason, message),
        other => panic!("the pod is not refused: {other:?}"),
    }
}

#[test]
fn only_a_node_that_every_extender_keeps_is_taken() {
    let mut cluster = cluster(json!([filtering(), filtering()]));
    cluster.set("pods", pod("p", json!({})));
    assert_eq!(cluster.run(), ["p asked about: filter 0 a b"]);
    assert_eq!(answer(&mut cluster, "p", keep(&["b"])), ["p asked about: filter 1 b"]);
    assert_eq!(answer(&mut cluster, "p", keep(&["b"])), ["p on b"]);
    assert_eq!(answer(&mut cluster, "p", keep(&["a"])), Vec::<String>::new(), "nobody was asked any more");
}

#[test]
fn what_extenders_say_against_nodes_is_told_and_any_change_may_help() {
    let mut cluster = cluster(json!([filtering()]));
    cluster.set("pods", pod("p", json!({})));
    cluster.run();
    let both = Answer::Filter(Ok(Filtered {
        failed: texts(&[("a", "no licence"), ("b", "not this")]),
        unresolvable: texts(&[("b", "no licence")]),
        kept: Vec::new(),
    }));
    cluster.tell(Event::Answered { key: key("p"), uid: "p".into(), answer: both });
    let (reason, message) = failed(cluster.next());
    assert_eq!(reason, Reason::Unschedulable);
    assert!(message.starts_with("0/2 nodes are available: 2 no licence."), "{message}");
    cluster.now += 20;
    assert!(cluster.run().is_empty());
    cluster.set("nodes", node("a", json!({"metadata": {"labels": {"licence": "yes"}}})));
    assert_eq!(cluster.run(), ["p asked about: filter 0 a b"]);
}

#[test]
fn a_node_that_an_extender_both_keeps_and_rejects_counts_once() {
    let mut cluster = cluster(json!([filtering()]));
    let field = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a", "b"]}]}]);
    let named =
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": field}}});
    cluster.set("pods", pod("p", json!({"spec": {"affinity": named}})));
    cluster.run();
    // By the time of the answer nothing fits any more.
    ["a", "b"].iter().for_each(|name| cluster.set("pods", sized("full", 2000, on(name))));
    ["a", "b"].iter().for_each(|name| cluster.set("nodes", node(name, json!({"spec": {"unschedulable": true}}))));
    let both = Answer::Filter(Ok(Filtered {
        kept: vec!["a".into(), "b".into()],
        failed: texts(&[("a", "no licence"), ("b", "no licence")]),
        ..Filtered::default()
    }));
    cluster.tell(Event::Answered { key: key("p"), uid: "p".into(), answer: both });
    let (_, message) = failed(cluster.next());
    assert!(message.starts_with("0/2 nodes are available: 2 no licence."), "{message}");
}

#[test]
fn a_change_during_the_conversation_counts_as_one_after_it() {
    let mut cluster = cluster(json!([filtering()]));
    cluster.set("pods", pod("p", json!({})));
    cluster.run();
    cluster.set("nodes", node("c", json!({})));
    assert_eq!(
        answer(&mut cluster, "p", refuse(&[("a", "no"), ("b", "no")])),
        ["p refused", "p asked about: filter 0 a b c"]
    );
}

#[test]
fn an_extender_that_fails_fails_the_pod_unless_it_may_be_ignored() {
    let error = || Answer::Filter(Err("failed filter with extender at URL http://x/filter, code 500".into()));
    let mut strict = cluster(json!([filtering()]));
    strict.set("pods", pod("p", json!({})));
    strict.run();
    strict.tell(Event::Answered { key: key("p"), uid: "p".into(), answer: error() });
    let expected = "failed filter with extender at URL http://x/filter, code 500";
    assert_eq!(failed(strict.next()), (Reason::SchedulerError, expected.into()));
    assert_eq!(strict.scheduler.counts().profiles[0].error.count, 1);
    strict.now += 1;
    assert_eq!(strict.run(), ["p asked about: filter 0 a b"], "after a back-off it is tried again");

    let mut lenient = cluster(json!([{"urlPrefix": "http://y", "filterVerb": "f", "ignorable": true}]));
    lenient.set("pods", pod("p", json!({"spec": {"nodeName": "", "nodeSelector": {"zone": "b"}}})));
    lenient.run();
    assert_eq!(answer(&mut lenient, "p", error()), ["p on b"]);
}

#[test]
fn scores_of_extenders_count_by_weight_and_are_not_asked_for_a_single_node() {
    let prioritizing = |weight: i64| json!({"urlPrefix": "http://x", "prioritizeVerb": "p", "weight": weight});
    let mut cluster = cluster(json!([prioritizing(1), prioritizing(3)]));
    cluster.set("pods", pod("p", json!({})));
    assert_eq!(cluster.run(), ["p asked about: prioritize [0, 1] a b"]);
    let scores = |a, b| Ok(vec![("a".to_owned(), a), ("b".to_owned(), b)]);
    assert_eq!(answer(&mut cluster, "p", Answer::Prioritize(vec![scores(10, 0), scores(0, 10)])), ["p on b"]);
    cluster.set("pods", pod("q", json!({})));
    cluster.run();
    let silent = Answer::Prioritize(vec![scores(10, 0), Err("no answer".into())]);
    assert_eq!(answer(&mut cluster, "q", silent), ["q on a"]);
    assert_eq!(cluster.schedule(pod("r", json!({"spec": {"nodeSelector": {"zone": "b"}}}))), Ok("b".into()));
}

#[test]
fn pods_of_no_concern_go_on_while_others_wait_for_their_turn_in_order() {
    let gpu = |name: &str, priority: i64| {
        let resources = json!({"requests": {"example.com/gpu": "1"}});
        pod(name, json!({"spec": {"priority": priority, "containers": [{"name": "c", "resources": resources}]}}))
    };
    let managed = json!([{"name": "example.com/gpu", "ignoredByScheduler": true}]);
    let mut cluster = cluster(json!([{"urlPrefix": "http://x", "filterVerb": "f", "managedResources": managed}]));
    cluster.set("pods", gpu("first", 0));
    assert_eq!(cluster.run(), ["first asked about: filter 0 a b"], "no node shows the resource, and none has to");
    cluster.set("pods", gpu("low", 0));
    cluster.set("pods", pod("plain", json!({"spec": {"nodeSelector": {"zone": "b"}}})));
    assert_eq!(cluster.run(), ["plain on b"]);
    cluster.set("pods", gpu("high", 9));
    assert_eq!(answer(&mut cluster, "first", keep(&["a"])), ["first on a", "high asked about: filter 0 a b"]);
    assert_eq!(answer(&mut cluster, "high", keep(&["a"])), ["high on a", "low asked about: filter 0 a b"]);
}

#[test]
fn an_answer_counts_for_the_cluster_as_it_is_by_then() {
    let mut cluster = cluster(json!([filtering()]));
    cluster.set("pods", sized("p", 1500, json!({})));
    cluster.run();
    cluster.set("pods", sized("bound-elsewhere", 1500, on("a")));
    assert_eq!(answer(&mut cluster, "p", keep(&["a"])), ["p refused", "p asked about: filter 0 b"]);
    cluster.gone("pods", sized("p", 1500, json!({})));
    assert_eq!(answer(&mut cluster, "p", keep(&["b"])), Vec::<String>::new(), "the pod is gone");
    cluster.set("pods", pod("q", json!({})));
    cluster.run();
    cluster.set("pods", pod("q", json!({"metadata": {"labels": {"app": "other"}}})));
    assert_eq!(answer(&mut cluster, "q", keep(&["b"])), ["q asked about: filter 0 a b"], "it is another pod by now");
}

#[test]
fn a_nominated_node_that_an_extender_rejects_leaves_the_others() {
    let mut cluster = cluster(json!([filtering()]));
    cluster.set("pods", pod("p", json!({"status": {"nominatedNodeName": "a"}})));
    assert_eq!(cluster.run(), ["p asked about: filter 0 a"]);
    assert_eq!(answer(&mut cluster, "p", refuse(&[("a", "no")])), ["p asked about: filter 0 a b"]);
    assert_eq!(answer(&mut cluster, "p", keep(&["b"])), ["p on b"]);
}

#[test]
fn an_extender_that_binds_is_handed_the_pod() {
    let mut cluster = cluster(json!([{"urlPrefix": "http://x", "bindVerb": "bind"}]));
    cluster.set("pods", pod("p", json!({"spec": {"nodeSelector": {"zone": "b"}}})));
    assert_eq!(cluster.run(), ["p handed over for b"]);
    cluster.tell(Event::BindFailed { key: key("p"), uid: "p".into(), message: "no".into() });
    cluster.now += 1;
    assert_eq!(cluster.run(), ["p refused", "p handed over for b"]);
}

/// Both nodes are full of less important pods, and a pod that needs room was asked about.
fn crowded(extender: Value) -> Cluster {
    let mut cluster = cluster(json!([extender]));
    cluster.set("pods", sized("on-a", 1500, json!({"spec": {"nodeName": "a", "priority": 0}})));
    cluster.set("pods", sized("on-b", 1500, json!({"spec": {"nodeName": "b", "priority": 1}})));
    cluster.set("pods", sized("p", 1500, json!({"spec": {"priority": 9}})));
    assert_eq!(cluster.run(), ["p asked about: preempt 0 a b"]);
    cluster
}

fn sacrifice(node: &str, uids: &[&str]) -> Answer {
    let uids = uids.iter().map(ToString::to_string).collect();
    Answer::Preempt(Ok(BTreeMap::from([(node.to_owned(), Victims { uids, broken_budgets: 0 })])))
}

#[test]
fn an_extender_has_a_say_in_who_makes_room() {
    let preempting = json!({"urlPrefix": "http://x", "preemptVerb": "preempt"});
    let mut cluster = crowded(preempting.clone());
    assert_eq!(answer(&mut cluster, "p", sacrifice("b", &["on-b"])), ["p refused", "p evicts on-b"]);
    for (said, words) in [
        (
            sacrifice("a", &["who"]),
            "extender: http://x claims to preempt pod (UID: &{who}) on node: a, but the pod is not found on that node",
        ),
        (sacrifice("a", &[]), "expected at least one victim pod on node \"a\""),
        (sacrifice("z", &["on-a"]), "nodeinfo not found for node name \"z\""),
        (Answer::Preempt(Ok(BTreeMap::new())), "no candidate node for preemption"),
        (Answer::Preempt(Err("no route".into())), "no route"),
    ] {
        let mut cluster = crowded(preempting.clone());
        cluster.tell(Event::Answered { key: key("p"), uid: "p".into(), answer: said });
        let (_, message) = failed(cluster.next());
        assert_eq!(message, format!("0/2 nodes are available: 2 Insufficient cpu. preemption: {words}"));
    }
    let mut lenient = crowded(json!({"urlPrefix": "http://x", "preemptVerb": "preempt", "ignorable": true}));
    let silent = Answer::Preempt(Err("no route".into()));
    assert_eq!(answer(&mut lenient, "p", silent), ["p refused", "p evicts on-a"], "the choice is the scheduler's own");
}
