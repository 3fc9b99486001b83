//! Jobs whose pods fail, and CronJobs whose clock jumps.

use std::sync::Arc;

use coracle_sim::World;
use jiff::SignedDuration;
use serde_json::json;

use super::*;

const CRON_JOBS: Resource = Resource::new("batch", "cronjobs");

fn job(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["template"] = template(&json!({"run": name}), "i:1");
    spec["template"]["spec"]["restartPolicy"] = json!("Never");
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec})
}

/// Every third pod fails, by its uid.
fn some_fail(pod: &Value) -> Option<i64> {
    let sum: u32 = text(pod, "/metadata/uid").bytes().map(u32::from).sum();
    Some(i64::from(sum.is_multiple_of(3)))
}

async fn failing(world: Arc<World>, mode: &str) {
    world.cluster.exits(some_fail);
    let spec = json!({"completions": 4, "parallelism": 2, "backoffLimit": 50, "completionMode": mode});
    make(&world, &JOBS, &job("work", spec)).await;
    world
        .until(7200, "the job to complete", |world| {
            condition(&world.see(&JOBS, "default", "work"), "Complete") == "True"
        })
        .await;
    world.settle(1200).await;

    let job = world.see(&JOBS, "default", "work");
    let pods = world.list(&PODS, "default");
    let held = pods.iter().filter(|pod| !pod["metadata"]["finalizers"].is_null()).count();
    assert_eq!(held, 0, "finalizers are left: {pods:#?}");
    let ended = world.cluster.ended();
    let failed = ended.values().filter(|(_, code)| *code != 0).count() as i64;
    let succeeded = ended.len() as i64 - failed;
    let counted = (int(&job, "/status/succeeded"), int(&job, "/status/failed"));
    let surplus = !world.setup.weather.tells_every_write() || !world.setup.weather.crashes.is_empty();
    if surplus {
        // A pod too many is deleted, and counts where it ended before.
        assert!(counted.0 >= 4 && counted.0 <= succeeded.max(4), "{counted:?} of {ended:?}");
    } else {
        assert_eq!(counted, (succeeded, failed), "{ended:?}");
    }
    assert!(job["status"]["uncountedTerminatedPods"].as_object().is_none_or(|lists| lists.is_empty()), "{job:#}");
    assert_eq!((int(&job, "/status/active"), int(&job, "/status/terminating")), (0, 0));
    if mode == "Indexed" {
        assert_eq!((counted.0, text(&job, "/status/completedIndexes")), (4, "0-3"));
    }
}

async fn indexed(world: Arc<World>) {
    failing(world, "Indexed").await;
}

async fn counted(world: Arc<World>) {
    failing(world, "NonIndexed").await;
}

async fn jumping(world: Arc<World>) {
    world.cluster.exits(|_| Some(0));
    let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"}, "spec": {
        "schedule": "*/2 * * * *", "successfulJobsHistoryLimit": 2, "concurrencyPolicy": "Forbid",
        "jobTemplate": {"spec": job("", json!({}))["spec"]}}});
    make(&world, &CRON_JOBS, &cron).await;
    let last = |world: &World| text(&world.see(&CRON_JOBS, "default", "tick"), "/status/lastScheduleTime").to_owned();
    world.until(600, "the first job", |world| !last(world).is_empty()).await;
    world.jump(SignedDuration::from_hours(24));
    world.until(600, "a job of the next day", |world| last(world).starts_with("2026-03-03")).await;
    let next_day = last(&world);
    world.jump(SignedDuration::from_hours(-24));
    // Back in the day before, nothing is due before its time comes again.
    world.pass(300).await;
    assert_eq!(last(&world), next_day);
    change(&world, &CRON_JOBS, "tick", &json!({"spec": {"suspend": true}})).await;
    world.settle(900).await;
    let cron = world.see(&CRON_JOBS, "default", "tick");
    assert!(cron["status"]["active"].is_null(), "{:#}", cron["status"]);
    let jobs = world.list(&JOBS, "default");
    assert!(jobs.len() <= 2, "the history is bounded: {}", jobs.len());
}

#[test]
fn indexed_jobs_count_every_pod_once() {
    seeds(indexed);
}

#[test]
fn jobs_count_every_pod_once() {
    seeds(counted);
}

#[test]
fn cron_jobs_survive_a_clock_that_jumps() {
    seeds(jumping);
}
