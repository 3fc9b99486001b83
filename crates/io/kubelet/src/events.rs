//! Events: what happens to pods and to the node, told to the API. Like events are counted, not repeated; when the API
//! cannot keep up, events are dropped rather than work delayed.

use std::collections::{BTreeMap, VecDeque};

use coracle_client::{Client, ClientError, ObjectPath, Patch, ResourceRef, WriteOptions};
use coracle_podlife::Severity;
use coracle_rt::{Clock, Scope};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::node_context::{name_of, namespace_of, uid_of};

const QUEUE_MAX: usize = 512;
const REMEMBERED_MAX: usize = 1024;

/// Takes events; cheap to clone.
#[derive(Clone)]
pub(crate) struct EventSink {
    sender: mpsc::Sender<Told>,
    clock: Clock,
}

struct Told {
    regarding: Value,
    severity: Severity,
    reason: String,
    message: String,
    at: Timestamp,
}

/// Tells events about one object.
#[derive(Clone)]
pub(crate) struct Recorder {
    sink: EventSink,
    regarding: Value,
}

impl EventSink {
    pub fn start(scope: &Scope, client: Client, clock: Clock, host: String) -> EventSink {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let writer = Writer { client, host, known: BTreeMap::new(), order: VecDeque::new(), made: 0 };
        scope.spawn_until_cancelled("events", writer.run(receiver));
        EventSink { sender, clock }
    }

    pub fn about_pod(&self, pod: &Pod) -> Recorder {
        let regarding = json!({
            "apiVersion": "v1", "kind": "Pod", "namespace": namespace_of(pod), "name": name_of(pod),
            "uid": uid_of(pod), "resourceVersion": pod.metadata.resource_version.clone().unwrap_or_default(),
        });
        Recorder { sink: self.clone(), regarding }
    }

    /// By name, as upstream's kubelet does it: the uid of a node in its events is its name.
    pub fn about_node(&self, name: &str) -> Recorder {
        Recorder { sink: self.clone(), regarding: json!({"kind": "Node", "name": name, "uid": name}) }
    }
}

impl Recorder {
    /// `container` puts the event at a container of the pod.
    pub fn note(&self, severity: Severity, reason: &str, message: &str, container: Option<&str>) {
        let mut regarding = self.regarding.clone();
        if let Some(name) = container {
            regarding["fieldPath"] = json!(format!("spec.containers{{{name}}}"));
        }
        let told = Told {
            regarding,
            severity,
            reason: reason.to_owned(),
            message: message.to_owned(),
            at: self.sink.clock.now(),
        };
        if self.sink.sender.try_send(told).is_err() {
            tracing::debug!(reason, "an event is dropped");
        }
    }
}

struct Writer {
    client: Client,
    host: String,
    known: BTreeMap<String, (String, i64)>,
    order: VecDeque<String>,
    made: u64,
}

impl Writer {
    async fn run(mut self, mut receiver: mpsc::Receiver<Told>) {
        while let Some(told) = receiver.recv().await {
            if let Err(error) = self.write(&told).await {
                tracing::debug!(%error, reason = told.reason, "an event could not be written");
            }
        }
    }

    async fn write(&mut self, told: &Told) -> Result<(), ClientError> {
        let namespace = match told.regarding["namespace"].as_str().unwrap_or_default() {
            "" => "default".to_owned(),
            namespace => namespace.to_owned(),
        };
        let key = format!("{}/{}/{}", told.regarding, told.reason, told.message);
        let events = ResourceRef::new("", "v1", "events");
        let options = WriteOptions::default();
        let at = seconds(told.at);
        if let Some((name, count)) = self.known.get_mut(&key) {
            *count += 1;
            let path = ObjectPath::new(events.clone(), &namespace, name);
            let patch = Patch::Strategic(json!({"count": *count, "lastTimestamp": at}));
            match self.client.patch(&path, &patch, &options).await {
                Ok(_) => return Ok(()),
                Err(ClientError::Status(status)) if status.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        self.made += 1;
        let subject = told.regarding["name"].as_str().unwrap_or_default();
        let stamp = told.at.as_nanosecond() as u64 ^ self.made;
        let name = format!("{subject}.{stamp:x}");
        let severity = match told.severity {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        };
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": told.regarding, "reason": told.reason, "message": told.message, "type": severity,
            "source": {"component": "kubelet", "host": self.host},
            "reportingComponent": "kubelet", "reportingInstance": self.host,
            "firstTimestamp": at, "lastTimestamp": at, "count": 1,
        });
        self.client.create(&events, &namespace, &event, &options).await?;
        self.remember(key, name);
        Ok(())
    }

    fn remember(&mut self, key: String, name: String) {
        if self.known.insert(key.clone(), (name, 1)).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

fn seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}
