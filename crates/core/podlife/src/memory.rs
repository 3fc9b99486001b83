//! What is remembered of a pod between decisions: work under way, failures and their back-off, probe results. It is
//! lost with the process; what must outlive it is read again from the runtime and from the reported status.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ResourceRequirements;

use crate::Action;
use crate::admission::Rejection;
use crate::observed::Instance;
use crate::probes::{ProbeKind, Probes};

const BACK_OFF_FIRST_SECONDS: i64 = 10;
const BACK_OFF_SECONDS_MAX: i64 = 300;
/// A container that lived this long since its back-off last grew starts from the first step again.
const BACK_OFF_RESET_SECONDS: i64 = 600;
const RETRY_SECONDS_MAX: i64 = 10;
const CONFIG_RETRY_SECONDS: i64 = 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// As a waiting state shows it, `ErrImagePull`.
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The image cannot be had.
    Pull,
    /// The container cannot be described: a ConfigMap is missing, the user is forbidden.
    Config,
    /// Creating or starting it failed, or its postStart hook.
    Run,
    /// Anything that is not about one container.
    Other,
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed(Failure),
    Probed(ProbeAnswer),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeAnswer {
    Success,
    Failure,
    /// The probe could not be made; it counts for nothing.
    Unknown,
}

#[derive(Clone, Debug, Default)]
pub struct Memory {
    busy: BTreeSet<String>,
    deferred: BTreeMap<String, Deferred>,
    pub(crate) prepared: Prepared,
    /// What a volume shows has changed while the volumes were being made.
    outdated: bool,
    /// Boxed, as a map has room for eleven of them from the first on.
    pub(crate) containers: BTreeMap<String, Box<ContainerMemory>>,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) stop: Option<Stop>,
    pub(crate) adopted: bool,
}

impl Memory {
    /// Of a pod that the node does not take.
    pub fn rejected(rejection: Rejection) -> Memory {
        let Rejection { reason, message } = rejection;
        Memory { verdict: Some(Verdict { reason, message }), ..Memory::default() }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Prepared {
    #[default]
    No,
    Yes,
    /// Something that a volume shows has changed.
    Stale,
}

#[derive(Clone, Debug)]
struct Deferred {
    failures: u32,
    until: Timestamp,
}

/// Why the pod as a whole has to end.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub reason: &'static str,
    pub message: String,
}

#[derive(Clone, Debug)]
pub(crate) struct Stop {
    pub deadline: Timestamp,
    pub cleaned: bool,
    pub deleted: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerMemory {
    pub failure: Option<Failure>,
    pub failed_at: Option<Timestamp>,
    pub retry_at: Option<Timestamp>,
    pull_delay_seconds: i64,
    crash_delay_seconds: i64,
    crash_updated: Option<Timestamp>,
    /// The instance whose back-off has been told.
    pub back_off_told: String,
    /// The instance that was given other resources, and which.
    pub resized: Option<(String, ResourceRequirements)>,
    pub probes: Probes,
}

impl Memory {
    /// Notes that an action has been started.
    pub fn begin(&mut self, action: &Action) {
        self.busy.insert(key(action));
    }

    /// Notes how an action ended.
    pub fn finish(&mut self, action: &Action, outcome: &Outcome, now: Timestamp) {
        let key = key(action);
        self.busy.remove(&key);
        match (action, outcome) {
            (Action::Probe { id, name, kind }, Outcome::Probed(answer)) => {
                let memory = self.containers.entry(name.clone()).or_default();
                memory.probes.answered(id, *kind, *answer, now);
            }
            (Action::StartContainer { name, .. }, Outcome::Failed(failure)) => {
                self.containers.entry(name.clone()).or_default().start_failed(failure, now);
            }
            (Action::StartContainer { name, .. }, _) => self.containers.entry(name.clone()).or_default().started(),
            // What it failed for may be there by now: it is tried again at once.
            (Action::Prepare, Outcome::Failed(_)) if std::mem::take(&mut self.outdated) => {}
            (_, Outcome::Failed(_)) => self.defer(key, now),
            (Action::ResizeContainer { id, name, resources }, _) => {
                self.deferred.remove(&key);
                let resources = serde_json::from_str(resources).unwrap_or_default();
                self.containers.entry(name.clone()).or_default().resized = Some((id.clone(), resources));
            }
            _ => self.done(action, &key),
        }
    }

    /// Something outside of the pod that its volumes show may have changed.
    pub fn refresh_volumes(&mut self) {
        if self.prepared == Prepared::Yes {
            self.prepared = Prepared::Stale;
        }
        self.outdated = self.is_busy(&Action::Prepare);
        for container in self.containers.values_mut() {
            if container.failure.as_ref().is_some_and(|failure| failure.kind == FailureKind::Config) {
                container.retry_at = None;
            }
        }
        self.deferred.remove("prepare");
    }

    /// Whether the pod is on its way out: what has been begun for it should be given up.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_some()
    }

    fn done(&mut self, action: &Action, key: &str) {
        self.deferred.remove(key);
        match (action, &mut self.stop) {
            (Action::Prepare, _) => {
                let outdated = std::mem::take(&mut self.outdated);
                self.prepared = if outdated { Prepared::Stale } else { Prepared::Yes };
            }
            (Action::CleanUp, Some(stop)) => stop.cleaned = true,
            (Action::Delete, Some(stop)) => stop.deleted = true,
            _ => {}
        }
    }

    fn defer(&mut self, key: String, now: Timestamp) {
        let entry = self.deferred.entry(key).or_insert(Deferred { failures: 0, until: now });
        let seconds = (1_i64 << entry.failures.min(6)).min(RETRY_SECONDS_MAX);
        entry.failures += 1;
        entry.until = now + SignedDuration::from_secs(seconds);
    }

    pub(crate) fn is_busy(&self, action: &Action) -> bool {
        self.busy.contains(&key(action))
    }

    pub(crate) fn is_any_busy(&self, prefix: &str) -> bool {
        self.busy.iter().any(|key| key.starts_with(prefix))
    }

    /// Lets kills that are under way be asked for again, with a shorter grace.
    pub(crate) fn forget_kills(&mut self) {
        self.busy.retain(|key| !key.starts_with("kill/"));
    }

    pub(crate) fn deferred_until(&self, action: &Action, now: Timestamp) -> Option<Timestamp> {
        self.deferred.get(&key(action)).map(|deferred| deferred.until).filter(|until| *until > now)
    }
}

impl ContainerMemory {
    fn start_failed(&mut self, failure: &Failure, now: Timestamp) {
        let delay = match failure.kind {
            FailureKind::Pull => {
                self.pull_delay_seconds = grown(self.pull_delay_seconds);
                self.pull_delay_seconds
            }
            FailureKind::Config | FailureKind::Other => CONFIG_RETRY_SECONDS,
            FailureKind::Run => self.start_delay_seconds(),
        };
        self.failure = Some(failure.clone());
        self.failed_at = Some(now);
        self.retry_at = Some(now + SignedDuration::from_secs(delay));
    }

    fn started(&mut self) {
        self.failure = None;
        self.failed_at = None;
        self.retry_at = None;
        self.pull_delay_seconds = 0;
    }

    /// Until when a container that ended then has to wait.
    pub fn crash_wait(&self, newest: Option<&Instance>, now: Timestamp) -> Option<Timestamp> {
        let finished = newest?.finished_at()?;
        let updated = self.crash_updated?;
        if finished.duration_since(updated).as_secs() > BACK_OFF_RESET_SECONDS {
            return None;
        }
        let until = finished + SignedDuration::from_secs(self.crash_delay_seconds);
        (until > now).then_some(until)
    }

    pub fn crash_delay_seconds(&self) -> i64 {
        self.crash_delay_seconds
    }

    /// How long a container that could not be started has to wait.
    pub fn start_delay_seconds(&self) -> i64 {
        self.crash_delay_seconds.max(BACK_OFF_FIRST_SECONDS)
    }

    /// A container that has ended is being started again: the next wait is longer.
    pub fn grow_crash_delay(&mut self, now: Timestamp) {
        let fresh = self.crash_updated.is_none_or(|at| now.duration_since(at).as_secs() > BACK_OFF_RESET_SECONDS);
        self.crash_delay_seconds = if fresh { BACK_OFF_FIRST_SECONDS } else { grown(self.crash_delay_seconds) };
        self.crash_updated = Some(now);
    }
}

fn grown(delay_seconds: i64) -> i64 {
    (delay_seconds * 2).clamp(BACK_OFF_FIRST_SECONDS, BACK_OFF_SECONDS_MAX)
}

/// What makes two actions the same work.
pub(crate) fn key(action: &Action) -> String {
    match action {
        Action::Prepare => "prepare".to_owned(),
        Action::CreateSandbox { .. } => "sandbox/create".to_owned(),
        Action::StopSandbox { id } => format!("sandbox/stop/{id}"),
        Action::RemoveSandbox { id } => format!("sandbox/remove/{id}"),
        Action::StartContainer { name, .. } => format!("start/{name}"),
        Action::KillContainer { id, .. } => format!("kill/{id}"),
        Action::RemoveContainer { id } => format!("remove/{id}"),
        Action::ResizeContainer { id, .. } => format!("resize/{id}"),
        Action::Probe { id, kind, .. } => format!("probe/{}/{id}", kind.word()),
        Action::CleanUp => "clean".to_owned(),
        Action::Delete => "delete".to_owned(),
        Action::Forget => "forget".to_owned(),
        Action::Leave => "leave".to_owned(),
    }
}

impl ProbeKind {
    /// As messages name it.
    pub fn word(self) -> &'static str {
        match self {
            ProbeKind::Startup => "Startup",
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
        }
    }
}
