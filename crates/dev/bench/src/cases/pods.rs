//! From the create of a pod to the event that says it runs, as a watcher sees both: one at a time, and many at once.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use serde_json::Value;

use super::start::pod;
use crate::processes;
use crate::table::{Row, Samples};
use crate::target::{Target, until};

const RUNNING_MAX: Duration = Duration::from_secs(60);
const TURNS: usize = 20;
const TOGETHER: usize = 50;

/// `pids` finds our processes, for the memory that pods cost.
pub async fn measure(target: &Target, pids: impl Fn() -> Vec<u32>) -> Result<Vec<Row>> {
    let mut turns = Samples::default();
    for turn in 0..TURNS {
        turns.0.push(one(target, &format!("turn-{turn}")).await.context("one pod at a time")?);
    }
    let before = processes::pss_mb(&pids());
    let (first, last) = many(target).await.context("many pods at once")?;
    let each = (processes::pss_mb(&pids()) - before) / TOGETHER as f64;
    clear(target).await?;
    let at = |share| turns.quantile(share).into_iter().collect();
    Ok(vec![
        Row::new(format!("pod create→Running, one at a time, p50 of {TURNS}"), "ms", "100").ours(at(0.5)),
        Row::new(format!("pod create→Running, one at a time, p99 of {TURNS}"), "ms", "").ours(at(0.99)),
        Row::new(format!("{TOGETHER} pods at once, first Running"), "ms", "").ours(vec![first]),
        Row::new(format!("{TOGETHER} pods at once, all Running"), "ms", "").ours(vec![last]),
        Row::new("memory per pod on the node", "MB PSS", "0.15").ours(vec![each]),
    ])
}

async fn one(target: &Target, name: &str) -> Result<f64> {
    let mut stream = target.watch_pods().await?;
    let began = Instant::now();
    target.create(&target.path("pods"), &pod(name)).await?;
    while !runs(&stream.next(began + RUNNING_MAX).await?, name) {}
    let seen = began.elapsed().as_secs_f64() * 1e3;
    clear(target).await?;
    Ok(seen)
}

fn runs(pod: &Value, name: &str) -> bool {
    pod["metadata"]["name"] == name && pod["status"]["phase"] == "Running"
}

/// Milliseconds until the first and until the last one runs.
async fn many(target: &Target) -> Result<(f64, f64)> {
    let mut stream = target.watch_pods().await?;
    let (path, began) = (target.path("pods"), Instant::now());
    let pods: Vec<_> = (0..TOGETHER).map(|index| pod(&format!("many-{index}"))).collect();
    try_join_all(pods.iter().map(|pod| target.create(&path, pod))).await?;
    let (mut running, mut first) = (HashSet::new(), 0.0);
    while running.len() < TOGETHER {
        let pod = stream.next(began + RUNNING_MAX).await?;
        if pod["status"]["phase"] == "Running"
            && running.insert(pod["metadata"]["name"].to_string())
            && running.len() == 1
        {
            first = began.elapsed().as_secs_f64() * 1e3;
        }
    }
    Ok((first, began.elapsed().as_secs_f64() * 1e3))
}

/// Takes all pods of the namespace away and waits until they are gone.
pub async fn clear(target: &Target) -> Result<()> {
    let path = target.path("pods");
    target.delete(&path).await?;
    until("removing pods", RUNNING_MAX, async || {
        let listed = target.get(&path).await?;
        Ok(listed["items"].as_array().is_none_or(Vec::is_empty).then_some(()))
    })
    .await
}
