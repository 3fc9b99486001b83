//! A scheduler's shell at work: its view, its clock, and a server that notes every request and answers as it is told.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_client::{Body, BodyError, Client, Transport};
use coracle_controld::{SchedulerMetrics, run_scheduler};
use coracle_meta::Resource;
use coracle_rt::{Clock, Closed, Scope};
use coracle_scheduler::Scheduler;
use http::Method;
use http_body_util::{BodyExt, Full};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use crate::cluster::Cluster;

pub const PODS: Resource = Resource::new("", "pods");
pub const NODES: Resource = Resource::new("", "nodes");
/// Turns of the executor after which something does not happen any more.
const TURNS_MAX: usize = 100_000;

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `POST /api/v1/…`.
    pub line: String,
    pub body: Value,
}

/// What the server answers instead of success: for the first request whose line ends so, its code and message.
type Refusals = Arc<Mutex<Vec<(&'static str, u16, &'static str)>>>;

/// Requests whose line ends so wait until they are let go on.
type Held = Arc<Mutex<Option<(&'static str, Arc<Notify>)>>>;

pub struct Server {
    requests: mpsc::UnboundedSender<Seen>,
    held: Held,
    refusals: Refusals,
}

#[async_trait]
impl Transport for Server {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, BodyError> {
        let line = format!("{} {}", request.method(), request.uri().path());
        let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let held = self.held.lock().clone().filter(|(end, _)| line.ends_with(end));
        if let Some((_, go_on)) = held {
            go_on.notified().await;
        }
        let mut refusals = self.refusals.lock();
        let refused = refusals.iter().position(|(end, ..)| line.ends_with(end)).map(|at| refusals.remove(at));
        drop(refusals);
        let success = if request.method() == Method::POST { 201 } else { 200 };
        let (code, answer) = match refused {
            Some((_, code, message)) => (
                code,
                json!({"kind": "Status", "status": "Failure", "code": code, "message": message,
                              "reason": if code == 404 { "NotFound" } else { "Conflict" }}),
            ),
            None => (success, body.clone()),
        };
        let _ = self.requests.send(Seen { line, body });
        let body = Full::new(Bytes::from(answer.to_string())).map_err(|never| match never {}).boxed_unsync();
        Ok(http::Response::builder().status(code).body(body)?)
    }
}

pub struct World {
    pub cluster: Arc<Cluster>,
    pub metrics: Arc<SchedulerMetrics>,
    clock: Clock,
    scope: Scope,
    requests: mpsc::UnboundedReceiver<Seen>,
    refusals: Refusals,
    held: Held,
}

impl World {
    /// A scheduler on a cluster with these objects; the server refuses what it is told to.
    pub fn start(
        scheduler: Scheduler,
        objects: impl IntoIterator<Item = (Resource, Value)>,
        refusals: &[(&'static str, u16, &'static str)],
    ) -> World {
        let cluster = Arc::new(Cluster::default());
        for (resource, object) in objects {
            cluster.put(&resource, object);
        }
        let (sender, requests) = mpsc::unbounded_channel();
        let refusals = Arc::new(Mutex::new(refusals.to_vec()));
        let held = Held::default();
        let server = Server { requests: sender, refusals: refusals.clone(), held: held.clone() };
        let client = Client::new(Arc::new(server));
        let (scope, clock) = (Scope::root(), Clock::manual(Timestamp::UNIX_EPOCH));
        let metrics = run_scheduler(&scope, cluster.clone(), client, clock.clone(), scheduler);
        World { cluster, metrics, clock, scope, requests, refusals, held }
    }

    pub fn pass(&self, seconds: i64) {
        self.clock.set(self.clock.now() + SignedDuration::from_secs(seconds));
    }

    /// Keeps the server from answering such requests.
    pub fn hold(&self, end: &'static str) {
        *self.held.lock() = Some((end, Arc::default()));
    }

    pub fn let_go(&self) {
        if let Some((_, go_on)) = self.held.lock().take() {
            go_on.notify_waiters();
        }
    }

    /// The next request whose line ends so; those before it are passed over.
    pub async fn seen(&mut self, end: &str) -> Seen {
        loop {
            let seen = self.requests.recv().await.expect("the scheduler goes on");
            if seen.line.ends_with(end) {
                return seen;
            }
        }
    }

    /// Lets the scheduler work until its metrics hold the line.
    pub async fn counted(&self, line: &str) {
        for _ in 0..TURNS_MAX {
            if self.metrics.text().lines().any(|found| found == line) {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{line} is not in\n{}", self.metrics.text());
    }

    /// Ends the scheduler; every refusal must have been used, and these must be all requests that are left.
    pub async fn end(mut self) -> Vec<String> {
        assert_eq!(*self.refusals.lock(), [], "never asked for");
        assert_eq!(self.scope.close(Duration::from_secs(10)).await, Closed::Clean);
        std::iter::from_fn(|| self.requests.try_recv().ok()).map(|seen| seen.line).collect()
    }
}

pub fn node(name: &str) -> (Resource, Value) {
    let node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}},
    });
    (NODES, node)
}

/// A pod of a priority that asks for so many milli-CPUs and, if the name is not empty, is on a node.
pub fn pod(name: &str, priority: i32, milli: u32, node: &str) -> (Resource, Value) {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "n", "uid": format!("{name}-uid")},
        "spec": {"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"cpu": format!("{milli}m")}}}]},
    });
    if !node.is_empty() {
        pod["spec"]["nodeName"] = node.into();
    }
    (PODS, pod)
}
