//! A cluster under measurement, whoever started it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use coracle_client::watch::{WatchEvent, WatchOptions, WatchStream};
use coracle_client::{Client, Kubeconfig, ResourceRef};
use coracle_rt::Scope;
use futures_util::StreamExt;
use http::Method;
use serde_json::{Value, json};

use crate::load::Endpoint;
use crate::processes;

const JSON: &str = "application/json";
pub const PODS: ResourceRef = ResourceRef::new("", "v1", "pods");

pub struct Target {
    pub client: Client,
    pub endpoint: Endpoint,
    /// Where the cases make their objects.
    pub namespace: String,
    /// The server's processes, if they are known: then their CPU is counted.
    pub pids: Vec<u32>,
}

impl Target {
    /// Makes the namespace.
    pub async fn open(scope: &Scope, config: &Kubeconfig, pids: Vec<u32>) -> Result<Target> {
        let client = Client::from_kubeconfig(scope, config)?;
        let namespace = format!("coracle-bench-{}", std::process::id());
        let target = Target { client, endpoint: Endpoint::of(config)?, namespace, pids };
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": target.namespace}});
        target.create("/api/v1/namespaces", &body).await.context("making the namespace of the cases")?;
        Ok(target)
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        Ok(self.client.json(Method::GET, path.into(), None).await?)
    }

    pub async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        Ok(self.client.json(Method::POST, path.into(), Some((JSON, object))).await?)
    }

    pub async fn merge(&self, path: &str, patch: &Value) -> Result<Value> {
        Ok(self.client.json(Method::PATCH, path.into(), Some(("application/merge-patch+json", patch))).await?)
    }

    /// Deletes without grace: an object, or all that a collection's path and selector name.
    pub async fn delete(&self, path: &str) -> Result<Value> {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
        Ok(self.client.json(Method::DELETE, path.into(), Some((JSON, &options))).await?)
    }

    /// The path of a resource in the namespace of the cases.
    pub fn path(&self, plural: &str) -> String {
        format!("/api/v1/namespaces/{}/{plural}", self.namespace)
    }

    /// Pods of the namespace as they change from now on.
    pub async fn watch_pods(&self) -> Result<WatchStream> {
        let listed = self.get(&format!("{}?limit=1", self.path("pods"))).await?;
        let resource_version = listed["metadata"]["resourceVersion"].as_str().unwrap_or_default().into();
        let options = WatchOptions { resource_version, ..WatchOptions::default() };
        Ok(self.client.watch(&PODS, &self.namespace, &options).await?)
    }

    /// Names of the nodes that are Ready.
    pub async fn ready_nodes(&self) -> Result<Vec<String>> {
        let nodes = self.get("/api/v1/nodes").await?;
        let nodes = nodes["items"].as_array().cloned().unwrap_or_default();
        let ready = nodes.iter().filter(|node| is_ready(node));
        Ok(ready.filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned)).collect())
    }

    pub fn cpu_seconds(&self) -> f64 {
        processes::cpu_seconds(&self.pids)
    }
}

pub fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

/// The next pod that was added or has changed; an error if none comes in time.
pub async fn next_pod(stream: &mut WatchStream, until: Instant) -> Result<Value> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, stream.next()).await.context("nothing happened in time")? {
            Some(Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod))) => {
                return Ok(serde_json::from_slice(&pod.bytes)?);
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.into()),
            None => bail!("the watch ended"),
        }
    }
}

/// Looks every few milliseconds until `look` answers something.
pub async fn until<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        let last = match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if began.elapsed() > limit {
            let why = last.map(|error| format!(": {error:#}")).unwrap_or_default();
            bail!("{what}: not within {} s{why}", limit.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}
