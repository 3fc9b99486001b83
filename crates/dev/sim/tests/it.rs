//! Every controller in bad weather: scenarios over ranges of seeds. Each ends at rest, with no controller wanting
//! anything more, and with nothing seen on the way that must never be.

#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

use std::future::Future;
use std::sync::Arc;

use coracle_meta::Resource;
use coracle_sim::{Setup, World, run};
use serde_json::{Value, json};

#[path = "it/batch.rs"]
mod batch;
#[path = "it/cluster.rs"]
mod cluster;
#[path = "it/ends.rs"]
mod ends;
#[path = "it/rollouts.rs"]
mod rollouts;
#[path = "it/storage.rs"]
mod storage;
#[path = "it/trouble.rs"]
mod trouble;

const PODS: Resource = Resource::new("", "pods");
const DEPLOYMENTS: Resource = Resource::new("apps", "deployments");
const REPLICA_SETS: Resource = Resource::new("apps", "replicasets");
const STATEFUL_SETS: Resource = Resource::new("apps", "statefulsets");
const DAEMON_SETS: Resource = Resource::new("apps", "daemonsets");
const JOBS: Resource = Resource::new("batch", "jobs");

/// Seeds of each scenario: about a minute for all of them, unoptimised on two cores.
const SEEDS: u64 = 5;

/// Runs a scenario for seeds from 0 on. `SIM_SEED` picks one instead, `SIM_SEEDS` another number of them.
fn seeds<R: Future<Output = ()>>(scenario: impl Fn(Arc<World>) -> R) {
    seeds_of(Setup::of_seed, scenario);
}

fn seeds_of<R: Future<Output = ()>>(setup: impl Fn(u64) -> Setup, scenario: impl Fn(Arc<World>) -> R) {
    let given = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let range = match given("SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..given("SIM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in range {
        run(setup(seed), &scenario);
    }
}

fn template(labels: &Value, image: &str) -> Value {
    json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn workload(kind: &str, name: &str, replicas: u64) -> Value {
    let labels = json!({"app": name});
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": labels}, "template": template(&labels, "i:1")}})
}

fn image(tag: &str) -> Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": tag}]}}}})
}

fn path(resource: &Resource, namespace: &str) -> String {
    let root = match resource.group.as_ref() {
        "" => "/api/v1".to_owned(),
        "autoscaling" => "/apis/autoscaling/v2".to_owned(),
        group => format!("/apis/{group}/v1"),
    };
    match namespace {
        "" => format!("{root}/{}", resource.plural),
        _ => format!("{root}/namespaces/{namespace}/{}", resource.plural),
    }
}

fn one(resource: &Resource, namespace: &str, name: &str) -> String {
    format!("{}/{name}", path(resource, namespace))
}

fn int(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    pod["metadata"]["deletionTimestamp"].is_null()
        && conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.into_iter().find(|one| one["type"] == kind);
    found.map_or("", |one| text(one, "/status"))
}

async fn make(world: &World, resource: &Resource, object: &Value) {
    world.ok("POST", &path(resource, "default"), object).await;
}

async fn change(world: &World, resource: &Resource, name: &str, patch: &Value) {
    world.ok("PATCH", &one(resource, "default", name), patch).await;
}

#[test]
fn a_seed_run_twice_gives_the_same_trace() {
    for seed in [0, 3, 7] {
        let once = run(Setup::of_seed(seed), rollouts::deployment);
        let again = run(Setup::of_seed(seed), rollouts::deployment);
        assert!(once.len() > 50, "seed {seed}: only {} lines", once.len());
        let differs = once.iter().zip(&again).position(|(left, right)| left != right);
        assert_eq!(differs.map(|at| (&once[at], &again[at])), None, "seed {seed}");
        assert_eq!(once.len(), again.len(), "seed {seed}");
    }
}
