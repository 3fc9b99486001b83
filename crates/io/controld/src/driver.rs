//! The loop of a controller: changes make keys due, due keys are decided about once the view shows what was written
//! for them before, and plans are carried out a bounded number at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::Client;
use coracle_meta::Resource;
use coracle_reconcile::{Answer, Change, Controller, Informed, Key, Outcome, Plan, View, Watch, WatchAll};
use coracle_rt::{Clock, Scope};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use jiff::SignedDuration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::catalog::{Around, Catalog};
use crate::execute::{Done, Means, Signer, Written, execute};
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::recorder::{Record, Recorder};

/// Events that wait to be recorded; more are dropped, as client-go drops them.
const RECORDS_MAX: usize = 1000;
/// Longest wait for a view to show an own write.
const OWN_WRITE_WAIT_MAX: Duration = Duration::from_secs(30);
/// How often a view that says nothing is asked whether it shows an own write.
const OWN_WRITE_CHECK: Duration = Duration::from_millis(50);
/// A decision that takes longer is dear: its key then rests for a multiple of that time, so that no key, an owner of
/// ten thousand pods that all change for one, keeps a core busy.
const DEAR: Duration = Duration::from_millis(1);
const REST_FACTOR: u32 = 10;
const REST_MAX: Duration = Duration::from_millis(100);
/// Longest time until a key is looked at again that asked for any: times in objects may be millennia away.
const WAKE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
const SYNC_CHECK: Duration = Duration::from_millis(5);
const DISCOVERY_RETRY: Duration = Duration::from_secs(2);
/// How often the time of day is compared with a clock that nobody sets, and how far it must be off to have jumped: it
/// does so when somebody sets it, and when a machine wakes up.
const JUMP_CHECK: Duration = Duration::from_secs(30);
const JUMP_MIN: SignedDuration = SignedDuration::from_secs(2);

/// Makes the client that carries an identity, given the name of its service account in `kube-system`.
pub type Clients = Arc<dyn Fn(&str) -> Client + Send + Sync>;

/// What all controllers share.
#[derive(Clone)]
pub struct Driver {
    pub scope: Scope,
    pub view: Arc<dyn View>,
    pub clients: Clients,
    pub clock: Clock,
    /// Without one, certificate requests wait for another signer.
    pub signer: Option<Arc<dyn Signer>>,
    pub metrics: Arc<Metrics>,
}

impl Driver {
    /// Starts a task for each controller, one for events and one that keeps discovery up to date.
    pub fn start(self, controllers: Vec<Box<dyn Controller>>) {
        let view = self.view.clone();
        self.start_on(controllers.into_iter().map(|controller| (controller, view.clone())).collect());
    }

    /// The same with a view of its own for each controller.
    pub fn start_on(self, controllers: Vec<(Box<dyn Controller>, Arc<dyn View>)>) {
        let (records, inbox) = mpsc::channel(RECORDS_MAX);
        self.scope.spawn_until_cancelled("events", record_all(inbox, self.clock.clone()));
        let (catalog, started) = (Arc::new(Catalog::default()), Instant::now());
        let (jump, jumps) = watch::channel(());
        self.scope.spawn_until_cancelled("clock-jumps", tell_jumps(self.clock.clone(), jump));
        let mut everything = Vec::new();
        for (controller, view) in controllers {
            let (sender, changes) = mpsc::unbounded_channel();
            if let Some(all) = controller.watches_all() {
                everything.push((view.clone(), all, sender.clone()));
            }
            let means = Means {
                client: (self.clients)(controller.identity()),
                view: Arc::new(Informed { view, around: Around { catalog: catalog.clone(), started } }),
                signer: self.signer.clone(),
                updates: Arc::default(),
            };
            let worker = Worker {
                means,
                watches: controller.watches(),
                all: controller.watches_all(),
                controller: controller.into(),
                clock: self.clock.clone(),
                records: records.clone(),
                queue: Queue::default(),
                metrics: self.metrics.clone(),
                waiting: HashMap::new(),
                outcomes: HashMap::new(),
                resting: HashMap::new(),
                jumps: jumps.clone(),
            };
            self.scope.spawn_until_cancelled("controller", worker.run(sender, changes));
        }
        let client = (self.clients)("generic-garbage-collector");
        self.scope.spawn_until_cancelled("discovery", discover(client, catalog, self.view.clone(), everything));
    }
}

type Noted = (Resource, Change);
/// Unbounded because a cache must never wait for a controller; it holds what came since the loop's last turn.
type Notes = mpsc::UnboundedSender<Noted>;

/// Notes the changes of a resource that somebody minds: to wake a task for nothing costs more than to ask.
fn follow(view: &dyn View, resource: &Resource, notes: Notes, minds: fn(&Change) -> bool) {
    let sink = move |resource: &Resource, change: &Change| {
        if minds(change) {
            let _ = notes.send((resource.clone(), change.clone()));
        }
    };
    view.subscribe(resource, Arc::new(sink));
}

async fn record_all(mut inbox: mpsc::Receiver<Record>, clock: Clock) {
    let mut recorder = Recorder::default();
    while let Some(record) = inbox.recv().await {
        recorder.record(record, clock.now()).await;
    }
}

/// Tells when the time of day has jumped.
async fn tell_jumps(clock: Clock, jump: watch::Sender<()>) {
    let (mut seen, mut at) = (clock.now(), Instant::now());
    loop {
        tokio::time::sleep(JUMP_CHECK).await;
        let (now, passed) = (clock.now(), at.elapsed());
        let off = now.duration_since(seen) - SignedDuration::try_from(passed).unwrap_or_default();
        (seen, at) = (now, Instant::now());
        if off.abs() >= JUMP_MIN {
            tracing::info!(component = "controllers", seconds = off.as_secs(), "the time of day has jumped");
            jump.send_replace(());
        }
    }
}

/// Learns what is on offer at start and when custom resources or aggregated servers change.
async fn discover(
    client: Client,
    catalog: Arc<Catalog>,
    view: Arc<dyn View>,
    everything: Vec<(Arc<dyn View>, WatchAll, Notes)>,
) {
    let (sender, mut changes) = mpsc::unbounded_channel();
    let mut followed = std::collections::BTreeSet::new();
    let mut first = true;
    loop {
        if let Err(error) = catalog.refresh(&client).await {
            tracing::debug!(%error, "discovery failed");
            tokio::time::sleep(DISCOVERY_RETRY).await;
            continue;
        }
        for known in catalog.known().iter().filter(|known| followed.insert(known.resource.clone())) {
            for (view, all, notes) in everything.iter().filter(|(_, all, _)| !all.ignored.contains(&known.resource)) {
                let minds: fn(&Change) -> bool =
                    if all.only_belonging { |change| !change.leaves_belonging() } else { |_| true };
                follow(view.as_ref(), &known.resource, notes.clone(), minds);
            }
        }
        if std::mem::take(&mut first) {
            for (group, plural) in
                [("apiextensions.k8s.io", "customresourcedefinitions"), ("apiregistration.k8s.io", "apiservices")]
            {
                follow(view.as_ref(), &Resource::new(group, plural), sender.clone(), |_| true);
            }
        }
        if changes.recv().await.is_none() {
            return;
        }
        tokio::time::sleep(DISCOVERY_RETRY).await;
        while changes.try_recv().is_ok() {}
    }
}

struct Worker {
    controller: Arc<dyn Controller>,
    watches: Vec<Watch>,
    all: Option<WatchAll>,
    means: Means,
    clock: Clock,
    records: mpsc::Sender<Record>,
    queue: Queue,
    metrics: Arc<Metrics>,
    /// Own writes that the view has not shown yet, and until when to wait for them.
    waiting: HashMap<Key, (Vec<Written>, Instant)>,
    outcomes: HashMap<Key, Outcome>,
    /// Until when keys rest that are dear to decide about.
    resting: HashMap<Key, Instant>,
    /// Changes when the time of day has jumped, which keys may have waited for.
    jumps: watch::Receiver<()>,
}

type InFlight = FuturesUnordered<BoxFuture<'static, (Key, Plan, Done)>>;

impl Worker {
    async fn run(mut self, notes: Notes, mut changes: mpsc::UnboundedReceiver<Noted>) {
        self.synced(&notes).await;
        for key in self.controller.standing_keys() {
            self.queue.add(key);
        }
        let mut in_flight = InFlight::new();
        loop {
            self.start_due(&mut in_flight);
            self.metrics.set(self.controller.name(), self.queue.counts());
            // Without room a key that is due waits for what ends, and not for its time, which has come.
            let has_room = in_flight.len() < self.controller.concurrency_max();
            let due = self.queue.next_due().filter(|_| has_room);
            tokio::select! {
                // What has ended comes first, as it makes room; the order is fixed so that a simulation can be repeated.
                biased;
                Some((key, plan, done)) = in_flight.next() => self.finish(key, plan, done),
                note = changes.recv() => {
                    let Some(note) = note else { return };
                    self.note(&note);
                    while let Ok(note) = changes.try_recv() {
                        self.note(&note);
                    }
                }
                Ok(()) = self.jumps.changed() => self.queue.ring_all(),
                () = sleep_until(due) => {}
            }
        }
    }

    /// Subscribes to everything that decisions read and waits until it is there.
    async fn synced(&self, notes: &Notes) {
        let watched: Vec<Resource> = self.watches.iter().map(|watch| watch.resource.clone()).collect();
        let all: Vec<Resource> = watched.into_iter().chain(self.controller.reads()).collect();
        for (at, resource) in all.iter().enumerate() {
            if !all[..at].contains(resource) {
                follow(self.means.view.as_ref(), resource, notes.clone(), |_| true);
            }
        }
        while !all.iter().all(|resource| self.means.view.is_synced(resource)) {
            tokio::time::sleep(SYNC_CHECK).await;
        }
    }

    /// Finds the keys that a changed object stands for, as it was and as it is.
    fn note(&mut self, (resource, change): &Noted) {
        let mut keys = Vec::new();
        let view: &dyn View = self.means.view.as_ref();
        for object in [&change.old, &change.new].into_iter().flatten() {
            for watch in self.watches.iter().filter(|watch| watch.resource == *resource) {
                keys.extend((watch.keys)(view, object));
            }
            if let Some(all) = self.all.as_ref().filter(|all| !all.ignored.contains(resource)) {
                keys.extend((all.keys)(view, resource, object));
            }
        }
        for key in keys {
            self.queue.add(key);
        }
    }

    fn start_due(&mut self, in_flight: &mut InFlight) {
        while in_flight.len() < self.controller.concurrency_max() {
            let now = Instant::now();
            let Some(key) = self.queue.take(now) else { return };
            if let Some(until) = self.must_wait(&key, now) {
                self.queue.add_at(key.clone(), until);
                self.queue.done(&key);
                continue;
            }
            let last = self.outcomes.remove(&key).unwrap_or_default();
            let plan = self.controller.reconcile(self.means.view.as_ref(), &key, &last, self.clock.now());
            let took = now.elapsed();
            if took > DEAR {
                self.resting.retain(|_, until| *until > now);
                self.resting.insert(key.clone(), now + (took * REST_FACTOR).min(REST_MAX));
            }
            if plan.is_empty() {
                self.finish(key, plan, Done::default());
                continue;
            }
            tracing::debug!(controller = self.controller.name(), namespace = key.namespace, name = key.name, ?plan);
            let means = self.means.clone();
            in_flight.push(Box::pin(async move {
                let done = execute(&means, &plan).await;
                (key, plan, done)
            }));
        }
    }

    /// When to look at the key again that is not to be decided about yet.
    fn must_wait(&mut self, key: &Key, now: Instant) -> Option<Instant> {
        if let Some(until) = self.resting.get(key).copied() {
            if now < until {
                return Some(until);
            }
            self.resting.remove(key);
        }
        let (written, until) = self.waiting.get_mut(key)?;
        let view = &self.means.view;
        written.retain(|written| !shows(view.as_ref(), written));
        if !written.is_empty() && now < *until {
            return Some(now + OWN_WRITE_CHECK);
        }
        self.waiting.remove(key);
        None
    }

    fn finish(&mut self, key: Key, plan: Plan, done: Done) {
        let now = Instant::now();
        self.record(&plan, &done);
        let written: Vec<Written> = done.written.into_iter().flatten().collect();
        if !written.is_empty() {
            self.waiting.insert(key.clone(), (written, now + OWN_WRITE_WAIT_MAX));
        }
        if let Some(error) = &done.outcome.error {
            let (namespace, name) = (&key.namespace, &key.name);
            tracing::debug!(controller = self.controller.name(), namespace, name, %error, "plan failed");
            let failures = self.queue.fail(&key, now);
            self.outcomes.insert(key.clone(), Outcome { failures, ..done.outcome });
        } else {
            // A question that failed may be asked at once again, and again: those who do so are held back.
            let is_unanswered = done.outcome.answers.iter().any(|answer| matches!(answer, Answer::Failed(_)));
            if !plan.asks.is_empty() {
                self.outcomes.insert(key.clone(), done.outcome);
            }
            if is_unanswered {
                self.queue.fail(&key, now);
            } else {
                self.queue.succeed(&key);
                if !plan.asks.is_empty() {
                    self.queue.add(key.clone());
                }
            }
            if let Some(after) = plan.wake_after {
                self.queue.add_at(key.clone(), now + after.min(WAKE_MAX));
            }
        }
        self.queue.done(&key);
    }

    fn record(&self, plan: &Plan, done: &Done) {
        for note in &plan.events {
            let mut note = note.clone();
            if let Some(at) = note.of_write {
                let Some(Some(written)) = done.written.get(at) else { continue };
                note.message = note.message.replace("{name}", &written.name);
            }
            let record = Record { client: self.means.client.clone(), component: self.controller.component(), note };
            if self.records.try_send(record).is_err() {
                tracing::debug!(controller = self.controller.name(), "too many events, one is dropped");
            }
        }
    }
}

/// Whether the view has caught up with a write.
fn shows(view: &dyn View, written: &Written) -> bool {
    let seen = view.revision(&written.resource);
    if seen == 0 || (!written.deleted && seen >= written.revision) {
        return true;
    }
    match view.get(&written.resource, &written.namespace, &written.name) {
        None => written.deleted,
        Some(object) if object.meta.uid != written.uid => !written.uid.is_empty(),
        Some(object) if written.deleted => object.meta.is_deleting(),
        Some(object) => object.revision >= written.revision,
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
