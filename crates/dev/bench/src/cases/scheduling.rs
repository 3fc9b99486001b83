//! Pods bound a second on nodes that no kubelet serves, each binding durable. The pods are there before anything
//! schedules: of ours the API server runs alone until they are made, and then the whole starts on the same data; of a
//! peer the scheduler is a command that is started then. The time is that from the first binding to the last, of pods
//! that preempt from that start, since evictions come first. A watch sees the bindings; as it may be opened late, the
//! scheduler's earliest event counts where it is older than what was seen.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::shapes::{LABEL, Shape, URGENT, WAITING};
use super::start::{Started, ready};
use crate::cluster::{Cores, Parts, terminate};
use crate::load::Endpoint;
use crate::processes::{self, Stopped};
use crate::table::Row;
use crate::target::{PodWatch, Target, until};

const EVENTS: &str = "/apis/events.k8s.io/v1";
const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";
/// What the TTL controller writes on every node.
const SETTLED: &str = "node.alpha.kubernetes.io/ttl";
/// Between two looks at all nodes, which cost the server more than one.
const LOOK: Duration = Duration::from_millis(200);
const QUIET_LOOK: Duration = Duration::from_secs(2);
/// Of a core.
const QUIET_SHARE: f64 = 0.01;
const QUIET_MAX: Duration = Duration::from_secs(60);
const SETTLED_MAX: Duration = Duration::from_secs(60);
const FIRST_MAX: Duration = Duration::from_secs(300);
const ALL_MAX: Duration = Duration::from_secs(600);

/// A peer and the command that starts its scheduler.
pub struct Peer<'a> {
    pub target: &'a Target,
    pub scheduler: &'a [String],
    pub cores: Cores,
}

/// The peer stays empty where its scheduler is not given.
pub async fn measure(ours: &mut Started, peer: Option<Peer<'_>>, shape: Shape, runs: usize) -> Result<Vec<Row>> {
    let mut rates = Row::new(shape.title(), "1/s", shape.goal());
    let mut cpu = Row::new("the same, CPU of all servers each", "ms", "");
    for _ in 0..runs {
        let bound = {
            let _peer = peer.as_ref().map(|peer| Stopped::new(&peer.target.pids));
            scheduled(&mut Side::Ours(ours), shape).await.context("Coracle")?
        };
        rates.ours.0.push(bound.per_second);
        cpu.ours.0.push(bound.cpu_milliseconds);
        let Some(peer) = &peer else { continue };
        quiet(&ours.target).await?;
        let bound = scheduled(&mut Side::Peer(peer, None), shape).await.context("the peer")?;
        rates.peer.0.push(bound.per_second);
        cpu.peer.0.push(bound.cpu_milliseconds);
    }
    Ok(vec![rates, cpu])
}

/// Waits until a cluster has done with what came before: it shares its core with the peer, which is measured next.
async fn quiet(target: &Target) -> Result<()> {
    let mut used = target.cpu_seconds();
    until("Coracle is quiet", QUIET_MAX, async || {
        tokio::time::sleep(QUIET_LOOK).await;
        let before = std::mem::replace(&mut used, target.cpu_seconds());
        Ok((used - before < QUIET_LOOK.as_secs_f64() * QUIET_SHARE).then_some(()))
    })
    .await
}

struct Bound {
    per_second: f64,
    /// Per pod, the start of what was held back included; of the peer as far as its processes are known.
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

    /// What the processes have used that go on when everything is scheduled: ours begin anew then.
    fn cpu_seconds_held(&self) -> f64 {
        match self {
            Side::Ours(_) => 0.0,
            Side::Peer(..) => self.cpu_seconds(),
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

async fn scheduled(side: &mut Side<'_>, shape: Shape) -> Result<Bound> {
    let real = side.target().ready_nodes().await?;
    cordon(side.target(), &real, true).await?;
    settle(side.target(), shape).await?;
    side.hold().await?;
    prepare(side.target(), shape).await?;
    let version = side.target().pods_version().await?;
    let (released, cpu) = (Timestamp::now(), side.cpu_seconds_held());
    side.release().await?;
    let mut watch = side.target().watch_pods_from(version);
    let seen = bindings(&mut watch, shape.pods()).await;
    let cpu = side.cpu_seconds() - cpu;
    let bound = match seen {
        Ok((first, last)) => {
            let first = match shape.counts_from_start() {
                true => released,
                false => first.min(first_event(side.target(), released).await?),
            };
            let pods = shape.pods() as f64;
            let seconds = last.duration_since(first).as_secs_f64();
            Ok(Bound { per_second: pods / seconds, cpu_milliseconds: cpu * 1e3 / pods })
        }
        Err(error) => Err(error),
    };
    let target = side.target();
    target.delete_all(&target.path("pods")).await?;
    target.delete_all(&format!("/api/v1/nodes?labelSelector={LABEL}%3Dtrue")).await?;
    target.delete(&format!("{CLASSES}/{URGENT}")).await?;
    cordon(target, &real, false).await?;
    if let Side::Peer(..) = side {
        side.hold().await?;
    }
    bound
}

/// Makes the nodes while controllers run, and waits until these have done with them: their share of what a node costs
/// is no part of scheduling.
async fn settle(target: &Target, shape: Shape) -> Result<()> {
    let nodes = "POST /api/v1/nodes".to_owned();
    make(target, nodes, shape.nodes(), move |number| shape.node(number)).await.context("making nodes")?;
    let path = format!("/api/v1/nodes?labelSelector={LABEL}%3Dtrue");
    until("controllers settle the nodes", SETTLED_MAX, async || {
        let nodes = target.get(&path).await?;
        let settled = |node: &Value| node["metadata"]["annotations"][SETTLED].is_string();
        let left = nodes["items"].as_array().into_iter().flatten().filter(|node| !settled(node)).count();
        if left > 0 {
            tokio::time::sleep(LOOK).await;
        }
        Ok((left == 0).then_some(()))
    })
    .await
}

/// Makes what stands on the nodes, and the pods that wait.
async fn prepare(target: &Target, shape: Shape) -> Result<()> {
    let class = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": URGENT}, "value": 1000,
    });
    target.create(CLASSES, &class).await.context("making the priority class")?;
    let pods = format!("POST {}", target.path("pods"));
    make(target, pods.clone(), shape.placed(), move |number| shape.low(number)).await.context("placing pods")?;
    make(target, pods, shape.pods(), move |number| shape.pod(number)).await.context("making pods")
}

/// When the first and when the last of the pods that wait was seen bound.
async fn bindings(watch: &mut PodWatch<'_>, pods: u64) -> Result<(Timestamp, Timestamp)> {
    let (mut bound, mut first, began) = (HashSet::new(), None, Instant::now());
    watch.open().await?;
    while bound.len() < pods as usize {
        let limit = if first.is_none() { FIRST_MAX } else { ALL_MAX };
        let pod = watch.next(began + limit).await;
        let pod = pod.with_context(|| format!("{} of {pods} were bound", bound.len()))?;
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        if pod["spec"]["nodeName"].is_string() && name.starts_with(WAITING) {
            first.get_or_insert_with(Timestamp::now);
            bound.insert(name.to_owned());
        }
    }
    Ok((first.context("no pods were asked for")?, Timestamp::now()))
}

/// When the scheduler told of its first binding since then.
async fn first_event(target: &Target, since: Timestamp) -> Result<Timestamp> {
    let path = format!("{EVENTS}/namespaces/{}/events?fieldSelector=reason%3DScheduled", target.namespace);
    // They are written in their order, some after the last binding.
    until("an event of a binding", ALL_MAX, async || {
        let events = target.get(&path).await?;
        let times = events["items"].as_array().into_iter().flatten().filter_map(|event| event["eventTime"].as_str());
        let times = times.filter_map(|time| time.parse::<Timestamp>().ok()).filter(|time| *time >= since);
        Ok(times.min())
    })
    .await
}

async fn make(
    target: &Target,
    what: String,
    count: u64,
    object: impl Fn(u64) -> Value + Send + Sync + 'static,
) -> Result<()> {
    let request =
        move |endpoint: &Endpoint, number| endpoint.send(&what, "application/json", &object(number).to_string());
    target.send_all(count, request).await
}

/// Keeps the pods of this case off nodes that would run them.
pub async fn cordon(target: &Target, nodes: &[String], unschedulable: bool) -> Result<()> {
    for node in nodes {
        target.merge(&format!("/api/v1/nodes/{node}"), &json!({"spec": {"unschedulable": unschedulable}})).await?;
    }
    Ok(())
}
