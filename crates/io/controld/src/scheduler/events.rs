//! The scheduler's events, written beside its work in the form of events.k8s.io/v1: the same again within a while makes
//! a series. Losing one harms nothing; what comes while too many wait is dropped.

use std::collections::HashMap;

use coracle_client::{Client, ClientError, Made, ObjectPath, Patch, ResourceRef, WriteOptions};
use coracle_meta::time::micros;
use coracle_reconcile::EventKind;
use coracle_rt::{Clock, Scope};
use coracle_scheduler::PodInfo;
use futures_util::stream::{FuturesUnordered, StreamExt};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::mpsc;

const EVENTS: ResourceRef = ResourceRef::new("events.k8s.io", "v1", "events");
/// Events that wait to be written.
const WAITING_MAX: usize = 16_384;
/// Writes under way at once: few, so that bindings go first.
const UNDERWAY_MAX: usize = 8;
/// Series remembered; a full memory is emptied.
const SERIES_MAX: usize = 4096;
/// How long the same event continues its series.
const SERIES_WITHIN: SignedDuration = SignedDuration::from_mins(6);

pub struct Note {
    /// `v1 ObjectReference` of what the event is about.
    pub regarding: Value,
    pub related: Option<Value>,
    pub controller: String,
    pub kind: EventKind,
    pub reason: &'static str,
    pub action: &'static str,
    pub note: String,
}

#[derive(Clone)]
pub struct Events(mpsc::Sender<Note>);

pub fn reference(pod: &PodInfo) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "namespace": &*pod.key.namespace, "name": &*pod.key.name, "uid": pod.uid,
    })
}

impl Events {
    pub fn start(scope: &Scope, client: Client, clock: Clock) -> Events {
        let (sender, inbox) = mpsc::channel(WAITING_MAX);
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let writer = Writer { client, clock, host: host.trim().to_owned(), series: HashMap::new() };
        scope.spawn_until_cancelled("events", writer.run(inbox));
        Events(sender)
    }

    pub fn tell(&self, note: Note) {
        if self.0.try_send(note).is_err() {
            tracing::debug!("an event was dropped: too many wait");
        }
    }
}

struct Series {
    namespace: String,
    name: String,
    count: u64,
    last: Timestamp,
}

struct Writer {
    client: Client,
    clock: Clock,
    host: String,
    series: HashMap<String, Series>,
}

impl Writer {
    async fn run(mut self, mut inbox: mpsc::Receiver<Note>) {
        let mut underway = FuturesUnordered::new();
        loop {
            tokio::select! {
                note = inbox.recv(), if underway.len() < UNDERWAY_MAX => match note {
                    Some(note) => underway.push(self.write(note)),
                    None => return,
                },
                Some(result) = underway.next() => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "event was not recorded");
                    }
                }
            }
        }
    }

    fn write(&mut self, note: Note) -> impl Future<Output = Result<(), ClientError>> + use<> {
        let request = self.request(&note, self.clock.now());
        let client = self.client.clone();
        async move {
            match request {
                Request::Create { namespace, event } => {
                    client.create_of(&EVENTS, &namespace, &event, &WriteOptions::default()).await.map(|_: Made| ())
                }
                Request::Continue { path, patch } => {
                    client.patch_of(&path, &Patch::Merge(patch), &WriteOptions::default()).await.map(|_: Made| ())
                }
            }
        }
    }

    fn request(&mut self, note: &Note, now: Timestamp) -> Request {
        if self.series.len() >= SERIES_MAX {
            self.series.clear();
        }
        let uid = |reference: &Value| reference["uid"].as_str().unwrap_or_default().to_owned();
        let related = note.related.as_ref().map(uid).unwrap_or_default();
        let key = [note.reason, note.action, &note.controller, &uid(&note.regarding), &related].join("\u{0}");
        if let Some(series) = self.series.get_mut(&key)
            && now.duration_since(series.last) < SERIES_WITHIN
        {
            series.count += 1;
            series.last = now;
            let path = ObjectPath::new(EVENTS, &series.namespace, &series.name);
            let patch = json!({"series": {"count": series.count, "lastObservedTime": micros(now)}});
            return Request::Continue { path, patch };
        }
        let text = |field: &str| note.regarding[field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), format!("{}.{:x}", text("name"), now.as_nanosecond()));
        // A pod is bound once: only what can come again is remembered.
        if note.kind == EventKind::Warning {
            let series = Series { namespace: namespace.clone(), name: name.clone(), count: 1, last: now };
            self.series.insert(key, series);
        }
        Request::Create { event: self.event(note, &namespace, &name, now), namespace }
    }

    fn event(&self, note: &Note, namespace: &str, name: &str, now: Timestamp) -> Value {
        let kind = match note.kind {
            EventKind::Normal => "Normal",
            EventKind::Warning => "Warning",
        };
        let mut event = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": micros(now), "reportingController": note.controller,
            "reportingInstance": format!("{}-{}", note.controller, self.host),
            "action": note.action, "reason": note.reason, "note": note.note, "type": kind,
            "regarding": note.regarding,
        });
        if let Some(related) = &note.related {
            event["related"] = related.clone();
        }
        event
    }
}

enum Request {
    Create { namespace: String, event: Value },
    Continue { path: ObjectPath, patch: Value },
}
