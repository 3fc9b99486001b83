//! Who looks on: the trace of what controllers asked of the server, counts, and what they must never do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coracle_meta::{Object, Resource};
use coracle_reconcile::View;
use coracle_rt::{Clock, Dice};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::weather::Weather;

/// Controllers that delete what they own and nothing else, by their service account, with the kinds that they are.
const OWNERS_ONLY: [(&str, &[&str]); 6] = [
    ("deployment-controller", &["Deployment"]),
    ("replicaset-controller", &["ReplicaSet"]),
    ("replication-controller", &["ReplicationController"]),
    ("statefulset-controller", &["StatefulSet"]),
    ("job-controller", &["Job"]),
    ("cronjob-controller", &["CronJob"]),
];

pub struct Watchdog {
    pub weather: Weather,
    pub dice: Dice,
    pub clock: Clock,
    pub view: Arc<dyn View>,
    pub died: Notify,
    fair: AtomicBool,
    began: Instant,
    seen: Mutex<Seen>,
    writes: AtomicU64,
    until_death: Mutex<Vec<u64>>,
    measured: Mutex<Measured>,
    hook: Mutex<Option<Hook>>,
}

/// An admission webhook whose failure policy is `Fail`, and what becomes of the pods that are to be made.
#[derive(Clone, Copy, Debug)]
pub enum Hook {
    Denies,
    TimesOut,
}

#[derive(Default)]
struct Measured {
    load: u64,
    of_pods: Option<Metrics>,
}

/// What `metrics.k8s.io` would list of pods under a load, in thousandths of a processor for all of them.
type Metrics = Box<dyn Fn(u64) -> Value + Send>;

#[derive(Default)]
struct Seen {
    trace: Vec<String>,
    violations: Vec<String>,
    /// Of what uid an object of a kind and name was, ever.
    uids: BTreeMap<String, String>,
    last_write: Option<Instant>,
    reconciles: BTreeMap<&'static str, u64>,
}

/// A request that is under way.
pub struct Asked {
    words: String,
    is_write: bool,
    is_event: bool,
}

impl Watchdog {
    pub fn new(weather: Weather, dice: Dice, clock: Clock, view: Arc<dyn View>) -> Arc<Watchdog> {
        let until_death = Mutex::new(weather.crashes.clone());
        Arc::new(Watchdog {
            weather,
            dice,
            clock,
            view,
            died: Notify::new(),
            fair: AtomicBool::new(false),
            began: Instant::now(),
            seen: Mutex::default(),
            writes: AtomicU64::new(0),
            until_death,
            measured: Mutex::default(),
            hook: Mutex::default(),
        })
    }

    /// From now on nothing fails.
    pub fn clear_up(&self) {
        self.fair.store(true, Ordering::Relaxed);
    }

    pub fn is_fair(&self) -> bool {
        self.fair.load(Ordering::Relaxed)
    }

    /// Counts a write down to the process's next death.
    pub fn is_last_write(&self) -> bool {
        let mut until = self.until_death.lock();
        let Some(next) = until.last_mut() else { return false };
        *next = next.saturating_sub(1);
        let dies = *next == 0;
        if dies {
            until.pop();
        }
        dies
    }

    pub fn die(&self) {
        self.note("the controllers' process dies".into());
        self.died.notify_one();
    }

    pub fn measure(&self, metrics: impl Fn(u64) -> Value + Send + 'static) {
        self.measured.lock().of_pods = Some(Box::new(metrics));
    }

    pub fn load(&self, millicores: u64) {
        self.measured.lock().load = millicores;
    }

    /// The canned answer, where a scenario measures.
    pub fn metrics(&self) -> Option<Value> {
        let measured = self.measured.lock();
        measured.of_pods.as_ref().map(|metrics| metrics(measured.load))
    }

    /// From now on pods are shown to this webhook, or to none.
    pub fn register(&self, hook: Option<Hook>) {
        *self.hook.lock() = hook;
    }

    pub fn hook(&self) -> Option<Hook> {
        *self.hook.lock()
    }

    pub fn note(&self, words: String) {
        let at = self.began.elapsed().as_millis();
        self.seen.lock().trace.push(format!("{at} {words}"));
    }

    pub fn blame(&self, words: String) {
        self.note(format!("VIOLATION {words}"));
        self.seen.lock().violations.push(words);
    }

    pub fn before(&self, user: &str, request: &http::Request<Bytes>) -> Asked {
        let account = user.rsplit(':').next().unwrap_or_default();
        let (method, path) = (request.method(), request.uri().path());
        let is_write = *method != http::Method::GET;
        if *method == http::Method::DELETE {
            self.judge_deletion(account, path);
        }
        let body = String::from_utf8_lossy(request.body());
        let words = format!("{account} {method} {path} {body}");
        Asked { words, is_write, is_event: path.contains("/events") }
    }

    pub fn after(&self, asked: Asked, code: u16) {
        if asked.is_write && !asked.is_event {
            self.writes.fetch_add(1, Ordering::Relaxed);
            self.seen.lock().last_write = Some(Instant::now());
        }
        self.note(format!("{} -> {code}", asked.words));
    }

    /// How long no controller has written anything.
    pub fn quiet(&self) -> Duration {
        self.seen.lock().last_write.unwrap_or(self.began).elapsed()
    }

    pub fn count_reconcile(&self, controller: &'static str) {
        *self.seen.lock().reconciles.entry(controller).or_default() += 1;
    }

    pub fn reconciles(&self) -> BTreeMap<&'static str, u64> {
        self.seen.lock().reconciles.clone()
    }

    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    pub fn trace(&self) -> Vec<String> {
        self.seen.lock().trace.clone()
    }

    pub fn violations(&self) -> Vec<String> {
        self.seen.lock().violations.clone()
    }

    /// Owners' references must name what is or was.
    pub fn judge_owners(&self, resource: &Resource, object: &Object) {
        let mut wrong = Vec::new();
        let mut seen = self.seen.lock();
        seen.uids.insert(object.meta.uid.clone(), object.meta.name.clone());
        for owner in object.meta.owner_references.iter().filter(|owner| owner.controller) {
            if seen.uids.get(&owner.uid).is_some_and(|name| *name != owner.name) {
                wrong.push(format!("{resource} {} is owned by {} under another's uid", object.meta.name, owner.name));
            }
        }
        drop(seen);
        for words in wrong {
            self.blame(words);
        }
    }

    fn judge_deletion(&self, account: &str, path: &str) {
        let Some((_, kinds)) = OWNERS_ONLY.iter().find(|(name, _)| *name == account) else { return };
        let Some((resource, namespace, name)) = target(path) else { return };
        let Some(object) = self.view.get(&resource, &namespace, &name) else { return };
        let owned = object.meta.owner_references.iter();
        if !owned.filter(|owner| owner.controller).any(|owner| kinds.contains(&owner.kind.as_str())) {
            self.blame(format!("{account} deletes {resource} {namespace}/{name}, which it does not own"));
        }
    }
}

/// What a path of a namespaced object names.
fn target(path: &str) -> Option<(Resource, String, String)> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        ["api", "v1", "namespaces", namespace, plural, name] => {
            Some((Resource::owned("", *plural), (*namespace).into(), (*name).into()))
        }
        ["apis", group, _, "namespaces", namespace, plural, name] => {
            Some((Resource::owned(*group, *plural), (*namespace).into(), (*name).into()))
        }
        _ => None,
    }
}
