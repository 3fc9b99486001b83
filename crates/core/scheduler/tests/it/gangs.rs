//! Pods of a group are placed together or not at all.

use coracle_meta::Gates;
use coracle_scheduler::queue::Depths;
use coracle_scheduler::{Effect, Event, Reason, Scheduler};
use serde_json::{Value, json};

use crate::cluster::{Cluster, key, merge, node, on, sized};

const WAITING: &str = "pod group is unschedulable, waiting for minCount pods from a gang to be scheduled, one or more \
                       plugins asked to wait and no plugin rejected pod";

/// Two nodes of two CPUs.
fn cluster() -> Cluster {
    let nodes = ["x", "y"].map(|name| ("nodes", node(name, json!({}))));
    Cluster::with(Scheduler::gated("default-scheduler", Gates::GANGS), nodes)
}

fn group(name: &str, least: u32) -> Value {
    let policy = if least > 0 { json!({"gang": {"minCount": least}}) } else { json!({"basic": {}}) };
    json!({"apiVersion": "scheduling.k8s.io/v1alpha2", "kind": "PodGroup",
           "metadata": {"name": name, "namespace": "n"}, "spec": {"schedulingPolicy": policy}})
}

/// A pod of one CPU that belongs to a group.
fn member(name: &str, group: &str, extra: Value) -> Value {
    let mut pod = sized(name, 1000, json!({"spec": {"schedulingGroup": {"podGroupName": group}}}));
    merge(&mut pod, extra);
    pod
}

fn messages(cluster: &mut Cluster) -> Vec<(String, Reason, String, Option<String>)> {
    let told = std::iter::from_fn(|| cluster.next()).filter_map(|effect| match effect {
        Effect::Failed { pod, reason, message, nominate } => {
            Some((pod.key.name.to_string(), reason, message, nominate))
        }
        _ => None,
    });
    told.collect()
}

/// What happened, whichever node a pod goes to.
fn went(cluster: &mut Cluster) -> Vec<String> {
    let without_node = |line: String| match line.split_once(" on ") {
        Some((pod, _)) => format!("{pod} goes"),
        None => line,
    };
    cluster.run().into_iter().map(without_node).collect()
}

fn gated(cluster: &Cluster) -> usize {
    cluster.scheduler.queue().depths().gated
}

#[test]
fn a_gang_waits_for_its_group_and_for_enough_pods_and_goes_as_one() {
    let mut cluster = cluster();
    cluster.set("pods", member("a", "g", json!({})));
    assert_eq!((gated(&cluster), cluster.run()), (1, vec![]), "its group is not there");
    cluster.set("podgroups", group("g", 3));
    cluster.set("pods", member("b", "g", json!({})));
    assert_eq!((gated(&cluster), cluster.run()), (2, vec![]), "there are two of three");
    cluster.set("pods", member("stranger", "h", json!({})));
    assert_eq!(gated(&cluster), 3);
    cluster.set("pods", member("c", "g", json!({})));
    assert_eq!(went(&mut cluster), ["a goes", "b goes", "c goes", "group g goes"]);
    assert_eq!(gated(&cluster), 1);
    cluster.set("pods", member("late", "g", json!({})));
    assert_eq!(went(&mut cluster), ["late goes", "group g goes"], "with those that are placed there are enough");
}

#[test]
fn a_pod_bound_by_somebody_else_counts_and_a_group_that_comes_last_wakes_all() {
    let mut cluster = cluster();
    cluster.set("pods", member("a", "g", json!({})));
    cluster.set("pods", member("b", "g", on("x")));
    assert_eq!(cluster.run(), [""; 0]);
    cluster.set("podgroups", group("g", 2));
    assert_eq!(went(&mut cluster), ["a goes", "group g goes"]);
    let mut other = self::cluster();
    other.set("podgroups", group("g", 2));
    other.set("pods", member("a", "g", json!({})));
    assert_eq!(other.run(), [""; 0]);
    other.set("pods", member("b", "g", on("x")));
    assert_eq!(went(&mut other), ["a goes", "group g goes"]);
}

#[test]
fn a_gang_that_does_not_fit_takes_nothing_and_is_tried_again_by_time_alone() {
    let mut cluster = cluster();
    cluster.set("podgroups", group("g", 5));
    for name in ["a", "b", "c", "d", "e"] {
        cluster.set("pods", member(name, "g", json!({})));
    }
    let no_room = "0/2 nodes are available: 2 Insufficient cpu. no new claims to deallocate, preemption: 0/2 nodes are \
                   available: 2 No preemption victims found for incoming pod.";
    let told: Vec<_> = messages(&mut cluster).into_iter().map(|(name, _, message, _)| (name, message)).collect();
    let expected = [("a", WAITING), ("b", WAITING), ("c", WAITING), ("d", WAITING), ("e", no_room)];
    assert_eq!(told, expected.map(|(name, message)| (name.to_owned(), message.to_owned())));
    let requested = |cluster: &Cluster| -> i64 {
        cluster.scheduler.cluster().nodes().iter().map(|node| node.requested.cpu_milli).sum()
    };
    assert_eq!(requested(&cluster), 0, "nothing stays set aside");
    assert_eq!(cluster.run(), [""; 0], "an idle queue does not make it try again");
    assert_eq!(cluster.scheduler.queue().depths(), Depths { backoff: 5, ..Depths::default() });
    cluster.now += 1;
    assert_eq!(cluster.run().last().map(String::as_str), Some("group g: pod group is unschedulable"));
    cluster.set("nodes", node("z", json!({})));
    cluster.now += 2;
    assert_eq!(went(&mut cluster), ["a goes", "b goes", "c goes", "d goes", "e goes", "group g goes"]);
    assert_eq!(requested(&cluster), 5000);
}

#[test]
fn of_two_gangs_that_fit_one_by_one_only_one_goes_and_it_goes_whole() {
    let mut cluster = cluster();
    for name in ["g", "h"] {
        cluster.set("podgroups", group(name, 3));
    }
    // They come by turns, as two creators that race with each other make them.
    for at in 0..3 {
        for name in ["g", "h"] {
            cluster.set("pods", member(&format!("{name}{at}"), name, json!({})));
        }
    }
    let told = went(&mut cluster);
    assert_eq!(told[..4], ["g0 goes", "g1 goes", "g2 goes", "group g goes"]);
    assert_eq!(told[4..], ["h0 refused", "h1 refused", "h2 refused", "group h: pod group is unschedulable"]);
    for at in 0..3 {
        cluster.gone("pods", member(&format!("g{at}"), "g", json!({})));
    }
    cluster.now += 1;
    assert_eq!(went(&mut cluster), ["h0 goes", "h1 goes", "h2 goes", "group h goes"]);
}

#[test]
fn many_gangs_that_race_for_little_room_all_get_through_one_after_the_other() {
    let mut cluster = cluster();
    let gangs: Vec<String> = (0..6).map(|at| format!("g{at}")).collect();
    for at in 0..4 {
        for name in &gangs {
            cluster.set("pods", member(&format!("{name}-{at}"), name, json!({})));
        }
    }
    gangs.iter().for_each(|name| cluster.set("podgroups", group(name, 4)));
    let mut through = Vec::new();
    for _ in 0..40 {
        let bound: Vec<String> = cluster.run().into_iter().filter(|line| line.contains(" on ")).collect();
        let owner = |line: &String| line.split('-').next().map(str::to_owned);
        if let Some(first) = bound.first().and_then(owner) {
            assert_eq!(bound.len(), 4, "all or nothing: {bound:?}");
            assert!(bound.iter().all(|line| owner(line).as_ref() == Some(&first)), "{bound:?}");
            for at in 0..4 {
                cluster.gone("pods", member(&format!("{first}-{at}"), &first, json!({})));
            }
            through.push(first);
        }
        cluster.now += 10;
    }
    through.sort();
    assert_eq!(through, gangs);
}

#[test]
fn what_fits_of_more_pods_than_needed_goes_and_pods_of_a_basic_group_go_one_by_one() {
    for least in [3, 0] {
        let mut cluster = cluster();
        for name in ["a", "b", "c", "d", "e"] {
            cluster.set("pods", member(name, "g", json!({})));
        }
        cluster.set("podgroups", group("g", least));
        assert_eq!(went(&mut cluster), ["a goes", "b goes", "c goes", "d goes", "e refused", "group g goes"]);
    }
}

#[test]
fn room_is_made_for_a_gang_only_where_all_of_it_gains_by_it() {
    let high = json!({"spec": {"priority": 9}});
    let crowded = |least: u32| {
        let mut cluster = cluster();
        for place in ["x", "y"] {
            cluster.set("pods", sized(&format!("old-{place}"), 1500, on(place)));
        }
        cluster.set("podgroups", group("g", least));
        (0..least).for_each(|at| cluster.set("pods", member(&format!("p{at}"), "g", high.clone())));
        cluster
    };
    let mut hopeless = crowded(5);
    let told = hopeless.run();
    assert!(!told.iter().any(|line| line.contains("evicts")), "{told:?}");
    assert_eq!(told.last().map(String::as_str), Some("group g: pod group is unschedulable"));

    let mut cluster = crowded(3);
    let told = cluster.run();
    let waits = "group g: pod group is unschedulable, pod group is waiting for preemption to complete";
    assert_eq!(told.last().map(String::as_str), Some(waits));
    let evicted = |name: &str| told.iter().filter(|line| line.ends_with(&format!("evicts {name}"))).count();
    assert_eq!((evicted("old-x"), evicted("old-y")), (1, 1), "{told:?}");
    let on_nodes = cluster.scheduler.cluster().pods();
    assert_eq!(on_nodes, 2, "until they are gone, the victims count and the gang does not");
    for at in 0..3 {
        let name = format!("p{at}");
        cluster.tell(Event::Preempted { key: key(&name), uid: name, done: true });
    }
    for place in ["x", "y"] {
        cluster.gone("pods", sized(&format!("old-{place}"), 1500, on(place)));
    }
    cluster.now += 1;
    let told = cluster.run();
    assert_eq!((told.len(), told.last().map(String::as_str)), (4, Some("group g goes")), "{told:?}");
}

#[test]
fn the_more_important_member_is_placed_first_and_a_refused_binding_brings_one_back() {
    let mut cluster = cluster();
    cluster.set("podgroups", group("g", 2));
    cluster.set("pods", member("small", "g", json!({})));
    cluster.set("pods", member("big", "g", json!({"spec": {"priority": 5}})));
    assert_eq!(went(&mut cluster), ["big goes", "small goes", "group g goes"]);
    cluster.tell(Event::BindFailed { key: key("small"), uid: "small".into(), message: "no".into() });
    cluster.now += 1;
    assert_eq!(went(&mut cluster), ["small refused", "small goes", "group g goes"]);
}

#[test]
fn what_cannot_be_told_is_an_error_of_all() {
    let mut gone = cluster();
    gone.set("podgroups", group("g", 2));
    ["a", "b"].iter().for_each(|name| gone.set("pods", member(name, "g", json!({}))));
    gone.gone("podgroups", group("g", 2));
    let not_found = "running Permit plugin \"GangScheduling\": failed to get podGroup n/g: podgroup.scheduling.k8s.io \
                     \"g\" not found";
    let told = messages(&mut gone);
    assert_eq!(
        told,
        [
            ("a".into(), Reason::SchedulerError, not_found.into(), None),
            (
                "b".into(),
                Reason::SchedulerError,
                format!("failed to schedule other pod from a pod group: {not_found}"),
                None
            ),
        ]
    );
    assert_eq!(gated(&gone), 2, "they wait for the group to come back");
    gone.set("podgroups", group("g", 2));
    gone.now += 1;
    assert_eq!(went(&mut gone), ["a goes", "b goes", "group g goes"]);
}

#[test]
fn without_the_gate_nothing_is_known_of_groups() {
    let nodes = ["x"].map(|name| ("nodes", node(name, json!({}))));
    let mut cluster = Cluster::new(nodes);
    assert_eq!(cluster.schedule(member("a", "g", json!({}))), Ok("x".into()));
}

#[test]
fn pods_without_a_group_are_decided_about_as_ever() {
    let mut cluster = cluster();
    cluster.set("podgroups", group("g", 2));
    assert!(cluster.schedule(sized("alone", 2000, json!({}))).is_ok());
    ["a", "b", "c"].iter().for_each(|name| cluster.set("pods", member(name, "g", json!({}))));
    assert_eq!(went(&mut cluster), ["a goes", "b goes", "c refused", "group g goes"]);
}
