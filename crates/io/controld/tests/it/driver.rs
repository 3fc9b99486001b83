//! The driver on a server in memory: a real controller, a real client, a transport that answers from a fake view.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_client::{Body, BodyError, Client, Transport};
use coracle_controld::{Clients, Driver};
use coracle_meta::Resource;
use coracle_reconcile::{Ask, Controller, Key, Outcome, Plan, View, Watch, Write};
use coracle_rt::{Closed, Scope};
use http_body_util::{BodyExt, Full};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cluster::Cluster;

const PODS: Resource = Resource::new("", "pods");
const MAPS: Resource = Resource::new("", "configmaps");

/// Answers creations; refuses the first of them.
struct Server {
    cluster: Arc<Cluster>,
    requests: mpsc::UnboundedSender<(String, Value)>,
    refused: Mutex<bool>,
}

#[async_trait]
impl Transport for Server {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, BodyError> {
        let path = request.uri().path().to_owned();
        let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let created = request.method() == http::Method::POST;
        let (code, answer) = match path.as_str() {
            "/api/v1/namespaces/n/pods" if created && !std::mem::replace(&mut *self.refused.lock(), true) => {
                (403, json!({"kind": "Status", "code": 403, "reason": "Forbidden", "message": "no"}))
            }
            "/api/v1/namespaces/n/pods" if created => {
                let write = Write::Create { resource: PODS, namespace: "n".into(), object: body.clone() };
                let made = self.cluster.write(&PODS, write).ok_or("nothing was made")?;
                (201, serde_json::from_slice(&made.json())?)
            }
            "/api/v1/namespaces/n/events" if created => (201, body.clone()),
            _ => (404, json!({"kind": "Status", "code": 404, "reason": "NotFound", "message": "none"})),
        };
        let _ = self.requests.send((path, body));
        let body = Full::new(Bytes::from(answer.to_string())).map_err(|never| match never {}).boxed_unsync();
        Ok(http::Response::builder().status(code).body(body)?)
    }
}

/// Wants one pod for each map.
struct PodPerMap;

impl Controller for PodPerMap {
    fn name(&self) -> &'static str {
        "pod-per-map"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::itself(MAPS),
            Watch { resource: PODS, keys: |_, pod| vec![Key::new(pod.meta.namespace.clone(), "m")] },
        ]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, _now: Timestamp) -> Plan {
        if !view.list(&PODS, Some(&key.namespace)).is_empty() {
            return Plan::default();
        }
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "p-"}});
        // As a deadline in an object may have it.
        let mut plan = Plan::wake(Duration::MAX);
        plan.writes.push(Write::Create { resource: PODS, namespace: key.namespace.clone(), object });
        let told = if last.error.is_some() { "Again" } else { "First" };
        plan.events.push(coracle_reconcile::EventNote {
            regarding: json!({"kind": "ConfigMap", "namespace": "n", "name": key.name}),
            kind: coracle_reconcile::EventKind::Normal,
            reason: told,
            message: "Created pod: {name}".into(),
            of_write: Some(0),
        });
        plan
    }
}

/// Asks the same again and again.
struct Asker;

impl Controller for Asker {
    fn name(&self) -> &'static str {
        "asker"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::itself(MAPS)]
    }

    fn reconcile(&self, _view: &dyn View, key: &Key, _last: &Outcome, _now: Timestamp) -> Plan {
        let ask = Ask::List { resource: MAPS, namespace: key.namespace.clone(), selector: String::new() };
        Plan { asks: vec![ask], ..Plan::default() }
    }
}

#[tokio::test(start_paused = true)]
async fn a_question_that_fails_is_asked_ever_less_often_and_each_time_is_counted() {
    let cluster = Arc::new(Cluster::default());
    cluster.put(&MAPS, json!({"metadata": {"name": "m", "namespace": "n"}}));
    let (requests, mut seen) = mpsc::unbounded_channel();
    let server = Arc::new(Server { cluster: cluster.clone(), requests, refused: Mutex::new(false) });
    let clients: Clients = Arc::new(move |_| Client::new(server.clone()));
    let (scope, metrics, started) = (Scope::root(), Arc::<coracle_controld::Metrics>::default(), Instant::now());
    let driver = Driver {
        scope: scope.clone(),
        view: cluster.clone(),
        clients,
        clock: coracle_rt::Clock::system(),
        signer: None,
        metrics: metrics.clone(),
    };
    driver.start(vec![Box::new(Asker)]);
    let mut asked = 0;
    while asked < 10 {
        let (path, _) = seen.recv().await.expect("the driver goes on");
        asked += usize::from(path.ends_with("/configmaps"));
    }
    let waited: u64 = (0..9).map(|failures| 5 << failures).sum();
    assert!(started.elapsed() >= Duration::from_millis(waited), "{:?}", started.elapsed());
    let told = metrics.text();
    let retries = told.lines().find_map(|line| line.strip_prefix("workqueue_retries_total{name=\"asker\"} "));
    assert!(retries.is_some_and(|count| count.parse::<u64>().is_ok_and(|count| count >= 9)), "{told}");
    assert_eq!(scope.close(Duration::from_secs(10)).await, Closed::Clean);
}

/// Takes a minute for each answer.
struct Slow;

#[async_trait]
impl Transport for Slow {
    async fn send(&self, _request: http::Request<Bytes>) -> Result<http::Response<Body>, BodyError> {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Err("nothing came of it".into())
    }
}

/// Looks at `soon` every second, and asks about `slow`; one at a time. Tells what it looked at.
struct OneAtATime(mpsc::UnboundedSender<(String, Instant)>);

impl Controller for OneAtATime {
    fn name(&self) -> &'static str {
        "one-at-a-time"
    }

    fn watches(&self) -> Vec<Watch> {
        Vec::new()
    }

    fn standing_keys(&self) -> Vec<Key> {
        vec![Key::new("", "soon"), Key::new("", "slow")]
    }

    fn concurrency_max(&self) -> usize {
        1
    }

    fn reconcile(&self, _view: &dyn View, key: &Key, _last: &Outcome, _now: Timestamp) -> Plan {
        let _ = self.0.send((key.name.clone(), Instant::now()));
        if key.name == "soon" {
            return Plan::wake(Duration::from_secs(1));
        }
        let ask = Ask::List { resource: MAPS, namespace: String::new(), selector: String::new() };
        Plan { asks: vec![ask], ..Plan::default() }
    }
}

/// Time stands still in this test while anything is busy: a driver that turned in circles would never come to its end.
#[tokio::test(start_paused = true)]
async fn a_key_whose_time_has_come_waits_for_room_and_costs_nothing_meanwhile() {
    let (looks, mut seen) = mpsc::unbounded_channel();
    let (scope, started) = (Scope::root(), Instant::now());
    let driver = Driver {
        scope: scope.clone(),
        view: Arc::new(Cluster::default()),
        clients: Arc::new(|_| Client::new(Arc::new(Slow))),
        clock: coracle_rt::Clock::system(),
        signer: None,
        metrics: Arc::default(),
    };
    driver.start(vec![Box::new(OneAtATime(looks))]);
    let mut told = Vec::new();
    while told.len() < 3 {
        let (name, at) = seen.recv().await.expect("the driver goes on");
        told.push((name, at.duration_since(started).as_secs()));
    }
    assert_eq!(told, [("soon".to_owned(), 0), ("slow".to_owned(), 0), ("soon".to_owned(), 60)]);
    scope.cancel();
}

#[tokio::test]
async fn a_refused_plan_is_tried_again_and_its_event_names_what_was_made() {
    let cluster = Arc::new(Cluster::default());
    cluster.put(&MAPS, json!({"metadata": {"name": "m", "namespace": "n"}}));
    let (requests, mut seen) = mpsc::unbounded_channel();
    let server = Arc::new(Server { cluster: cluster.clone(), requests, refused: Mutex::new(false) });
    let clients: Clients = Arc::new(move |_| Client::new(server.clone()));
    let scope = Scope::root();
    let driver = Driver {
        scope: scope.clone(),
        view: cluster.clone(),
        clients,
        clock: coracle_rt::Clock::system(),
        signer: None,
        metrics: Arc::default(),
    };
    driver.start(vec![Box::new(PodPerMap)]);
    let event = loop {
        let (path, body) = seen.recv().await.expect("the driver goes on");
        if path.ends_with("/events") {
            break body;
        }
    };
    assert_eq!(cluster.view.names(&PODS).len(), 1);
    assert_eq!(event["reason"], "Again");
    assert_eq!(event["message"], format!("Created pod: {}", cluster.view.names(&PODS)[0]));
    assert_eq!((&event["count"], &event["source"]["component"]), (&json!(1), &json!("pod-per-map")));
    assert_eq!(scope.close(Duration::from_secs(10)).await, Closed::Clean);
}
