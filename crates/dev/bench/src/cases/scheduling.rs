//! Pods bound a second on 1,000 nodes that no kubelet serves. The pods are there beforehand behind a scheduling gate;
//! their gates are lifted at once, and a watch tells the time from the first binding to the last.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::load::Next;
use crate::table::Row;
use crate::target::{Target, next_pod};

const NODES: u64 = 1000;
const PODS: u64 = 2000;
const CONNECTIONS: usize = 64;
const FIRST_MAX: Duration = Duration::from_secs(20);
const ALL_MAX: Duration = Duration::from_secs(120);
const LABEL: &str = "coracle-bench";

/// The peer stays empty where nothing schedules.
pub async fn measure(ours: &Target, peer: Option<&Target>, runs: usize) -> Result<Vec<Row>> {
    let title = format!("pods scheduled on {NODES} nodes, {PODS} pods");
    let mut row = Row::new(title, "1/s", "15× the peer");
    for _ in 0..runs {
        row.ours.0.push(scheduled_per_second(ours).await?.context("our scheduler bound nothing")?);
        let Some(peer) = peer else { continue };
        match scheduled_per_second(peer).await? {
            Some(rate) => row.peer.0.push(rate),
            None => break,
        }
    }
    Ok(vec![row])
}

async fn scheduled_per_second(target: &Target) -> Result<Option<f64>> {
    let real = target.ready_nodes().await?;
    cordon(target, &real, true).await?;
    make(target, "POST /api/v1/nodes".into(), NODES, node).await.context("making nodes")?;
    make(target, format!("POST {}", target.path("pods")), PODS, pod).await.context("making pods")?;
    let mut stream = target.watch_pods().await?;
    let lift = lift_gates(target);
    let (rate, lifted) = tokio::join!(bindings(&mut stream), lift);
    lifted?;
    target.delete(&target.path("pods")).await?;
    target.delete(&format!("/api/v1/nodes?labelSelector={LABEL}%3Dtrue")).await?;
    cordon(target, &real, false).await?;
    rate
}

/// Counts the bindings; `None` if there is none.
async fn bindings(stream: &mut coracle_client::WatchStream) -> Result<Option<f64>> {
    let (mut bound, mut first, began) = (HashSet::new(), None, Instant::now());
    while bound.len() < PODS as usize {
        let limit = if first.is_none() { FIRST_MAX } else { ALL_MAX };
        let pod = match next_pod(stream, began + limit).await {
            Ok(pod) => pod,
            Err(_) if first.is_none() => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("{} of {PODS} were bound", bound.len())),
        };
        if pod["spec"]["nodeName"].is_string() {
            first.get_or_insert_with(Instant::now);
            bound.insert(pod["metadata"]["name"].as_str().unwrap_or_default().to_owned());
        }
    }
    Ok(first.map(|first| PODS as f64 / first.elapsed().as_secs_f64()))
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

async fn lift_gates(target: &Target) -> Result<()> {
    let (endpoint, path) = (target.endpoint.clone(), target.path("pods"));
    let next: Arc<Next> = Arc::new(move |number| {
        let patch = r#"{"spec":{"schedulingGates":null}}"#;
        let what = format!("PATCH {path}/gated-{number}");
        (number < PODS).then(|| endpoint.send(&what, "application/merge-patch+json", patch))
    });
    let lifted = target.endpoint.load(CONNECTIONS, ALL_MAX, next).await?;
    ensure!(lifted.failed == 0, "{} of {PODS} gates could not be lifted", lifted.failed);
    Ok(())
}

/// Keeps the pods of this case off nodes that would run them.
async fn cordon(target: &Target, nodes: &[String], unschedulable: bool) -> Result<()> {
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
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": format!("gated-{number}")},
        "spec": {
            "schedulingGates": [{"name": "example.com/bench"}],
            "tolerations": [tolerate("node.kubernetes.io/not-ready"), tolerate("node.kubernetes.io/unreachable")],
            "containers": [{"name": "c", "image": "x", "resources": {"requests": requests}}],
        },
    })
}
