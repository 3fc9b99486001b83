//! Pods bound a second on 1,000 nodes that no kubelet serves, each binding durable. The pods are there before anything
//! schedules: of ours the API server runs alone until they are made, and then the whole starts on the same data; of a
//! peer the scheduler is a command that is started then. A watch tells the time from the first binding to the last.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::start::{Started, ready};
use crate::cluster::{Cores, Parts, terminate};
use crate::load::Next;
use crate::processes;
use crate::table::Row;
use crate::target::{PodWatch, Target};

const NODES: u64 = 1000;
const PODS: u64 = 3000;
const CONNECTIONS: usize = 64;
const FIRST_MAX: Duration = Duration::from_secs(60);
const ALL_MAX: Duration = Duration::from_secs(120);
const LABEL: &str = "coracle-bench";

/// A peer and the command that starts its scheduler.
pub struct Peer<'a> {
    pub target: &'a Target,
    pub scheduler: &'a [String],
    pub cores: Cores,
}

/// The peer stays empty where its scheduler is not given.
pub async fn measure(ours: &mut Started, peer: Option<Peer<'_>>, runs: usize) -> Result<Vec<Row>> {
    let title = format!("pods scheduled on {NODES} nodes, {PODS} pods");
    let mut rates = Row::new(title, "1/s", "15× the peer");
    let mut cpu = Row::new("pods scheduled, CPU of all servers each", "ms", "");
    for _ in 0..runs {
        let bound = scheduled(&mut Side::Ours(ours)).await.context("Coracle")?;
        rates.ours.0.push(bound.per_second);
        cpu.ours.0.push(bound.cpu_milliseconds);
        let Some(peer) = &peer else { continue };
        let bound = scheduled(&mut Side::Peer(peer, None)).await.context("the peer")?;
        rates.peer.0.push(bound.per_second);
        cpu.peer.0.push(bound.cpu_milliseconds);
    }
    Ok(vec![rates, cpu])
}

struct Bound {
    per_second: f64,
    /// Per pod; of the peer as far as its processes are known.
    cpu_milliseconds: f64,
}

enum Side<'a> {
    Ours(&'a mut Started),
    /// With its scheduler while that runs.
    Peer(&'a Peer<'a>, Option<Child>),
}

impl Side<'_> {
    fn target(&self) -> &Target {
        match self {
            Side::Ours(started) => &started.target,
            Side::Peer(peer, _) => peer.target,
        }
    }

    /// From now on nobody schedules.
    async fn hold(&mut self) -> Result<()> {
        match self {
            Side::Ours(started) => restart(started, Parts::ApiServer).await,
            Side::Peer(_, scheduler) => scheduler.take().as_mut().map_or(Ok(()), terminate),
        }
    }

    /// From now on everything is scheduled.
    async fn release(&mut self) -> Result<()> {
        match self {
            Side::Ours(started) => restart(started, Parts::All).await,
            Side::Peer(peer, scheduler) => {
                let (program, arguments) = peer.scheduler.split_first().context("no command of a scheduler")?;
                let mut command = peer.cores.command(Path::new(program));
                command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                *scheduler = Some(command.spawn().with_context(|| format!("starting {program}"))?);
                Ok(())
            }
        }
    }

    fn cpu_seconds(&self) -> f64 {
        let pids = match self {
            Side::Ours(started) => processes::of_program(started.cluster.binary()),
            Side::Peer(peer, scheduler) => {
                let scheduler = scheduler.iter().map(Child::id);
                peer.target.pids.iter().copied().chain(scheduler).collect()
            }
        };
        processes::cpu_seconds(&pids)
    }
}

async fn restart(started: &mut Started, parts: Parts) -> Result<()> {
    started.cluster.change(parts)?;
    let endpoint = started.target.endpoint.clone();
    ready(&mut started.cluster, &endpoint).await?;
    started.target.pids = processes::of_program(started.cluster.binary());
    Ok(())
}

async fn scheduled(side: &mut Side<'_>) -> Result<Bound> {
    let real = side.target().ready_nodes().await?;
    cordon(side.target(), &real, true).await?;
    side.hold().await?;
    make(side.target(), "POST /api/v1/nodes".into(), NODES, node).await.context("making nodes")?;
    let pods = format!("POST {}", side.target().path("pods"));
    make(side.target(), pods, PODS, pod).await.context("making pods")?;
    let version = side.target().pods_version().await?;
    side.release().await?;
    let mut watch = side.target().watch_pods_from(version);
    let bound = bindings(&mut watch, || side.cpu_seconds()).await;
    let target = side.target();
    target.delete(&target.path("pods")).await?;
    target.delete(&format!("/api/v1/nodes?labelSelector={LABEL}%3Dtrue")).await?;
    cordon(target, &real, false).await?;
    if let Side::Peer(..) = side {
        side.hold().await?;
    }
    bound
}

/// Counts the bindings.
async fn bindings(watch: &mut PodWatch<'_>, cpu_seconds: impl Fn() -> f64) -> Result<Bound> {
    let (mut bound, mut first, began) = (HashSet::new(), None, Instant::now());
    watch.open().await?;
    while bound.len() < PODS as usize {
        let limit = if first.is_none() { FIRST_MAX } else { ALL_MAX };
        let pod = watch.next(began + limit).await;
        let pod = pod.with_context(|| format!("{} of {PODS} were bound", bound.len()))?;
        if pod["spec"]["nodeName"].is_string() {
            first.get_or_insert_with(|| (Instant::now(), cpu_seconds()));
            bound.insert(pod["metadata"]["name"].as_str().unwrap_or_default().to_owned());
        }
    }
    let (at, cpu) = first.context("no pods were asked for")?;
    let (seconds, pods) = (at.elapsed().as_secs_f64(), PODS as f64);
    Ok(Bound { per_second: pods / seconds, cpu_milliseconds: (cpu_seconds() - cpu) * 1e3 / pods })
}

async fn make(target: &Target, what: String, count: u64, object: fn(u64) -> Value) -> Result<()> {
    let endpoint = target.endpoint.clone();
    let next: Arc<Next> = Arc::new(move |number| {
        (number < count).then(|| endpoint.send(&what, "application/json", &object(number).to_string()))
    });
    let made = target.endpoint.load(CONNECTIONS, ALL_MAX, next).await?;
    ensure!(made.failed == 0 && made.answered == count, "{} of {count} failed", count - made.answered + made.failed);
    Ok(())
}

/// Keeps the pods of this case off nodes that would run them.
pub async fn cordon(target: &Target, nodes: &[String], unschedulable: bool) -> Result<()> {
    for node in nodes {
        target.merge(&format!("/api/v1/nodes/{node}"), &json!({"spec": {"unschedulable": unschedulable}})).await?;
    }
    Ok(())
}

fn node(number: u64) -> Value {
    let (name, size) = (format!("bench-node-{number}"), json!({"cpu": "64", "memory": "256Gi", "pods": "250"}));
    let zone = format!("z{}", number % 3);
    let labels = json!({LABEL: "true", "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone});
    let time = "2026-01-01T00:00:00Z";
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
        "lastHeartbeatTime": time, "lastTransitionTime": time,
    });
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
        "status": {"capacity": size, "allocatable": size, "conditions": [ready]},
    })
}

fn pod(number: u64) -> Value {
    let requests = json!({"cpu": "10m", "memory": "16Mi"});
    let tolerate = |key: &str| json!({"key": key, "operator": "Exists"});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("waits-{number}")},
        "spec": {
            "tolerations": [tolerate("node.kubernetes.io/not-ready"), tolerate("node.kubernetes.io/unreachable")],
            "containers": [{"name": "c", "image": "x", "resources": {"requests": requests}}],
        },
    })
}
