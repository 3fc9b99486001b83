//! What controllers, scheduler and nodes do together, on simulated nodes: how long a Deployment takes until all its
//! replicas are ready, and its namespace until it is gone. The nodes are the same program on both sides.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use coracle_client::ClientError;
use serde_json::{Value, json};

use super::scheduling::cordon;
use crate::cluster::{Cores, terminate};
use crate::table::Row;
use crate::target::{Target, until};

const NODES: usize = 100;
const REPLICAS: u64 = 10_000;
const STEP_MAX: Duration = Duration::from_secs(300);
const PREFIX: &str = "bench-hollow-";
const NAME: &str = "web";

/// A cluster and the file that leads to it.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub target: &'a Target,
    pub kubeconfig: &'a Path,
}

/// `binary` simulates the nodes, of the peer too.
pub async fn measure(binary: &Path, cores: Cores, ours: Place<'_>, peer: Option<Place<'_>>) -> Result<Vec<Row>> {
    let mut ready = Row::new(format!("Deployment of {REPLICAS} until all are ready"), "s", "5");
    let mut gone = Row::new(format!("namespace of {REPLICAS} pods until it is gone"), "s", "3");
    let took = on(binary, cores, ours).await.context("Coracle")?;
    ready.ours.0.push(took.ready_seconds);
    gone.ours.0.push(took.gone_seconds);
    if let Some(peer) = peer {
        let took = on(binary, cores, peer).await.context("the peer")?;
        ready.peer.0.push(took.ready_seconds);
        gone.peer.0.push(took.gone_seconds);
    }
    Ok(vec![ready, gone])
}

struct Took {
    ready_seconds: f64,
    gone_seconds: f64,
}

async fn on(binary: &Path, cores: Cores, place: Place<'_>) -> Result<Took> {
    let real = place.target.ready_nodes().await?;
    cordon(place.target, &real, true).await?;
    let mut nodes = Nodes::start(binary, cores, place.kubeconfig)?;
    let took = async {
        until("the simulated nodes", STEP_MAX, async || {
            let ready = place.target.ready_nodes().await?;
            Ok((ready.iter().filter(|name| name.starts_with(PREFIX)).count() == NODES).then_some(()))
        })
        .await?;
        run(place.target).await
    };
    let took = took.await;
    nodes.end()?;
    cordon(place.target, &real, false).await?;
    took
}

async fn run(target: &Target) -> Result<Took> {
    let namespace = format!("{}-workloads", target.namespace);
    let home = format!("/api/v1/namespaces/{namespace}");
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    target.create("/api/v1/namespaces", &body).await?;
    let account = format!("{home}/serviceaccounts/default");
    until("the namespace's account", STEP_MAX, async || target.get(&account).await.map(Some)).await?;
    let deployments = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    let began = Instant::now();
    target.create(&deployments, &deployment()).await?;
    let one = format!("{deployments}/{NAME}");
    let ready_seconds = until("ready replicas", STEP_MAX, async || {
        let ready = target.get(&one).await?["status"]["readyReplicas"] == REPLICAS;
        Ok(ready.then(|| began.elapsed().as_secs_f64()))
    });
    let ready_seconds = ready_seconds.await?;
    let began = Instant::now();
    target.delete(&home).await?;
    let gone_seconds = until("the namespace's end", STEP_MAX, async || match target.get(&home).await {
        Err(error) if is_not_found(&error) => Ok(Some(began.elapsed().as_secs_f64())),
        other => other.map(|_| None),
    });
    Ok(Took { ready_seconds, gone_seconds: gone_seconds.await? })
}

fn is_not_found(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<ClientError>(), Some(ClientError::Status(status)) if status.is_not_found())
}

/// The process that simulates nodes; it takes them along when it ends.
struct Nodes(Child);

impl Nodes {
    fn start(binary: &Path, cores: Cores, kubeconfig: &Path) -> Result<Nodes> {
        let mut command = cores.client_command(binary);
        command.args(["sim", "--remove", "--nodes", &NODES.to_string(), "--prefix", PREFIX]);
        command.arg("--kubeconfig").arg(kubeconfig).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Nodes(command.spawn().with_context(|| format!("starting {}", binary.display()))?))
    }

    fn end(&mut self) -> Result<()> {
        terminate(&mut self.0)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn deployment() -> Value {
    let labels = json!({"app": NAME});
    let resources = json!({"requests": {"cpu": "10m", "memory": "16Mi"}});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME},
        "spec": {
            "replicas": REPLICAS, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": "x", "resources": resources}]},
            },
        },
    })
}
