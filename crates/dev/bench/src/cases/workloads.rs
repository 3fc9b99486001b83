//! What controllers, scheduler and nodes do together, on simulated nodes: how long a Deployment takes until all its
//! replicas are ready, its namespace until it is gone, and many Deployments until they have rolled. The nodes are the
//! same program on both sides.

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
/// Deployments that are rolled at once, and the replicas of each.
const MANY: u64 = 1000;
const FEW: u64 = 3;
/// Between two looks at all Deployments, which cost the server more than one.
const LOOK: Duration = Duration::from_millis(200);
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
    let mut rows = [
        Row::new(format!("Deployment of {REPLICAS} until all are ready"), "s", "5"),
        Row::new(format!("namespace of {REPLICAS} pods until it is gone"), "s", "3"),
        Row::new(format!("{MANY} Deployments of {FEW} rolled at once"), "s", ""),
    ];
    let took = on(binary, cores, ours).await.context("Coracle")?;
    rows.iter_mut().zip(took).for_each(|(row, seconds)| row.ours.0.push(seconds));
    if let Some(peer) = peer {
        let took = on(binary, cores, peer).await.context("the peer")?;
        rows.iter_mut().zip(took).for_each(|(row, seconds)| row.peer.0.push(seconds));
    }
    Ok(rows.into())
}

/// Seconds until a large Deployment is ready, its namespace gone, and many Deployments rolled.
type Took = [f64; 3];

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
        let [ready, gone] = large(place.target).await?;
        Ok([ready, gone, many(place.target).await?])
    };
    let took = took.await;
    nodes.end()?;
    cordon(place.target, &real, false).await?;
    took
}

/// One Deployment of many replicas, and its namespace.
async fn large(target: &Target) -> Result<[f64; 2]> {
    let home = make_home(target).await?;
    let deployments = deployments(&home);
    let began = Instant::now();
    target.create(&deployments, &deployment(NAME, REPLICAS)).await?;
    let one = format!("{deployments}/{NAME}");
    let ready = until("ready replicas", STEP_MAX, async || {
        let ready = target.get(&one).await?["status"]["readyReplicas"] == REPLICAS;
        Ok(ready.then(|| began.elapsed().as_secs_f64()))
    });
    Ok([ready.await?, remove(target, &home).await?])
}

/// Many Deployments of few replicas, all of which get another template at once.
async fn many(target: &Target) -> Result<f64> {
    let home = make_home(target).await?;
    let deployments = deployments(&home);
    let path = format!("POST {deployments}");
    let made = target.send_all(MANY, move |endpoint, number| {
        endpoint.send(&path, "application/json", &deployment(&format!("{NAME}-{number}"), FEW).to_string())
    });
    made.await.context("making Deployments")?;
    rolled(target, &deployments).await.context("the first templates")?;
    let path = format!("PATCH {deployments}");
    let patch = json!({"spec": {"template": {"metadata": {"annotations": {"bench": "rolled"}}}}}).to_string();
    let began = Instant::now();
    let patched = target.send_all(MANY, move |endpoint, number| {
        endpoint.send(&format!("{path}/{NAME}-{number}"), "application/merge-patch+json", &patch)
    });
    patched.await.context("patching Deployments")?;
    rolled(target, &deployments).await.context("the second templates")?;
    let seconds = began.elapsed().as_secs_f64();
    remove(target, &home).await?;
    Ok(seconds)
}

async fn make_home(target: &Target) -> Result<String> {
    let namespace = format!("{}-workloads", target.namespace);
    let home = format!("/api/v1/namespaces/{namespace}");
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
    target.create("/api/v1/namespaces", &body).await?;
    let account = format!("{home}/serviceaccounts/default");
    until("the namespace's account", STEP_MAX, async || target.get(&account).await.map(Some)).await?;
    Ok(home)
}

fn deployments(home: &str) -> String {
    home.replacen("/api/v1/", "/apis/apps/v1/", 1) + "/deployments"
}

/// Until every Deployment runs its template's pods and nothing else.
async fn rolled(target: &Target, deployments: &str) -> Result<()> {
    until("rolled Deployments", STEP_MAX, async || {
        let list = target.get(deployments).await?;
        let done = list["items"].as_array().into_iter().flatten().filter(|one| is_rolled(one)).count() as u64;
        if done < MANY {
            tokio::time::sleep(LOOK).await;
        }
        Ok((done == MANY).then_some(()))
    })
    .await
}

fn is_rolled(deployment: &Value) -> bool {
    let status = &deployment["status"];
    let observed = status["observedGeneration"] == deployment["metadata"]["generation"];
    observed && ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|field| status[field] == FEW)
}

/// How long the namespace takes to go.
async fn remove(target: &Target, home: &str) -> Result<f64> {
    let began = Instant::now();
    target.delete(home).await?;
    until("the namespace's end", STEP_MAX, async || match target.get(home).await {
        Err(error) if is_not_found(&error) => Ok(Some(began.elapsed().as_secs_f64())),
        other => other.map(|_| None),
    })
    .await
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

fn deployment(name: &str, replicas: u64) -> Value {
    let labels = json!({"app": name});
    let resources = json!({"requests": {"cpu": "10m", "memory": "16Mi"}});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": "x", "resources": resources}]},
            },
        },
    })
}
