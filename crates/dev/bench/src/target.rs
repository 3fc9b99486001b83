//! A cluster under measurement, whoever started it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use coracle_client::watch::{WatchEvent, WatchOptions, WatchStream};
use coracle_client::{Client, Kubeconfig, ResourceRef};
use coracle_rt::Scope;
use futures_util::StreamExt;
use http::Method;
use serde_json::{Value, json};

use crate::load::{Endpoint, Next};
use crate::processes;

const JSON: &str = "application/json";
pub const PODS: ResourceRef = ResourceRef::new("", "v1", "pods");

const CONNECTIONS: usize = 64;
const SENT_MAX: Duration = Duration::from_secs(300);
const DELETED_MAX: usize = 20;
/// A watch that ends more often is broken.
const RESUMED_MAX: u32 = 20;

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

    /// The same of a collection, by as many requests as the server needs: it ends those that take it too long.
    pub async fn delete_all(&self, path: &str) -> Result<()> {
        for _ in 0..DELETED_MAX {
            if self.delete(path).await.is_ok() {
                return Ok(());
            }
        }
        self.delete(path).await.with_context(|| format!("deleting all of {path}")).map(drop)
    }

    /// Sends so many requests over many connections; each has to succeed.
    pub async fn send_all(
        &self,
        count: u64,
        request: impl Fn(&Endpoint, u64) -> Vec<u8> + Send + Sync + 'static,
    ) -> Result<()> {
        let endpoint = self.endpoint.clone();
        let next: Arc<Next> = Arc::new(move |number| (number < count).then(|| request(&endpoint, number)));
        let sent = self.endpoint.load(CONNECTIONS, SENT_MAX, next).await?;
        ensure!(
            sent.failed == 0 && sent.answered == count,
            "{} of {count} failed",
            count - sent.answered + sent.failed
        );
        Ok(())
    }

    /// The path of a resource in the namespace of the cases.
    pub fn path(&self, plural: &str) -> String {
        format!("/api/v1/namespaces/{}/{plural}", self.namespace)
    }

    /// Pods of the namespace as they change from now on.
    pub async fn watch_pods(&self) -> Result<PodWatch<'_>> {
        let mut watch = self.watch_pods_from(self.pods_version().await?);
        watch.open().await?;
        Ok(watch)
    }

    /// Where a list of the namespace's pods stands now.
    pub async fn pods_version(&self) -> Result<String> {
        let listed = self.get(&format!("{}?limit=1", self.path("pods"))).await?;
        Ok(listed["metadata"]["resourceVersion"].as_str().unwrap_or_default().into())
    }

    /// Pods of the namespace as they changed since then.
    pub fn watch_pods_from(&self, version: String) -> PodWatch<'_> {
        PodWatch { target: self, version, stream: None, resumed: 0 }
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

/// A watch of pods that is taken up where it was when it ends.
pub struct PodWatch<'a> {
    target: &'a Target,
    /// What was seen last.
    version: String,
    stream: Option<WatchStream>,
    resumed: u32,
}

impl PodWatch<'_> {
    /// Sends the request; what happened since the watch was made comes first.
    pub async fn open(&mut self) -> Result<()> {
        let options = WatchOptions { resource_version: self.version.clone(), ..WatchOptions::default() };
        self.stream = Some(self.target.client.watch(&PODS, &self.target.namespace, &options).await?);
        Ok(())
    }

    /// The next pod that was added or has changed; an error if none comes in time.
    pub async fn next(&mut self, until: Instant) -> Result<Value> {
        let server = self.target.endpoint.address().to_owned();
        loop {
            let Some(stream) = &mut self.stream else {
                self.open().await.with_context(|| format!("watching the pods of {server}"))?;
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            let late = || format!("nothing happened in time on {server}");
            let why = match tokio::time::timeout(left, stream.next()).await.with_context(late)? {
                Some(Ok(WatchEvent::Added(pod) | WatchEvent::Modified(pod))) => {
                    self.version = pod.revision.to_string();
                    return Ok(serde_json::from_slice(&pod.bytes)?);
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => format!("{error:#}"),
                None => "it was closed".into(),
            };
            self.resumed += 1;
            ensure!(self.resumed <= RESUMED_MAX, "the watch of {server} ended {} times: {why}", self.resumed);
            eprintln!("the watch of {server} ended: {why}; it goes on from {}", self.version);
            self.stream = None;
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
