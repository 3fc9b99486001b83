//! Deployments, StatefulSets and DaemonSets on their way from one template to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coracle_sim::world::json_of;
use coracle_sim::{Setup, World};
use serde_json::json;

use super::*;

pub async fn deployment(world: Arc<World>) {
    let most = Arc::new(AtomicU64::new(5));
    watch_surge(&world, most.clone());
    make(&world, &DEPLOYMENTS, &workload("Deployment", "web", 4)).await;
    world.until(900, "the first rollout", |world| rolled_out(world, "i:1", 4)).await;
    change(&world, &DEPLOYMENTS, "web", &image("i:2")).await;
    world.pass(world.dice.below(8)).await;
    most.store(8, Ordering::Relaxed);
    change(&world, &DEPLOYMENTS, "web", &json!({"spec": {"replicas": 6}})).await;
    world.until(900, "the second rollout, scaled", |world| rolled_out(world, "i:2", 6)).await;
    // Undo is the old template once more.
    change(&world, &DEPLOYMENTS, "web", &image("i:1")).await;
    world.until(900, "the way back", |world| rolled_out(world, "i:1", 6)).await;
    world.settle(900).await;

    let sets = world.list(&REPLICA_SETS, "default");
    assert_eq!(sets.len(), 2, "undo takes the old set up again: {sets:#?}");
    let deployment = world.see(&DEPLOYMENTS, "default", "web");
    assert_eq!(deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
    assert_eq!((int(&deployment, "/status/replicas"), int(&deployment, "/status/availableReplicas")), (6, 6));
    assert_eq!(world.list(&PODS, "default").len(), 6);
}

/// The sets of a deployment never want more than its replicas and surge, as long as it hears of what it did. How many
/// pods there are may differ for a moment: each set goes its own way to what it wants.
fn watch_surge(world: &Arc<World>, most: Arc<AtomicU64>) {
    if !world.setup.weather.tells_every_write() {
        return;
    }
    let (view, dog) = (world.server.view(), world.watchdog.clone());
    world.watch(REPLICA_SETS, move |_| {
        let sets = view.list(&REPLICA_SETS, Some("default"));
        let wanted: i64 = sets.iter().map(|set| int(&json_of(set), "/spec/replicas")).sum();
        let most = most.load(Ordering::Relaxed);
        if wanted > most as i64 {
            dog.blame(format!("{wanted} pods are wanted, {most} are allowed"));
        }
    });
}

fn rolled_out(world: &World, image: &str, replicas: i64) -> bool {
    let deployment = world.see(&DEPLOYMENTS, "default", "web");
    let told = ["replicas", "updatedReplicas", "availableReplicas"];
    int(&deployment, "/status/observedGeneration") == int(&deployment, "/metadata/generation")
        && told.iter().all(|field| int(&deployment["status"], &format!("/{field}")) == replicas)
        && deployment.pointer("/spec/template/spec/containers/0/image").is_some_and(|now| now == image)
}

async fn stateful(world: Arc<World>) {
    watch_order(&world);
    let mut set = workload("StatefulSet", "db", 3);
    set["spec"]["serviceName"] = json!("db");
    make(&world, &STATEFUL_SETS, &set).await;
    world.until(900, "three members", |world| members(world).len() == 3 && all_ready(world)).await;
    let partition = |at: u64| json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": at}}}});
    change(&world, &STATEFUL_SETS, "db", &partition(1)).await;
    change(&world, &STATEFUL_SETS, "db", &image("i:2")).await;
    let is = |wanted: [&'static str; 3]| {
        move |world: &World| all_ready(world) && members(world).values().map(String::as_str).eq(wanted)
    };
    world.until(900, "an update down to the partition", is(["i:1", "i:2", "i:2"])).await;
    world.pass(30).await;
    assert!(is(["i:1", "i:2", "i:2"])(&world), "below the partition all stays: {:?}", members(&world));
    change(&world, &STATEFUL_SETS, "db", &partition(0)).await;
    world.until(900, "the whole update", is(["i:2", "i:2", "i:2"])).await;
    change(&world, &STATEFUL_SETS, "db", &json!({"spec": {"replicas": 1}})).await;
    world.until(900, "one member", |world| members(world).keys().eq(["db-0"])).await;
    world.settle(900).await;
    let set = world.see(&STATEFUL_SETS, "default", "db");
    assert_eq!((int(&set, "/status/replicas"), int(&set, "/status/readyReplicas")), (1, 1));
    assert_eq!(set["status"]["currentRevision"], set["status"]["updateRevision"]);
}

/// The image by member.
fn members(world: &World) -> BTreeMap<String, String> {
    let pods = world.list(&PODS, "default");
    pods.iter().map(|pod| (text(pod, "/metadata/name").into(), text(pod, "/spec/containers/0/image").into())).collect()
}

fn all_ready(world: &World) -> bool {
    world.list(&PODS, "default").iter().all(|pod| is_ready(pod))
}

/// No member is made before all below it are ready, and none goes before those above it are gone.
fn watch_order(world: &Arc<World>) {
    let (view, dog) = (world.server.view(), world.watchdog.clone());
    let known = std::sync::Mutex::new(BTreeSet::new());
    world.watch(PODS, move |change| {
        let Some(new) = &change.new else { return };
        if !known.lock().unwrap().insert(new.meta.uid.clone()) {
            return;
        }
        let number: u64 = new.meta.name.rsplit('-').next().and_then(|end| end.parse().ok()).unwrap_or(0);
        for below in 0..number {
            let pod = view.get(&PODS, "default", &format!("db-{below}")).map(|pod| json_of(&pod));
            if !pod.as_ref().is_some_and(|pod| is_ready(pod)) {
                dog.blame(format!("{} is made while db-{below} is not ready", new.meta.name));
            }
        }
    });
}

async fn daemons(world: Arc<World>) {
    let mut set = workload("DaemonSet", "agent", 0);
    set["spec"].as_object_mut().unwrap().remove("replicas");
    make(&world, &DAEMON_SETS, &set).await;
    let running = |tag: &'static str, nodes: usize| {
        move |world: &World| {
            let pods = world.list(&PODS, "default");
            let on: BTreeSet<_> = pods.iter().map(|pod| text(pod, "/spec/nodeName")).collect();
            on.len() == nodes
                && pods.len() == nodes
                && pods.iter().all(|pod| is_ready(pod) && pod["spec"]["containers"][0]["image"] == tag)
        }
    };
    world.until(900, "a pod on each node", running("i:1", 3)).await;
    let (view, dog, least) = (world.server.view(), world.watchdog.clone(), Arc::new(AtomicU64::new(2)));
    let bound = least.clone();
    world.watch(PODS, move |_| {
        let ready = view.list(&PODS, Some("default")).iter().filter(|pod| is_ready(&json_of(pod))).count() as u64;
        if ready < bound.load(Ordering::Relaxed) {
            dog.blame(format!("{ready} daemons ready, one may be missing"));
        }
    });
    // What the controller takes for unready goes at once: it must have heard that all are ready.
    world.pass(1 + world.setup.weather.lag_ms_max.div_ceil(1000)).await;
    change(&world, &DAEMON_SETS, "agent", &image("i:2")).await;
    world.until(900, "the new daemons", running("i:2", 3)).await;
    least.store(0, Ordering::Relaxed);
    world.cluster.add_node("node-3").await;
    world.until(900, "a daemon on the new node", running("i:2", 4)).await;
    world.settle(900).await;
    let set = world.see(&DAEMON_SETS, "default", "agent");
    let counts = ["desiredNumberScheduled", "currentNumberScheduled", "numberAvailable", "updatedNumberScheduled"];
    assert!(counts.iter().all(|field| set["status"][field] == 4), "{:#}", set["status"]);
}

#[test]
fn deployments_roll_out_scale_and_come_back() {
    seeds(deployment);
}

#[test]
fn stateful_sets_keep_their_order() {
    seeds(stateful);
}

#[test]
fn daemon_sets_replace_one_after_the_other() {
    seeds_of(|seed| Setup { nodes: 3, ..Setup::of_seed(seed) }, daemons);
}
