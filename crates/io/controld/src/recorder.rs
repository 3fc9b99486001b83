//! Recording events: the same event again raises a count, many similar ones are combined, and an object that causes
//! too many is silenced for a while, with the thresholds of client-go's recorder. Losing an event harms nothing.

use std::collections::{HashMap, HashSet};

use coracle_client::{Client, ClientError, Made, ObjectPath, Patch, ResourceRef, WriteOptions};
use coracle_reconcile::EventKind;
use coracle_reconcile::EventNote;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const EVENTS: ResourceRef = ResourceRef::new("", "v1", "events");
/// Entries remembered of each kind, as many as client-go's cache holds; a full memory is emptied.
const REMEMBERED_MAX: usize = 4096;
/// Different messages of otherwise equal events before they are combined, within this time.
const SIMILAR_MAX: usize = 10;
const SIMILAR_WITHIN: SignedDuration = SignedDuration::from_secs(600);
/// Events about one object at once, and how long until one more is allowed.
const BURST: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;
/// `events` messages are cut to this length.
const MESSAGE_BYTES_MAX: usize = 1024;

/// An event ready to be recorded.
pub struct Record {
    pub client: Client,
    pub component: &'static str,
    pub note: EventNote,
}

#[derive(Default)]
pub struct Recorder {
    seen: HashMap<String, Seen>,
    similar: HashMap<String, Similar>,
    buckets: HashMap<String, Bucket>,
}

struct Seen {
    namespace: String,
    name: String,
    count: u64,
}

struct Similar {
    messages: HashSet<String>,
    last: Timestamp,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

/// What to send for a note.
enum Step {
    Silence,
    Again { key: String, namespace: String, name: String, count: u64, message: String },
    First { key: String, message: String },
}

impl Recorder {
    pub async fn record(&mut self, record: Record, now: Timestamp) {
        let done = match self.step(record.component, &record.note, now) {
            Step::Silence => return,
            Step::Again { key, namespace, name, count, message } => {
                let patch = json!({"count": count, "lastTimestamp": rfc3339(now), "message": message});
                let path = ObjectPath::new(EVENTS, &namespace, &name);
                let answer = record.client.patch_of(&path, &Patch::Merge(patch), &WriteOptions::default()).await;
                match answer {
                    Err(ClientError::Status(status)) if status.is_not_found() => {
                        self.create(&record, key, message, now).await
                    }
                    other => other.map(|_: Made| ()),
                }
            }
            Step::First { key, message } => self.create(&record, key, message, now).await,
        };
        if let Err(error) = done {
            tracing::debug!(%error, reason = record.note.reason, "event was not recorded");
        }
    }

    async fn create(
        &mut self,
        record: &Record,
        key: String,
        message: String,
        now: Timestamp,
    ) -> Result<(), ClientError> {
        let event = event(record.component, &record.note, &message, now);
        let text = |field: &str| event["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let _: Made = record.client.create_of(&EVENTS, &namespace, &event, &WriteOptions::default()).await?;
        self.seen.insert(key, Seen { namespace, name, count: 1 });
        Ok(())
    }

    fn step(&mut self, component: &str, note: &EventNote, now: Timestamp) -> Step {
        for full in [self.seen.len(), self.similar.len(), self.buckets.len()] {
            if full >= REMEMBERED_MAX {
                *self = Recorder::default();
            }
        }
        let about = format!("{component}\u{0}{}", note.regarding);
        if !self.allowed(&about, now) {
            return Step::Silence;
        }
        let group = format!("{about}\u{0}{:?}\u{0}{}", note.kind, note.reason);
        let similar = self.similar.entry(group.clone()).or_insert(Similar { messages: HashSet::new(), last: now });
        if now.duration_since(similar.last) > SIMILAR_WITHIN {
            similar.messages.clear();
        }
        similar.last = now;
        similar.messages.insert(note.message.clone());
        let (key, message) = if similar.messages.len() >= SIMILAR_MAX {
            (group, format!("(combined from similar events): {}", note.message))
        } else {
            (format!("{group}\u{0}{}", note.message), note.message.clone())
        };
        let message = cut(message);
        match self.seen.get_mut(&key) {
            Some(seen) => {
                seen.count += 1;
                let (namespace, name) = (seen.namespace.clone(), seen.name.clone());
                Step::Again { key, namespace, name, count: seen.count, message }
            }
            None => Step::First { key, message },
        }
    }

    fn allowed(&mut self, about: &str, now: Timestamp) -> bool {
        let bucket = self.buckets.entry(about.to_owned()).or_insert(Bucket { tokens: BURST, at: now });
        let passed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + passed / REFILL_SECONDS).min(BURST);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }
}

fn event(component: &str, note: &EventNote, message: &str, now: Timestamp) -> Value {
    let name = note.regarding["name"].as_str().unwrap_or_default();
    let namespace = note.regarding["namespace"].as_str().filter(|namespace| !namespace.is_empty()).unwrap_or("default");
    let kind = match note.kind {
        EventKind::Normal => "Normal",
        EventKind::Warning => "Warning",
    };
    let time = rfc3339(now);
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": format!("{name}.{:x}", now.as_nanosecond()), "namespace": namespace},
        "involvedObject": note.regarding, "reason": note.reason, "message": message, "type": kind,
        "source": {"component": component}, "reportingComponent": component, "reportingInstance": "",
        "firstTimestamp": time, "lastTimestamp": time, "count": 1,
    })
}

/// Seconds are all that `meta/v1 Time` holds.
pub fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn cut(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(message: &str) -> EventNote {
        let regarding = json!({"kind": "Pod", "name": "a", "namespace": "n"});
        EventNote { regarding, kind: EventKind::Normal, reason: "R", message: message.into(), of_write: None }
    }

    #[test]
    fn an_object_that_causes_too_many_events_is_silenced() {
        let (mut recorder, now) = (Recorder::default(), Timestamp::UNIX_EPOCH);
        let sent = (0..40).filter(|_| !matches!(recorder.step("c", &note("m"), now), Step::Silence)).count();
        assert_eq!(sent, 25);
        let later = now + SignedDuration::from_secs(300);
        assert!(!matches!(recorder.step("c", &note("m"), later), Step::Silence));
    }

    #[test]
    fn similar_events_are_combined() {
        let (mut recorder, now) = (Recorder::default(), Timestamp::UNIX_EPOCH);
        for number in 0..9 {
            recorder.step("c", &note(&number.to_string()), now);
        }
        let Step::First { message, .. } = recorder.step("c", &note("last"), now) else { panic!("must be sent") };
        assert_eq!(message, "(combined from similar events): last");
    }
}
