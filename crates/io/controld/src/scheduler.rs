//! The shell of the scheduler: changes of the view become events of the core, its effects become bindings, conditions
//! and events in the API.

use std::sync::Arc;

use coracle_client::{Client, ClientError, ObjectPath, Patch, WriteOptions};
use coracle_meta::{Object, Resource};
use coracle_reconcile::{Change, EventKind, EventNote, View};
use coracle_rt::{Clock, Scope};
use coracle_scheduler::pod::PodKey;
use coracle_scheduler::{Effect, Event, PodInfo, Scheduler};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::recorder::{Record, Recorder, rfc3339};

pub const DEFAULT_SCHEDULER: &str = "default-scheduler";

const PODS: Resource = Resource::new("", "pods");
const NODES: Resource = Resource::new("", "nodes");
const NAMESPACES: Resource = Resource::new("", "namespaces");

/// Requests under way at once; decisions wait while so many are.
const IN_FLIGHT_MAX: usize = 128;
/// Events that wait to be recorded; more are dropped, as client-go drops them.
const RECORDS_MAX: usize = 1000;

/// Runs the default scheduler until the scope ends.
pub fn run_scheduler(scope: &Scope, view: Arc<dyn View>, client: Client, clock: Clock) {
    let (sender, changes) = mpsc::unbounded_channel();
    for resource in [NAMESPACES, NODES, PODS] {
        let sender = sender.clone();
        let sink = move |resource: &Resource, change: &Change| {
            if let Some(event) = event_of(resource, change) {
                let _ = sender.send(event);
            }
        };
        view.subscribe(&resource, Arc::new(sink));
    }
    let (records, inbox) = mpsc::channel(RECORDS_MAX);
    scope.spawn_until_cancelled("events", record(inbox, client.clone(), clock.clone()));
    let shell = Shell { view, client, clock, records };
    scope.spawn_until_cancelled("scheduler", shell.run(changes));
}

struct Shell {
    view: Arc<dyn View>,
    client: Client,
    clock: Clock,
    records: mpsc::Sender<EventNote>,
}

type Work = BoxFuture<'static, Option<Event>>;

impl Shell {
    async fn run(self, mut changes: mpsc::UnboundedReceiver<Event>) {
        let mut scheduler = Scheduler::new(DEFAULT_SCHEDULER);
        let mut work: FuturesUnordered<Work> = FuturesUnordered::new();
        loop {
            while let Ok(event) = changes.try_recv() {
                scheduler.observe(event, self.clock.now());
            }
            while work.len() < IN_FLIGHT_MAX
                && let Some(effect) = scheduler.next(self.clock.now())
            {
                work.push(self.carry_out(effect));
            }
            let due = scheduler.wake_at().filter(|_| work.len() < IN_FLIGHT_MAX);
            let wait = due.map(|due| self.clock.now().duration_until(due).unsigned_abs());
            tokio::select! {
                event = changes.recv() => match event {
                    Some(event) => scheduler.observe(event, self.clock.now()),
                    None => return,
                },
                Some(done) = work.next() => {
                    if let Some(event) = done {
                        scheduler.observe(event, self.clock.now());
                    }
                }
                () = sleep(wait) => (),
            }
        }
    }

    fn carry_out(&self, effect: Effect) -> Work {
        let (client, records) = (self.client.clone(), self.records.clone());
        match effect {
            Effect::Bind { pod, node, attempts } => Box::pin(async move {
                match bind(&client, &pod, &node).await {
                    Ok(()) => {
                        let message = format!("Successfully assigned {}/{} to {node}", pod.key.namespace, pod.key.name);
                        let _ = records.try_send(note(&pod, EventKind::Normal, "Scheduled", message));
                        None
                    }
                    Err(error) => {
                        tracing::debug!(object = ?pod.key, node, error = %error.into_status(), "binding refused");
                        Some(Event::BindFailed { pod, attempts })
                    }
                }
            }),
            Effect::Unschedulable { pod, message } => {
                let conditions = self.with_unschedulable(&pod, &message);
                Box::pin(async move {
                    let _ = records.try_send(note(&pod, EventKind::Warning, "FailedScheduling", message));
                    if let Some(patch) = conditions {
                        let path = ObjectPath::of::<Pod>(&pod.key.namespace, &pod.key.name).subresource("status");
                        let answer = client.patch(&path, &Patch::Merge(patch), &WriteOptions::default()).await;
                        if let Err(error) = answer {
                            tracing::debug!(object = ?pod.key, error = %error.into_status(), "condition not written");
                        }
                    }
                    None
                })
            }
        }
    }

    /// The patch that sets PodScheduled to False with the reason; `None` where it says so already.
    fn with_unschedulable(&self, pod: &PodInfo, message: &str) -> Option<Value> {
        let object = self.view.get(&PODS, &pod.key.namespace, &pod.key.name)?;
        let current: Value = serde_json::from_slice(&object.json()).ok()?;
        let mut conditions = current["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let mut wanted = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "observedGeneration": object.meta.generation,
            "lastProbeTime": null, "lastTransitionTime": rfc3339(self.clock.now()),
        });
        match conditions.iter_mut().find(|condition| condition["type"] == "PodScheduled") {
            Some(was) if was["message"] == message && was["status"] == "False" => return None,
            Some(was) => {
                if was["status"] == "False" {
                    wanted["lastTransitionTime"] = was["lastTransitionTime"].take();
                }
                *was = wanted;
            }
            None => conditions.push(wanted),
        }
        Some(json!({
            "metadata": {"uid": pod.uid, "resourceVersion": object.revision.to_string()},
            "status": {"conditions": conditions},
        }))
    }
}

async fn bind(client: &Client, pod: &PodInfo, node: &str) -> Result<(), ClientError> {
    let path = ObjectPath::of::<Pod>(&pod.key.namespace, &pod.key.name).subresource("binding");
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": pod.key.name, "namespace": pod.key.namespace, "uid": pod.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    client.create_sub(&path, &binding).await.map(|_| ())
}

fn note(pod: &PodInfo, kind: EventKind, reason: &'static str, message: String) -> EventNote {
    let regarding = json!({
        "apiVersion": "v1", "kind": "Pod",
        "namespace": pod.key.namespace, "name": pod.key.name, "uid": pod.uid,
    });
    EventNote { regarding, kind, reason, message, of_write: None }
}

async fn record(mut inbox: mpsc::Receiver<EventNote>, client: Client, clock: Clock) {
    let mut recorder = Recorder::default();
    while let Some(note) = inbox.recv().await {
        let record = Record { client: client.clone(), component: DEFAULT_SCHEDULER, note };
        recorder.record(record, clock.now()).await;
    }
}

async fn sleep(wait: Option<std::time::Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

fn event_of(resource: &Resource, change: &Change) -> Option<Event> {
    match (resource, &change.new, &change.old) {
        (resource, Some(new), _) if *resource == PODS => Some(Event::PodSet(new.decode::<Pod>().ok()?)),
        (resource, None, Some(old)) if *resource == PODS => Some(Event::PodGone(key_of(old))),
        (resource, Some(new), _) if *resource == NODES => Some(Event::NodeSet(new.decode::<Node>().ok()?)),
        (resource, None, Some(old)) if *resource == NODES => Some(Event::NodeGone(old.meta.name.clone())),
        (_, Some(new), _) => Some(Event::NamespaceSet { name: new.meta.name.clone(), labels: new.meta.labels.clone() }),
        (_, None, Some(old)) => Some(Event::NamespaceGone(old.meta.name.clone())),
        (_, None, None) => None,
    }
}

fn key_of(object: &Object) -> PodKey {
    PodKey { namespace: object.meta.namespace.clone(), name: object.meta.name.clone() }
}
