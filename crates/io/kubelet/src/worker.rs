//! One worker per pod: it looks, lets `podlife` decide, starts what is due, and writes the status. It waits for hints,
//! for outcomes, and for the moment that the decision named.

use std::sync::Arc;
use std::time::Duration;

use coracle_podlife::{
    Action, Decision, Desired, Hindrance, Memory, Observation, Outcome, Presence, Rejection, Severity, step,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{mpsc, watch};

use crate::act::{Done, Work, perform};
use crate::events::Recorder;
use crate::node_context::{NodeContext, name_of, uid_of};
use crate::observe::observe;
use crate::resize;
use crate::status::{StatusWrite, overlay, write_status};

const MAILBOX_MAX: usize = 256;
/// However few hints come, the runtime is looked at this often.
const LOOK_SECONDS_MAX: i64 = 60;
const RETRY_SECONDS: i64 = 1;
/// How often a pod that asks for more than is free is looked at again.
const RESIZE_RETRY_SECONDS: i64 = 10;
/// A pod that runs within this time is told of once, as running: one durable write in place of three.
const PENDING_HELD_MILLIS: i64 = 100;
/// A container that runs again within this time is told of once, as restarted: nobody could act on so short an absence.
const RESTART_HELD_MILLIS: i64 = 200;

pub(crate) enum Event {
    /// The pod as the API has it now; absent when it is gone.
    Pod(Option<Arc<Pod>>),
    /// Something may have changed in the runtime.
    Hint,
    /// Something that a volume or a variable shows may have changed.
    Refresh,
    /// The node goes down, and the pod ends within so many seconds.
    Leave {
        grace_seconds_max: i64,
    },
    /// Boxed, as a mailbox has room for many events whether they come or not.
    Ended(Box<(Action, Done)>),
    Written(StatusWrite),
}

/// What the router holds of a worker.
pub(crate) struct WorkerHandle {
    pub mailbox: mpsc::Sender<Event>,
}

struct Worker {
    node: Arc<NodeContext>,
    /// With the status last decided, others' conditions as the API has them.
    pod: Pod,
    presence: Presence,
    /// The most that the pod is given to end in, once the node goes down.
    leaving: Option<i64>,
    /// Why `pod` has other resources than the API says, and what the API says.
    hindered: Option<(Hindrance, Arc<Pod>)>,
    memory: Memory,
    observed: Observation,
    /// Whether `observed` must be read again.
    stale: bool,
    last: Option<PodStatus>,
    written: Option<PodStatus>,
    writing: bool,
    write_after: Option<Timestamp>,
    /// Until when nothing is told of a new pod that is pending.
    held_until: Option<Timestamp>,
    /// Until when nothing is told of a container that is being started again.
    restart_held_until: Option<Timestamp>,
    refresh_at: Option<Timestamp>,
    look_at: Timestamp,
    stopping: watch::Sender<bool>,
    sender: mpsc::Sender<Event>,
    recorder: Recorder,
}

/// Starts a worker for a pod; one that the node does not take ends at once. `on_end` is called when nothing is left.
pub(crate) fn start(
    node: &Arc<NodeContext>,
    pod: Arc<Pod>,
    presence: Presence,
    rejection: Option<Rejection>,
    on_end: OnEnd,
) -> WorkerHandle {
    if let Some(rejection) = &rejection {
        node.events.about_pod(&pod).note(Severity::Warning, rejection.reason, &rejection.message, None);
    }
    let (sender, receiver) = mpsc::channel(MAILBOX_MAX);
    let mut worker = Box::new(Worker {
        recorder: node.events.about_pod(&pod),
        written: pod.status.clone(),
        held_until: pod
            .status
            .as_ref()
            .is_none_or(|status| status.start_time.is_none())
            .then(|| node.clock.now() + SignedDuration::from_millis(PENDING_HELD_MILLIS)),
        look_at: node.clock.now(),
        node: node.clone(),
        pod: resize::as_allocated(&overlay(&pod, None)),
        presence,
        leaving: None,
        hindered: None,
        memory: rejection.map(Memory::rejected).unwrap_or_default(),
        observed: Observation::default(),
        stale: true,
        last: None,
        writing: false,
        write_after: None,
        restart_held_until: None,
        refresh_at: None,
        stopping: watch::Sender::new(false),
        sender: sender.clone(),
    });
    worker.adopt(pod.clone());
    let uid = uid_of(&pod).to_owned();
    node.scope.spawn("pod", async move {
        worker.run(receiver).await;
        on_end(uid);
    });
    WorkerHandle { mailbox: sender }
}

pub(crate) type OnEnd = Box<dyn FnOnce(String) + Send>;

impl Worker {
    async fn run(mut self: Box<Self>, mut mailbox: mpsc::Receiver<Event>) {
        let scope = self.node.scope.clone();
        loop {
            if self.look().await {
                let decision = self.decide();
                if decision.actions.contains(&Action::Forget) {
                    return self.forget();
                }
                if decision.actions.contains(&Action::Leave) {
                    return;
                }
                self.carry_out(decision);
            }
            let wait = self.wait();
            tokio::select! {
                event = mailbox.recv() => match event {
                    Some(event) => self.take(event),
                    None => return,
                },
                () = tokio::time::sleep(wait) => self.stale |= self.node.clock.now() >= self.look_at,
                () = scope.cancelled() => return,
            }
            while let Ok(event) = mailbox.try_recv() {
                self.take(event);
            }
        }
    }

    /// Reads what the runtime has, if it may have changed. Without an answer nothing is decided.
    async fn look(&mut self) -> bool {
        let now = self.node.clock.now();
        if !self.stale {
            return true;
        }
        match observe(self.node.runtime.as_ref(), &self.node.options.runtime_name, uid_of(&self.pod)).await {
            Ok(observed) => {
                self.observed = observed;
                self.stale = false;
                self.look_at = now + SignedDuration::from_secs(LOOK_SECONDS_MAX);
                true
            }
            Err(status) => {
                tracing::warn!(error = status.message(), object = name_of(&self.pod), "the runtime does not answer");
                self.look_at = now + SignedDuration::from_secs(RETRY_SECONDS);
                false
            }
        }
    }

    fn decide(&mut self) -> Decision {
        let now = self.node.clock.now();
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh_at = None;
            self.memory.refresh_volumes();
        }
        if let Some((_, asked)) = self.hindered.take() {
            self.adopt(asked);
        }
        let desired = Desired {
            pod: &self.pod,
            presence: self.presence(),
            node_ip: &self.node.options.node_ip,
            hindrance: self.hindered.as_ref().map(|(hindrance, _)| hindrance),
        };
        let decision = step(desired, &self.observed, &mut self.memory, now);
        if self.hindered.is_some() {
            self.look_at = self.look_at.min(now + SignedDuration::from_secs(RESIZE_RETRY_SECONDS));
        }
        self.look_at = self.look_at.min(decision.wake_at.unwrap_or(self.look_at));
        self.stopping.send_if_modified(|stopping| {
            let changed = *stopping != self.memory.is_stopping();
            *stopping = self.memory.is_stopping();
            changed
        });
        for note in &decision.notes {
            self.recorder.note(note.severity, note.reason, &note.message, note.container.as_deref());
        }
        self.pod.status = Some(decision.status.clone());
        self.last = Some(decision.status.clone());
        decision
    }

    fn carry_out(&mut self, decision: Decision) {
        let is_restart = |action: &Action| matches!(action, Action::StartContainer { attempt, .. } if *attempt > 0);
        if decision.actions.iter().any(is_restart) {
            self.restart_held_until = Some(self.node.clock.now() + SignedDuration::from_millis(RESTART_HELD_MILLIS));
        }
        self.write(&decision.status);
        let settled = !self.writing && self.written.as_ref() == Some(&decision.status);
        for action in decision.actions {
            if action == Action::Delete && !settled {
                continue;
            }
            self.memory.begin(&action);
            self.begin(action);
        }
    }

    fn begin(&self, action: Action) {
        let sandbox = self.observed.sandboxes.first();
        let running = self.observed.instances.iter().filter(|instance| instance.is_running());
        let mut ips = sandbox.map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        if ips.is_empty() && self.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true) {
            ips.push(self.node.options.node_ip.clone());
        }
        let work = Work {
            node: self.node.clone(),
            pod: Arc::new(self.pod.clone()),
            sandbox_id: sandbox.map(|sandbox| sandbox.id.clone()).unwrap_or_default(),
            pod_ips: ips,
            running: Arc::new(running.map(|instance| (instance.name.clone(), instance.id.clone())).collect()),
            stopping: self.stopping.subscribe(),
            recorder: self.recorder.clone(),
        };
        let sender = self.sender.clone();
        self.node.scope.spawn_until_cancelled("action", async move {
            tracing::debug!(object = name_of(&work.pod), ?action, "acting");
            let done = perform(&work, &action).await;
            // Nobody listens when the worker has ended: then nothing is left to be told.
            let _ = sender.send(Event::Ended(Box::new((action, done)))).await;
        });
    }

    /// Whether the API is told of the pod. One that only ends with its node is told nothing: there it stays as it is.
    fn tells(&self) -> bool {
        match self.presence() {
            Presence::InApi => true,
            Presence::Leaving { .. } => self.pod.metadata.deletion_timestamp.is_some(),
            Presence::Gone => false,
        }
    }

    fn presence(&self) -> Presence {
        match (self.presence, self.leaving) {
            (Presence::InApi, Some(grace_seconds_max)) => Presence::Leaving { grace_seconds_max },
            (presence, _) => presence,
        }
    }

    fn write(&mut self, status: &PodStatus) {
        let now = self.node.clock.now();
        self.held_until = self.held_until.filter(|until| *until > now && status.phase.as_deref() == Some("Pending"));
        let runs = status.container_statuses.iter().flatten().all(|one| {
            let state = one.state.as_ref();
            state.is_some_and(|state| state.running.is_some())
        });
        self.restart_held_until = self.restart_held_until.filter(|until| *until > now && !runs);
        let held = self.held_until.is_some() || self.restart_held_until.is_some();
        let waits = held || self.write_after.is_some_and(|after| after > now);
        if self.writing || waits || !self.tells() || self.written.as_ref() == Some(status) {
            return;
        }
        self.writing = true;
        self.write_after = None;
        let (node, pod, sender) = (self.node.clone(), self.pod.clone(), self.sender.clone());
        let before = self.written.clone().unwrap_or_default();
        self.node.scope.spawn_until_cancelled("status", async move {
            let result = write_status(&node, &pod, &before).await;
            let _ = sender.send(Event::Written(result)).await;
        });
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Pod(Some(pod)) => {
                if !self.writing {
                    self.written = pod.status.clone();
                }
                let told = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
                if told(&pod) != told(&self.pod) {
                    // Downward API volumes show both.
                    self.memory.refresh_volumes();
                }
                self.adopt(pod);
                self.presence = Presence::InApi;
            }
            Event::Pod(None) => self.vanish(),
            Event::Hint => self.stale = true,
            Event::Refresh => self.memory.refresh_volumes(),
            Event::Leave { grace_seconds_max } => self.leaving = Some(grace_seconds_max),
            Event::Ended(ended) => self.ended(&ended.0, ended.1),
            Event::Written(StatusWrite::Done(status)) => {
                self.writing = false;
                self.write_after = None;
                self.written = Some(*status);
            }
            Event::Written(StatusWrite::Gone) => {
                self.writing = false;
                self.vanish();
            }
            Event::Written(StatusWrite::Failed) => {
                self.writing = false;
                self.write_after = Some(self.node.clock.now() + SignedDuration::from_secs(RETRY_SECONDS));
            }
        }
    }

    /// Takes the pod as the API has it, with the resources that it may have.
    fn adopt(&mut self, asked: Arc<Pod>) {
        let mut pod = overlay(&asked, self.last.as_ref());
        let hindrance = resize::admit(&self.node, &mut pod, &self.pod);
        self.hindered = hindrance.map(|hindrance| (hindrance, asked));
        self.pod = pod;
    }

    /// The last thing of a pod that goes is its logs.
    fn forget(&self) {
        let dir = self.node.log_dir(&self.pod);
        if let Err(error) = std::fs::remove_dir_all(&dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %dir.display(), "removing the logs of a pod");
        }
    }

    fn vanish(&mut self) {
        self.presence = Presence::Gone;
        self.write_after = None;
        self.stale = true;
    }

    fn ended(&mut self, action: &Action, done: Done) {
        if !matches!(action, Action::Probe { .. } | Action::Prepare | Action::Delete) {
            self.stale = true;
        }
        if *action == Action::Prepare && done.outcome == Outcome::Done {
            self.refresh_at = done.refresh_at;
        }
        self.memory.finish(action, &done.outcome, self.node.clock.now());
    }

    fn wait(&self) -> Duration {
        let now = self.node.clock.now();
        // Without an answer of the runtime nothing else can be done, however due it is.
        let others = match self.stale {
            true => [None; 4],
            false => [self.refresh_at, self.write_after, self.held_until, self.restart_held_until],
        };
        let next = others.into_iter().flatten().chain([self.look_at]).min();
        let wait = next.unwrap_or(now).duration_since(now);
        // Never quite zero, so that a moment that has just passed does not make a worker spin.
        Duration::try_from(wait).unwrap_or_default().max(Duration::from_millis(1))
    }
}
