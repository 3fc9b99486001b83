//! Trouble: hands behind a controller's back, owners that vanish, selectors that overlap, quotas that refuse, schedules
//! that make no sense. What can be mended is; what cannot is told, and nothing runs hot over it.

use std::sync::Arc;

use coracle_sim::{Hook, World};
use serde_json::json;

use super::*;

const CRON_JOBS: Resource = Resource::new("batch", "cronjobs");

async fn meddled(world: Arc<World>) {
    make(&world, &DEPLOYMENTS, &workload("Deployment", "web", 3)).await;
    for _ in 0..6 {
        world.pass(1 + world.dice.below(15)).await;
        let pods = world.list(&PODS, "default");
        let sets = world.list(&REPLICA_SETS, "default");
        let (Some(pod), Some(set)) = (pods.first(), sets.first()) else { continue };
        let (pod, set) = (text(pod, "/metadata/name"), text(set, "/metadata/name"));
        let (method, path, body) = match world.dice.below(5) {
            0 => ("DELETE", one(&PODS, "default", pod), json!({"gracePeriodSeconds": 0})),
            1 => ("PATCH", one(&PODS, "default", pod), json!({"metadata": {"labels": {"app": "stolen"}}})),
            2 => ("PATCH", one(&REPLICA_SETS, "default", set), json!({"spec": {"replicas": 7}})),
            3 => ("DELETE", one(&REPLICA_SETS, "default", set), Value::Null),
            _ => ("PATCH", one(&PODS, "default", pod), json!({"metadata": {"ownerReferences": null}})),
        };
        world.call(method, &path, &body).await;
    }
    world.settle(1800).await;
    let pods = world.list(&PODS, "default");
    let own = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == "web").count();
    assert_eq!(own, 3, "{pods:#?}");
    let deployment = world.see(&DEPLOYMENTS, "default", "web");
    assert_eq!(int(&deployment, "/status/availableReplicas"), 3);
}

async fn vanished(world: Arc<World>) {
    make(
        &world,
        &JOBS,
        &json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}),
    )
    .await;
    make(&world, &STATEFUL_SETS, &workload("StatefulSet", "s", 2)).await;
    make(&world, &DEPLOYMENTS, &workload("Deployment", "d", 2)).await;
    world.pass(world.dice.below(12)).await;
    let background = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
    for (resource, name) in [(&JOBS, "j"), (&STATEFUL_SETS, "s"), (&DEPLOYMENTS, "d")] {
        world.ok("DELETE", &one(resource, "default", name), &background).await;
    }
    // Another of the same name, before the first one's traces are gone.
    make(&world, &DEPLOYMENTS, &workload("Deployment", "d", 1)).await;
    world.settle(1800).await;
    let pods = world.list(&PODS, "default");
    assert!(pods.len() == 1 && text(&pods[0], "/metadata/name").starts_with("d-"), "{pods:#?}");
}

async fn overlapping(world: Arc<World>) {
    let (mut one_set, mut other) = (workload("ReplicaSet", "one", 2), workload("ReplicaSet", "two", 2));
    for set in [&mut one_set, &mut other] {
        set["spec"]["selector"] = json!({"matchLabels": {"app": "shared"}});
        set["spec"]["template"]["metadata"]["labels"] = json!({"app": "shared"});
    }
    let bare = json!({"metadata": {"name": "bare", "labels": {"app": "shared"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    world
        .until(300, "an account", |world| !world.list(&Resource::new("", "serviceaccounts"), "default").is_empty())
        .await;
    make(&world, &PODS, &bare).await;
    make(&world, &REPLICA_SETS, &one_set).await;
    make(&world, &REPLICA_SETS, &other).await;
    world.settle(1800).await;
    let pods = world.list(&PODS, "default");
    assert_eq!(pods.len(), 4, "each keeps to its own: {pods:#?}");
    for name in ["one", "two"] {
        let owned = pods.iter().filter(|pod| pod["metadata"]["ownerReferences"][0]["name"] == name).count();
        assert_eq!(owned, 2, "{name}");
    }
}

async fn refused(world: Arc<World>) {
    let quota = json!({"metadata": {"name": "tight"}, "spec": {"hard": {"pods": "2"}}});
    let quotas = Resource::new("", "resourcequotas");
    make(&world, &quotas, &quota).await;
    world
        .until(300, "the quota to count", |world| !world.see(&quotas, "default", "tight")["status"]["used"].is_null())
        .await;
    make(&world, &DEPLOYMENTS, &workload("Deployment", "web", 5)).await;
    world.until(900, "two pods", |world| world.list(&PODS, "default").len() == 2).await;
    world.watchdog.clear_up();
    let before = world.watchdog.writes();
    world.pass(600).await;
    let tried = world.watchdog.writes() - before;
    assert!(tried < 60, "{tried} writes in ten minutes against a quota that is used up");
    let set = world.list(&REPLICA_SETS, "default")[0].clone();
    let told = world.events("default", text(&set, "/metadata/name"));
    assert!(told.iter().any(|(reason, _)| reason == "FailedCreate"), "{told:?}");
    assert_eq!(condition(&set, "ReplicaFailure"), "True");
    assert_eq!(condition(&world.see(&DEPLOYMENTS, "default", "web"), "ReplicaFailure"), "True");
    world.ok("PATCH", &one(&quotas, "default", "tight"), &json!({"spec": {"hard": {"pods": "9"}}})).await;
    world.until(1800, "all five", |world| world.list(&PODS, "default").len() == 5).await;
    world.settle(900).await;
}

/// What is to have pods: kind, name, and the name under which it hears that it cannot.
const WORKLOADS: [(&str, &Resource, &str); 4] = [
    ("Deployment", &DEPLOYMENTS, "web"),
    ("StatefulSet", &STATEFUL_SETS, "kept"),
    ("DaemonSet", &DAEMON_SETS, "each"),
    ("Job", &JOBS, "work"),
];

async fn hooked(world: Arc<World>, hook: Hook) {
    world.watchdog.register(Some(hook));
    for (kind, resource, name) in WORKLOADS {
        let mut object = workload(kind, name, 2);
        if kind == "Job" {
            object = json!({"apiVersion": "batch/v1", "kind": kind, "metadata": {"name": name}, "spec": {"completions": 2,
                "parallelism": 2, "template": template(&json!({"run": name}), "i:1")}});
            object["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
        }
        if kind == "DaemonSet" {
            object["spec"].as_object_mut().unwrap().remove("replicas");
        }
        make(&world, resource, &object).await;
    }
    let told = |world: &World, name: &str| -> u64 {
        let set = world.list(&REPLICA_SETS, "default").first().map(|set| text(set, "/metadata/name").to_owned());
        let name = if name == "web" { set.unwrap_or_default() } else { name.to_owned() };
        let events = world.events("default", &name);
        events.iter().filter(|(reason, _)| reason == "FailedCreate").map(|(_, count)| count).sum()
    };
    for (_, _, name) in WORKLOADS {
        world.until(900, "word of what fails", |world| told(world, name) > 0).await;
    }
    world.watchdog.clear_up();
    world.pass(60).await;
    let (writes, decided) = (world.watchdog.writes(), world.watchdog.reconciles());
    world.pass(900).await;
    let tried = world.watchdog.writes() - writes;
    assert!((1..60).contains(&tried), "{tried} writes in a quarter of an hour against a webhook that fails");
    let ends = ["deployment", "replicaset", "statefulset", "daemonset", "job"].map(|name| format!("{name}-controller"));
    for (name, count) in world.watchdog.reconciles().into_iter().filter(|(name, _)| ends.contains(&(*name).to_owned()))
    {
        let more = count - decided.get(name).copied().unwrap_or(0);
        assert!(more < 60, "{name} decided {more} times in a quarter of an hour");
    }
    assert_eq!(world.list(&PODS, "default").len(), 0);
    assert_eq!(condition(&world.see(&DEPLOYMENTS, "default", "web"), "ReplicaFailure"), "True");
    world.cluster.exits(|pod| pod["metadata"]["labels"]["run"].as_str().map(|_| 0));
    world.watchdog.register(None);
    world
        .until(2400, "every pod", |world| {
            let pods = world.list(&PODS, "default");
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            ready == 6 && condition(&world.see(&JOBS, "default", "work"), "Complete") == "True"
        })
        .await;
    world.settle(1800).await;
    assert_eq!(int(&world.see(&JOBS, "default", "work"), "/status/failed"), 0, "no pod of its own failed");
    assert_eq!(condition(&world.see(&DEPLOYMENTS, "default", "web"), "ReplicaFailure"), "");
}

async fn absurd(world: Arc<World>) {
    let cron = |name: &str, schedule: &str, more: Value| {
        let mut cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name}, "spec": {
            "schedule": schedule, "concurrencyPolicy": "Forbid", "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "c", "image": "i"}]}}}}}});
        cron["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        cron
    };
    make(&world, &CRON_JOBS, &cron("never", "0 0 30 2 *", json!({}))).await;
    make(&world, &CRON_JOBS, &cron("late", "* * * * *", json!({"suspend": true}))).await;
    make(&world, &CRON_JOBS, &cron("soon", "* * * * *", json!({"suspend": true, "startingDeadlineSeconds": 20}))).await;
    world.pass(30).await;
    // A hundred minutes and more go by while nothing may start.
    world.jump(jiff::SignedDuration::from_hours(3));
    change(&world, &CRON_JOBS, "late", &json!({"spec": {"suspend": false}})).await;
    change(&world, &CRON_JOBS, "soon", &json!({"spec": {"suspend": false}})).await;
    world.until(300, "one job each", |world| world.list(&JOBS, "default").len() == 2).await;
    for name in ["late", "soon"] {
        change(&world, &CRON_JOBS, name, &json!({"spec": {"suspend": true}})).await;
    }
    let before = world.watchdog.reconciles().get("cronjob-controller").copied().unwrap_or(0);
    world.watchdog.clear_up();
    world.pass(3600).await;
    let decided = world.watchdog.reconciles().get("cronjob-controller").copied().unwrap_or(0) - before;
    assert!(decided < 60, "{decided} decisions in an hour about schedules that are off or never come");
    world.settle(900).await;
    let has = |name: &str, reason: &str| world.events("default", name).iter().any(|(told, _)| told == reason);
    assert!(
        has("never", "InvalidSchedule") || has("never", "UnparseableSchedule"),
        "{:?}",
        world.events("default", "never")
    );
    // An event dies with the process that has not recorded it yet.
    let told = has("late", "TooManyMissedTimes") || !world.setup.weather.crashes.is_empty();
    assert!(told, "{:?}", world.events("default", "late"));
    assert!(!has("soon", "TooManyMissedTimes"), "{:?}", world.events("default", "soon"));
}

async fn leapt(world: Arc<World>) {
    let hour = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "seldom"}, "spec": {
        "schedule": "0 0 * * *", "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "i"}]}}}}}});
    make(&world, &CRON_JOBS, &hour).await;
    make(&world, &DEPLOYMENTS, &workload("Deployment", "web", 2)).await;
    world
        .until(900, "pods", |world| world.list(&PODS, "default").iter().filter(|pod| is_ready(pod)).count() == 2)
        .await;
    let uids = |world: &World| -> Vec<String> {
        let pods = world.list(&PODS, "default");
        let own = pods.iter().filter(|pod| text(pod, "/metadata/name").starts_with("web-"));
        own.map(|pod| text(pod, "/metadata/uid").to_owned()).collect()
    };
    let before = uids(&world);
    world.jump(jiff::SignedDuration::from_hours(25));
    world.until(300, "the job of the day that was leapt over", |world| world.list(&JOBS, "default").len() == 1).await;
    world.jump(jiff::SignedDuration::from_hours(-25));
    world.pass(600).await;
    assert_eq!(world.list(&JOBS, "default").len(), 1, "not once more");
    assert_eq!(uids(&world), before, "no node was taken for silent");
    for node in world.list(&Resource::new("", "nodes"), "") {
        assert!(node["spec"]["taints"].is_null(), "{node:#}");
    }
}

#[test]
fn a_time_of_day_that_leaps_loses_no_job_and_drives_nobody_out() {
    seeds(leapt);
}

#[test]
fn hands_behind_a_deployments_back_change_nothing() {
    seeds(meddled);
}

#[test]
fn owners_that_vanish_take_theirs_along() {
    seeds(vanished);
}

#[test]
fn sets_with_the_same_selector_keep_to_their_own() {
    seeds(overlapping);
}

#[test]
fn a_quota_that_is_used_up_is_told_and_not_hammered() {
    seeds(refused);
}

#[test]
fn a_webhook_that_denies_is_told_and_not_hammered() {
    seeds(|world| hooked(world, Hook::Denies));
}

#[test]
fn a_webhook_that_does_not_answer_is_told_and_not_hammered() {
    seeds(|world| hooked(world, Hook::TimesOut));
}

#[test]
fn absurd_schedules_are_told_and_cost_nothing() {
    seeds(absurd);
}
