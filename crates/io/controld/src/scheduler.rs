//! The shell of the scheduler: changes of the view become events of the core, its effects become bindings, conditions,
//! evictions and events in the API. Deciding goes on while many of them are under way.

mod deeds;
mod events;
mod extenders;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_client::Client;
use coracle_meta::Resource;
use coracle_reconcile::{Change, View};
use coracle_rt::{Clock, Scope};
use coracle_scheduler::{Effect, Event, PodKey, Scheduler, watched, watches};
use tokio::sync::mpsc;

use self::deeds::Deeds;
use self::events::Events;
use self::extenders::Callers;
use crate::metrics::{DeedKind, Durations, SchedulerMetrics, Success};

pub use self::extenders::check_extenders;

/// The scheduler of pods that name none.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// Effects under way at once; decisions wait while so many are. Priority and fairness lets about three hundred requests
/// of one caller wait.
const UNDERWAY_MAX: usize = 256;
/// Changes taken in, and decisions made, before other tasks get their turn.
const TURN_MAX: usize = 64;

/// What the loop hears of.
enum Message {
    Happened(Event),
    /// An effect for the pod was carried out; what the core has to know of it.
    Done(PodKey, Option<Event>, Option<Measured>),
}

/// What a deed was, for a pod of the profile at this place, and how long it took.
struct Measured {
    kind: DeedKind,
    profile: usize,
    took: Duration,
}

/// Runs a scheduler until the scope ends. Its metrics are kept up to date meanwhile.
pub fn run_scheduler(
    scope: &Scope,
    view: Arc<dyn View>,
    client: Client,
    clock: Clock,
    scheduler: Scheduler,
) -> Arc<SchedulerMetrics> {
    let (sender, inbox) = mpsc::unbounded_channel();
    for resource in watches(scheduler.gates()) {
        let sender = sender.clone();
        let sink = move |resource: &Resource, change: &Change| {
            if let Some(event) = event_of(resource, change) {
                let _ = sender.send(Message::Happened(event));
            }
        };
        view.subscribe(&resource, Arc::new(sink));
    }
    let events = Events::start(scope, client.clone(), clock.clone());
    let extenders = Arc::new(Callers::new(scope, view.clone(), scheduler.extenders()));
    let deeds = Deeds { view, client, clock: clock.clone(), events, extenders };
    let metrics = Arc::<SchedulerMetrics>::default();
    let gauge = Gauge { metrics: metrics.clone(), durations: Durations::default() };
    let shell =
        Shell { scheduler, deeds, clock, scope: scope.clone(), sender, underway: 0, busy: HashMap::new(), gauge };
    scope.spawn_until_cancelled("scheduler", shell.run(inbox));
    metrics
}

struct Shell {
    scheduler: Scheduler,
    deeds: Deeds,
    clock: Clock,
    scope: Scope,
    /// Unbounded because a cache must never wait for the scheduler; it holds what came since the loop's last turn.
    sender: mpsc::UnboundedSender<Message>,
    underway: usize,
    /// The pods of effects under way, with those that come after: a refusal told late must not follow a binding.
    busy: HashMap<PodKey, VecDeque<Effect>>,
    gauge: Gauge,
}

/// Measures the scheduler and tells it.
struct Gauge {
    metrics: Arc<SchedulerMetrics>,
    durations: Durations,
}

impl Gauge {
    /// What is next, timed where it took a decision.
    fn next(&mut self, scheduler: &mut Scheduler, clock: &Clock) -> Option<Effect> {
        let (decisions, began) = (scheduler.counts().decisions, Instant::now());
        let effect = scheduler.next(clock.now());
        if scheduler.counts().decisions > decisions {
            self.durations.observe(scheduler.counts(), began.elapsed());
        }
        effect
    }

    /// Takes an event in. By answers of extenders the try of a group may end.
    fn observe(&mut self, scheduler: &mut Scheduler, event: Event, clock: &Clock) {
        let (answers, began) = (matches!(event, Event::Answered { .. }), Instant::now());
        scheduler.observe(event, clock.now());
        if answers {
            self.durations.observe_groups(scheduler.counts(), began.elapsed());
        }
    }

    fn begin(&mut self, scheduler: &Scheduler, effect: &Effect) -> Option<(DeedKind, usize)> {
        let (kind, pod) = match effect {
            Effect::Bind { pod, .. } | Effect::BindBy { pod, .. } => (DeedKind::Bind, pod),
            Effect::Prepare { pod, .. } => (DeedKind::PreBind, pod),
            Effect::Preempt { pod, .. } => (DeedKind::Evict, pod),
            Effect::Ask { .. } | Effect::Failed { .. } | Effect::Group { .. } => return None,
        };
        let profile = scheduler.counts().profiles.iter().position(|profile| *profile.name == *pod.scheduler_name)?;
        self.durations.begin(kind);
        Some((kind, profile))
    }

    fn end(&mut self, Measured { kind, profile, took }: Measured, event: Option<&Event>) {
        let success = match event {
            Some(
                Event::BindFailed { .. } | Event::Prepared { done: false, .. } | Event::Preempted { done: false, .. },
            ) => Success::No,
            _ => Success::Yes,
        };
        self.durations.end((kind, success), profile, took);
    }

    fn tell(&self, scheduler: &Scheduler) {
        self.metrics.set(scheduler, &self.durations);
    }
}

impl Shell {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Message>) {
        loop {
            let taken = self.take_in(&mut inbox);
            let begun = self.decide();
            self.gauge.tell(&self.scheduler);
            if taken == TURN_MAX || begun == TURN_MAX {
                tokio::task::yield_now().await;
                continue;
            }
            let due = self.scheduler.wake_at().filter(|_| self.underway < UNDERWAY_MAX);
            let wait = due.map(|due| self.clock.now().duration_until(due).unsigned_abs());
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(message) => self.hear(message),
                    None => return,
                },
                () = sleep(wait) => self.scheduler.expire(self.clock.now()),
            }
        }
    }

    fn take_in(&mut self, inbox: &mut mpsc::UnboundedReceiver<Message>) -> usize {
        for taken in 0..TURN_MAX {
            match inbox.try_recv() {
                Ok(message) => self.hear(message),
                Err(_) => return taken,
            }
        }
        TURN_MAX
    }

    fn hear(&mut self, message: Message) {
        let event = match message {
            Message::Happened(event) => Some(event),
            Message::Done(pod, event, measured) => {
                self.underway -= 1;
                self.go_on(pod);
                if let Some(measured) = measured {
                    self.gauge.end(measured, event.as_ref());
                }
                event
            }
        };
        if let Some(event) = event {
            self.gauge.observe(&mut self.scheduler, event, &self.clock);
        }
    }

    /// Begins to carry out what is decided.
    fn decide(&mut self) -> usize {
        for begun in 0..TURN_MAX {
            if self.underway >= UNDERWAY_MAX {
                return begun;
            }
            let Some(effect) = self.gauge.next(&mut self.scheduler, &self.clock) else { return begun };
            self.begin(effect);
        }
        TURN_MAX
    }

    /// Effects for one pod, or one group, follow each other.
    fn begin(&mut self, effect: Effect) {
        self.underway += 1;
        match self.busy.get_mut(effect.key()) {
            Some(later) => later.push_back(effect),
            None => {
                self.busy.insert(effect.key().clone(), VecDeque::new());
                self.carry_out(effect);
            }
        }
    }

    fn go_on(&mut self, pod: PodKey) {
        match self.busy.get_mut(&pod).and_then(VecDeque::pop_front) {
            Some(effect) => self.carry_out(effect),
            None => {
                self.busy.remove(&pod);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let (deeds, sender, pod) = (self.deeds.clone(), self.sender.clone(), effect.key().clone());
        let measured = self.gauge.begin(&self.scheduler, &effect);
        self.scope.spawn_until_cancelled("effect", async move {
            let began = Instant::now();
            let event = deeds.carry_out(effect).await;
            let measured = measured.map(|(kind, profile)| Measured { kind, profile, took: began.elapsed() });
            let _ = sender.send(Message::Done(pod, event, measured));
        });
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

fn event_of(resource: &Resource, change: &Change) -> Option<Event> {
    let resource = watched(resource)?;
    match (&change.new, &change.old) {
        (Some(object), _) => Some(Event::Set { resource, object: object.clone() }),
        (None, Some(object)) => Some(Event::Gone { resource, object: object.clone() }),
        (None, None) => None,
    }
}
