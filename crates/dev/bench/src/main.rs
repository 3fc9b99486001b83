//! Measures Coracle, alone or beside another cluster, and prints one table. It starts the binary it measures; a peer is
//! given by its kubeconfig and is only asked what can be repeated. `cargo xtask bench` builds and runs it.

mod cases;
mod cluster;
mod load;
mod processes;
mod table;
mod target;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use coracle_client::Kubeconfig;
use coracle_rt::Scope;

use cases::shapes::Shape;
use cases::{idle, pods, requests, scheduling, start, workloads};
use cluster::{CLIENT_CORE, Cores};
use table::Row;
use target::Target;

#[derive(Parser)]
#[command(name = "bench", about = "Measures Coracle, alone or beside another cluster")]
struct Arguments {
    /// The binary to measure
    #[arg(long, value_name = "FILE")]
    binary: PathBuf,
    /// Shorter windows and fewer starts
    #[arg(long)]
    quick: bool,
    /// Keep server and client to a core each for requests and scheduling; start the peer under `taskset -c 0`
    #[arg(long)]
    pin: bool,
    /// Another cluster to stand beside, in alternating runs
    #[arg(long, value_name = "KUBECONFIG")]
    peer: Option<PathBuf>,
    /// The peer's processes, if they run here: then their CPU is counted too
    #[arg(long, value_name = "PID,…", value_delimiter = ',')]
    peer_pids: Vec<u32>,
    /// How the peer's scheduler is started once there are pods, with leader election off; without it only ours is
    /// measured
    #[arg(long, value_name = "COMMAND", value_delimiter = ' ')]
    peer_scheduler: Vec<String>,
    /// What is scheduled
    #[arg(long, value_name = "SHAPE,…", value_delimiter = ',', default_value = "plain")]
    shapes: Vec<Shape>,
    /// Only these cases
    #[arg(long, value_name = "CASE,…", value_delimiter = ',')]
    only: Vec<Group>,
    /// How often requests and scheduling are measured on each side
    #[arg(long, default_value_t = 5)]
    runs: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    Start,
    Idle,
    Pods,
    Requests,
    Scheduling,
    Workloads,
}

/// How long things are looked at.
struct Extent {
    starts: usize,
    idle: Duration,
    window: Duration,
}

impl Arguments {
    fn wants(&self, group: Group) -> bool {
        self.only.is_empty() || self.only.contains(&group)
    }

    fn extent(&self) -> Extent {
        let seconds = Duration::from_secs;
        match self.quick {
            true => Extent { starts: 3, idle: seconds(10), window: seconds(2) },
            false => Extent { starts: 5, idle: seconds(60), window: seconds(10) },
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    arguments.binary = std::fs::canonicalize(&arguments.binary)
        .with_context(|| format!("the binary {}", arguments.binary.display()))?;
    let scope = Scope::root();
    let mut rows = Vec::new();
    let measured = measure(&scope, &arguments, &mut rows).await;
    println!("{}", describe(&arguments));
    print!("{}", table::show(&rows));
    scope.close(Duration::from_secs(1)).await;
    measured
}

/// Adds the rows of each group as they come, so that a failure late leaves what was measured.
async fn measure(scope: &Scope, arguments: &Arguments, rows: &mut Vec<Row>) -> Result<()> {
    if [Group::Start, Group::Idle, Group::Pods].iter().any(|group| arguments.wants(*group)) {
        on_the_node(scope, arguments, rows).await?;
    }
    if [Group::Requests, Group::Scheduling, Group::Workloads].iter().any(|group| arguments.wants(*group)) {
        on_the_server(scope, arguments, rows).await?;
    }
    Ok(())
}

/// What only a cluster that was started here can show.
async fn on_the_node(scope: &Scope, arguments: &Arguments, rows: &mut Vec<Row>) -> Result<()> {
    let extent = arguments.extent();
    let pids = || processes::of_program(&arguments.binary);
    let starts = if arguments.wants(Group::Start) { extent.starts } else { 1 };
    let (started, found) = start::measure(scope, &arguments.binary, starts).await.context("starting")?;
    if arguments.wants(Group::Start) {
        rows.extend(found);
    }
    if arguments.wants(Group::Idle) {
        rows.extend(idle::measure(extent.idle, pids).await.context("idle")?);
    }
    if arguments.wants(Group::Pods) {
        rows.extend(pods::measure(&started.target, pids).await.context("pods")?);
    }
    Ok(())
}

/// What a peer can show as well.
async fn on_the_server(scope: &Scope, arguments: &Arguments, rows: &mut Vec<Row>) -> Result<()> {
    let cores = if arguments.pin { Cores::OneEach } else { Cores::Any };
    let mut started = start::start(scope, &arguments.binary, cores).await.context("starting")?;
    if arguments.pin {
        keep_to_client_core()?;
    }
    let peer = match &arguments.peer {
        Some(path) => Some(Target::open(scope, &Kubeconfig::read(path)?, arguments.peer_pids.clone()).await?),
        None => None,
    };
    if arguments.wants(Group::Scheduling) {
        let scheduler = &arguments.peer_scheduler;
        let beside = peer.as_ref().filter(|_| !scheduler.is_empty());
        for shape in &arguments.shapes {
            let beside = beside.map(|target| scheduling::Peer { target, scheduler, cores });
            let found = scheduling::measure(&mut started, beside, *shape, arguments.runs).await;
            rows.extend(found.context("scheduling")?);
        }
    }
    let (ours, extent) = (&started.target, arguments.extent());
    if arguments.wants(Group::Workloads) {
        let file = started.cluster.kubeconfig_file();
        let beside = peer.as_ref().zip(arguments.peer.as_deref());
        let beside = beside.map(|(target, kubeconfig)| workloads::Place { target, kubeconfig });
        let place = workloads::Place { target: ours, kubeconfig: &file };
        let found = workloads::measure(&arguments.binary, cores, place, beside).await;
        rows.extend(found.context("workloads")?);
    }
    if arguments.wants(Group::Requests) {
        let found = requests::measure(ours, peer.as_ref(), arguments.runs, extent.window).await;
        rows.extend(found.context("requests")?);
    }
    if let Some(peer) = peer {
        peer.delete(&format!("/api/v1/namespaces/{}", peer.namespace)).await?;
    }
    Ok(())
}

/// All threads of this process; those that it starts later inherit it.
fn keep_to_client_core() -> Result<()> {
    let mut command = Command::new("taskset");
    command.args(["-acp", CLIENT_CORE, &std::process::id().to_string()]).stdout(std::process::Stdio::null());
    let status = command.status().context("running taskset")?;
    anyhow::ensure!(status.success(), "taskset ended with {status}");
    Ok(())
}

/// What a reader of the table has to know.
fn describe(arguments: &Arguments) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let extent = arguments.extent();
    format!(
        "{}; requests over {} s, {} runs{}; {}; {} cores for the client, load {}\nmedian (least–most); ratio: Coracle to peer. On a shared machine only ratios count.",
        if arguments.quick { "quick: short windows" } else { "full" },
        extent.window.as_secs(),
        arguments.runs,
        if arguments.peer.is_some() { ", alternating with the peer" } else { ", no peer" },
        if arguments.pin { "server and client pinned to a core each" } else { "not pinned" },
        cores,
        load.split(' ').next().unwrap_or_default(),
    )
}
