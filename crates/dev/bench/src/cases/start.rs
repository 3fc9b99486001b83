//! From the start of the process to /readyz, to a Ready node, and to the first pod that runs. Everything is new: the
//! certificates are made, the image is packed, the network is set up.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use coracle_rt::Scope;
use serde_json::json;

use crate::cluster::{Cluster, Cores, NODE};
use crate::load::Endpoint;
use crate::processes;
use crate::table::Row;
use crate::target::{Target, is_ready, until};

const START_MAX: Duration = Duration::from_secs(60);
/// No command of the client library is needed to see that a pod runs.
pub const IMAGE: &str = "coracle.local/demo:v1";

pub struct Started {
    /// Ends when it is dropped.
    pub cluster: Cluster,
    pub target: Target,
    pub ready_seconds: f64,
    pub node_seconds: f64,
    pub pod_seconds: f64,
}

/// Starts a cluster `runs` times and keeps the last one.
pub async fn measure(scope: &Scope, binary: &Path, runs: usize) -> Result<(Started, Vec<Row>)> {
    let (mut ready, mut node, mut pod) = (Vec::new(), Vec::new(), Vec::new());
    let mut last = None;
    for _ in 0..runs.max(1) {
        drop(last.take());
        let started = start(scope, binary, Cores::Any).await?;
        ready.push(started.ready_seconds);
        node.push(started.node_seconds);
        pod.push(started.pod_seconds);
        last = Some(started);
    }
    let rows = vec![
        Row::new("start to /readyz", "s", "0.3").ours(ready),
        Row::new("up to node Ready", "s", "2").ours(node),
        Row::new("up to first pod Running", "s", "2").ours(pod),
    ];
    Ok((last.expect("there was at least one run"), rows))
}

/// Starts a cluster and its first pod.
pub async fn start(scope: &Scope, binary: &Path, cores: Cores) -> Result<Started> {
    let mut cluster = Cluster::start(binary, cores)?;
    let began = cluster.began;
    let endpoint = Endpoint::of(&cluster.anonymous())?;
    ready(&mut cluster, &endpoint).await?;
    let ready_seconds = began.elapsed().as_secs_f64();
    let config = until("the kubeconfig", START_MAX, async || Ok(cluster.kubeconfig())).await?;
    let target = Target::open(scope, &config, processes::of_program(binary)).await?;
    let node = until("the node", START_MAX, async || {
        let node = target.get(&format!("/api/v1/nodes/{NODE}")).await?;
        Ok(is_ready(&node).then(|| began.elapsed().as_secs_f64()))
    });
    let (node_seconds, pod_seconds) = tokio::try_join!(node, first_pod(&target, began))?;
    Ok(Started { cluster, target, ready_seconds, node_seconds, pod_seconds })
}

/// Until the server says that it is ready.
pub async fn ready(cluster: &mut Cluster, endpoint: &Endpoint) -> Result<()> {
    let (began, readyz) = (Instant::now(), endpoint.get("/readyz"));
    loop {
        cluster.check()?;
        let answer = async { endpoint.connect().await?.exchange(&readyz).await };
        if answer.await.is_ok_and(|status| status == 200) {
            return Ok(());
        }
        anyhow::ensure!(began.elapsed() < START_MAX, "the server is not ready after {} s", START_MAX.as_secs());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Asks for a pod as soon as the server takes one, and takes it away again.
async fn first_pod(target: &Target, began: Instant) -> Result<f64> {
    let pod = pod("first");
    until("the first pod", START_MAX, async || target.create(&target.path("pods"), &pod).await.map(Some)).await?;
    let path = format!("{}/first", target.path("pods"));
    let seconds = until("the first pod", START_MAX, async || {
        let pod = target.get(&path).await?;
        Ok((pod["status"]["phase"] == "Running").then(|| began.elapsed().as_secs_f64()))
    });
    let seconds = seconds.await?;
    target.delete(&path).await?;
    Ok(seconds)
}

/// A pod that runs until it is deleted.
pub fn pod(name: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": IMAGE, "args": ["serve"], "imagePullPolicy": "IfNotPresent"}]},
    })
}
