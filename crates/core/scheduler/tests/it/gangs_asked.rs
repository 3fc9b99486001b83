//! Extenders have their say about the pods of a group one by one, while nothing is held for the group.

use std::collections::BTreeMap;

use coracle_meta::Gates;
use coracle_scheduler::config::Configuration;
use coracle_scheduler::extender::{Answer, Filtered, Victims};
use coracle_scheduler::{Effect, Event, Reason};
use serde_json::{Value, json};

use crate::cluster::{Cluster, key, merge, node, on, pod, sized};

/// Nodes `a` and `b` of two CPUs, these extenders, and a gang `g` of so many pods `p0`, `p1`… of one CPU.
fn gang(extenders: Value, least: u32, extra: Value) -> Cluster {
    let config = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration", "extenders": extenders,
    });
    let scheduler = Configuration::read(config).and_then(|read| read.scheduler(Gates::GANGS)).expect("a configuration");
    let mut cluster = Cluster::with(scheduler, ["a", "b"].map(|name| ("nodes", node(name, json!({})))));
    cluster.set("podgroups", group(least));
    (0..least).for_each(|at| cluster.set("pods", member(&format!("p{at}"), extra.clone())));
    cluster
}

fn group(least: u32) -> Value {
    json!({"apiVersion": "scheduling.k8s.io/v1alpha2", "kind": "PodGroup", "metadata": {"name": "g", "namespace": "n"},
           "spec": {"schedulingPolicy": {"gang": {"minCount": least}}}})
}

fn member(name: &str, extra: Value) -> Value {
    let mut pod = sized(name, 1000, json!({"spec": {"schedulingGroup": {"podGroupName": "g"}}}));
    merge(&mut pod, extra);
    pod
}

fn filtering() -> Value {
    json!([{"urlPrefix": "http://x", "filterVerb": "filter"}])
}

fn tell(cluster: &mut Cluster, name: &str, answer: Answer) {
    cluster.tell(Event::Answered { key: key(name), uid: name.into(), answer });
}

fn answer(cluster: &mut Cluster, name: &str, answer: Answer) -> Vec<String> {
    tell(cluster, name, answer);
    cluster.run()
}

fn keep(names: &[&str]) -> Answer {
    Answer::Filter(Ok(Filtered { kept: names.iter().map(ToString::to_string).collect(), ..Filtered::default() }))
}

fn refuse(names: &[&str]) -> Answer {
    let failed = names.iter().map(|name| (name.to_string(), "no licence".to_owned())).collect();
    Answer::Filter(Ok(Filtered { failed, ..Filtered::default() }))
}

fn sacrifice(node: &str, uid: &str) -> Answer {
    Answer::Preempt(Ok(BTreeMap::from([(node.to_owned(), Victims { uids: vec![uid.into()], broken_budgets: 0 })])))
}

fn requested(cluster: &Cluster) -> i64 {
    cluster.scheduler.cluster().nodes().iter().map(|node| node.requested.cpu_milli).sum()
}

#[test]
fn each_member_is_asked_about_as_if_those_before_it_had_their_nodes_and_nothing_is_held_meanwhile() {
    let mut cluster = gang(filtering(), 3, json!({}));
    assert_eq!(cluster.run(), ["p0 asked about: filter 0 a b"]);
    assert_eq!(answer(&mut cluster, "p0", keep(&["a"])), ["p1 asked about: filter 0 a b"]);
    assert_eq!(requested(&cluster), 0);
    assert_eq!(answer(&mut cluster, "p1", keep(&["a"])), ["p2 asked about: filter 0 b"], "node a would be full");
    assert_eq!(requested(&cluster), 0);
    assert_eq!(answer(&mut cluster, "p2", keep(&["b"])), ["p0 on a", "p1 on a", "p2 on b", "group g goes"]);
    assert_eq!(requested(&cluster), 3000);
}

#[test]
fn a_gang_of_which_an_extender_refuses_too_many_does_not_go() {
    let mut cluster = gang(filtering(), 2, json!({}));
    cluster.run();
    answer(&mut cluster, "p0", keep(&["a"]));
    tell(&mut cluster, "p1", refuse(&["a", "b"]));
    let told = std::iter::from_fn(|| cluster.next()).map(|effect| match effect {
        Effect::Failed { pod, message, .. } => format!("{}: {message}", pod.key.name),
        Effect::Group { outcome, .. } => format!("{outcome:?}"),
        other => panic!("{other:?}"),
    });
    let told: Vec<String> = told.collect();
    assert!(told[0].starts_with("p0: pod group is unschedulable, waiting for minCount"), "{told:?}");
    assert!(told[1].starts_with("p1: 0/2 nodes are available: 2 no licence."), "{told:?}");
    assert!(told[2].contains("pod group is unschedulable"), "{told:?}");
    assert_eq!(requested(&cluster), 0);
    cluster.now += 1;
    assert_eq!(cluster.run(), ["p0 asked about: filter 0 a b"], "it is tried again after its back-off");
}

#[test]
fn an_extender_that_fails_fails_the_whole_group() {
    let error = || Answer::Filter(Err("out of order".into()));
    let mut cluster = gang(filtering(), 3, json!({}));
    cluster.run();
    answer(&mut cluster, "p0", keep(&["a"]));
    tell(&mut cluster, "p1", error());
    for (name, words) in [
        ("p0", "failed to schedule other pod from a pod group: out of order"),
        ("p1", "out of order"),
        ("p2", "failed to schedule other pod from a pod group: out of order"),
    ] {
        let Some(Effect::Failed { pod, reason, message, .. }) = cluster.next() else { panic!("{name} fails") };
        assert_eq!((&*pod.key.name, reason, message.as_str()), (name, Reason::SchedulerError, words));
    }
    assert_eq!(cluster.run(), ["group g: failed to schedule other pod from a pod group: out of order"]);

    let mut lenient = gang(json!([{"urlPrefix": "http://x", "filterVerb": "f", "ignorable": true}]), 1, json!({}));
    lenient.run();
    tell(&mut lenient, "p0", error());
    assert_eq!(lenient.run().last().map(String::as_str), Some("group g goes"));
}

#[test]
fn scores_count_for_members_and_an_extender_binds_them() {
    let extenders = json!([{"urlPrefix": "http://x", "prioritizeVerb": "p", "weight": 9, "bindVerb": "b"}]);
    let mut cluster = gang(extenders, 2, json!({}));
    let scores = || Answer::Prioritize(vec![Ok(vec![("a".to_owned(), 0), ("b".to_owned(), 10)])]);
    assert_eq!(cluster.run(), ["p0 asked about: prioritize [0] a b"]);
    assert_eq!(answer(&mut cluster, "p0", scores()), ["p1 asked about: prioritize [0] a b"]);
    let told = answer(&mut cluster, "p1", scores());
    assert_eq!(told, ["p0 handed over for b", "p1 handed over for b", "group g goes"]);
}

#[test]
fn others_are_decided_about_meanwhile_and_may_take_the_place_of_a_member() {
    let gpu = json!({"spec": {"containers": [
        {"name": "c", "resources": {"requests": {"cpu": "1", "example.com/gpu": "1"}}}]}});
    let managed = json!([{"name": "example.com/gpu", "ignoredByScheduler": true}]);
    let extenders = json!([{"urlPrefix": "http://x", "filterVerb": "f", "managedResources": managed}]);
    let mut cluster = gang(extenders, 2, gpu.clone());
    assert_eq!(cluster.run(), ["p0 asked about: filter 0 a b"]);
    assert_eq!(answer(&mut cluster, "p0", keep(&["a"])), ["p1 asked about: filter 0 a b"]);
    cluster.set("pods", sized("plain", 1500, json!({"spec": {"nodeSelector": {"zone": "a"}}})));
    cluster.set("pods", pod("asking", json!({"spec": gpu["spec"]})));
    assert_eq!(cluster.run(), ["plain on a"], "the other that is of an extender's concern waits for its turn");
    assert_eq!(answer(&mut cluster, "p1", keep(&["b"])), ["p0 asked about: filter 0 b"], "its place was taken");
    assert_eq!(answer(&mut cluster, "p0", keep(&["b"])), ["p1 asked about: filter 0 b"]);
    let told = answer(&mut cluster, "p1", keep(&["b"]));
    assert_eq!(told[..3], ["p0 on b", "p1 on b", "group g goes"]);
}

#[test]
fn members_that_go_change_or_come_meanwhile_count_as_they_are() {
    let mut cluster = gang(filtering(), 2, json!({}));
    cluster.set("pods", member("p2", json!({})));
    cluster.run();
    answer(&mut cluster, "p0", keep(&["a"]));
    cluster.gone("pods", member("p0", json!({})));
    assert_eq!(answer(&mut cluster, "p1", keep(&["b"])), ["p2 asked about: filter 0 a b"]);
    let changed = member("p1", json!({"metadata": {"labels": {"app": "other"}}}));
    cluster.set("pods", changed);
    assert_eq!(answer(&mut cluster, "p2", keep(&["b"])), ["p1 asked about: filter 0 a b"], "it is another pod by now");
    cluster.set("pods", member("late", json!({})));
    assert!(cluster.run().is_empty(), "who comes late waits until the group was tried");
    assert_eq!(answer(&mut cluster, "p1", keep(&["b"])), ["p2 asked about: filter 0 a b"]);
    let told = answer(&mut cluster, "p2", keep(&["b"]));
    assert_eq!(told, ["p1 on b", "p2 on b", "group g goes", "late asked about: filter 0 a"]);
    cluster.gone("pods", member("late", json!({})));
    assert!(answer(&mut cluster, "late", keep(&["a"])).is_empty(), "nobody is left");
}

#[test]
fn a_member_that_an_extender_waits_for_and_that_is_gone_ends_the_question() {
    let mut cluster = gang(filtering(), 2, json!({}));
    cluster.run();
    cluster.gone("pods", member("p0", json!({})));
    assert_eq!(answer(&mut cluster, "p0", keep(&["a"])), ["p1 asked about: filter 0 a b"]);
    let told = answer(&mut cluster, "p1", keep(&["a"]));
    assert_eq!(told, ["p1 refused", "group g: pod group is unschedulable"]);
}

#[test]
fn extenders_have_a_say_in_who_makes_room_for_a_gang() {
    let high = json!({"spec": {"priority": 9}});
    let extenders = json!([{"urlPrefix": "http://x", "preemptVerb": "preempt"}]);
    let crowded = || {
        let mut cluster = gang(extenders.clone(), 2, high.clone());
        for place in ["a", "b"] {
            cluster.set("pods", sized(&format!("old-{place}"), 2000, on(place)));
        }
        assert_eq!(cluster.run(), ["p0 asked about: preempt 0 a b"]);
        cluster
    };
    let mut cluster = crowded();
    let told = answer(&mut cluster, "p0", sacrifice("b", "old-b"));
    assert_eq!(
        told,
        [
            "p0 refused",
            "p0 evicts old-b",
            "p1 refused",
            "group g: pod group is unschedulable, pod group is waiting for preemption to complete"
        ],
        "both have room on b"
    );
    assert_eq!(cluster.scheduler.cluster().pods(), 2, "until they are gone, the victims count and the gang does not");

    let mut cluster = crowded();
    cluster.gone("pods", sized("old-b", 2000, on("b")));
    let told = answer(&mut cluster, "p0", sacrifice("b", "old-b"));
    assert_eq!(told.last().map(String::as_str), Some("group g: pod group is unschedulable"), "{told:?}");
    cluster.now += 1;
    let told = cluster.run();
    assert_eq!(told, ["p0 on b", "p1 on b", "group g goes"]);
}
