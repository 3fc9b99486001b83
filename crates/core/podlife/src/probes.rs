//! When a probe is due and what its answers mean.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Probe};

use crate::memory::ProbeAnswer;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

pub(crate) const KINDS: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Liveness, ProbeKind::Readiness];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Unknown,
    Success,
    Failure,
}

/// The probes of the newest instance of a container.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probes {
    instance: String,
    counters: Vec<Counter>,
}

#[derive(Clone, Debug)]
struct Counter {
    kind: ProbeKind,
    due: Timestamp,
    period: SignedDuration,
    success_threshold: i32,
    failure_threshold: i32,
    successes: i32,
    failures: i32,
    verdict: Verdict,
}

/// What the last reported status said of the same instance.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Adopted {
    pub started: bool,
    pub ready: bool,
}

impl Probes {
    /// Begins anew when the instance is another one.
    pub fn follow(&mut self, container: &Container, id: &str, started_at: Timestamp, adopted: Adopted) {
        if self.instance == id {
            return;
        }
        self.instance = id.to_owned();
        self.counters = KINDS
            .into_iter()
            .filter_map(|kind| probe_of(container, kind).map(|probe| Counter::new(kind, probe, started_at, adopted)))
            .collect();
    }

    pub fn is_about(&self, id: &str) -> bool {
        self.instance == id
    }

    /// Started: no startup probe, or it has succeeded.
    pub fn is_started(&self, id: &str) -> bool {
        self.instance == id && self.verdict(id, ProbeKind::Startup).is_none_or(|verdict| verdict == Verdict::Success)
    }

    pub fn is_ready(&self, id: &str) -> bool {
        self.is_started(id) && self.verdict(id, ProbeKind::Readiness).is_none_or(|verdict| verdict == Verdict::Success)
    }

    /// The probe whose failures ask for the container's end.
    pub fn condemns(&self, id: &str) -> Option<ProbeKind> {
        [ProbeKind::Liveness, ProbeKind::Startup]
            .into_iter()
            .find(|kind| self.verdict(id, *kind) == Some(Verdict::Failure))
    }

    /// The probes to be made, and when the next one is due.
    pub fn due(&self, now: Timestamp) -> (Vec<ProbeKind>, Option<Timestamp>) {
        let started = self.is_started(&self.instance);
        let live = self.counters.iter().filter(|counter| match counter.kind {
            ProbeKind::Startup => !started && counter.verdict != Verdict::Failure,
            ProbeKind::Liveness => started && counter.verdict != Verdict::Failure,
            ProbeKind::Readiness => started,
        });
        let due = live.clone().filter(|counter| counter.due <= now).map(|counter| counter.kind).collect();
        let next = live.map(|counter| counter.due).filter(|due| *due > now).min();
        (due, next)
    }

    pub fn answered(&mut self, id: &str, kind: ProbeKind, answer: ProbeAnswer, now: Timestamp) {
        if self.instance != id {
            return;
        }
        if let Some(counter) = self.counters.iter_mut().find(|counter| counter.kind == kind) {
            counter.answered(answer, now);
        }
    }

    fn verdict(&self, id: &str, kind: ProbeKind) -> Option<Verdict> {
        if self.instance != id {
            return None;
        }
        self.counters.iter().find(|counter| counter.kind == kind).map(|counter| counter.verdict)
    }
}

impl Counter {
    fn new(kind: ProbeKind, probe: &Probe, started_at: Timestamp, adopted: Adopted) -> Counter {
        let verdict = match kind {
            ProbeKind::Startup if adopted.started => Verdict::Success,
            ProbeKind::Startup => Verdict::Unknown,
            ProbeKind::Liveness => Verdict::Success,
            ProbeKind::Readiness if adopted.ready => Verdict::Success,
            ProbeKind::Readiness => Verdict::Failure,
        };
        let delay = i64::from(probe.initial_delay_seconds.unwrap_or(0));
        Counter {
            kind,
            due: started_at + SignedDuration::from_secs(delay),
            period: SignedDuration::from_secs(i64::from(positive(probe.period_seconds, 10))),
            success_threshold: positive(probe.success_threshold, 1),
            failure_threshold: positive(probe.failure_threshold, 3),
            successes: 0,
            failures: 0,
            verdict,
        }
    }

    fn answered(&mut self, answer: ProbeAnswer, now: Timestamp) {
        self.due += self.period;
        if self.due <= now {
            self.due = now + self.period;
        }
        match answer {
            ProbeAnswer::Success => {
                self.failures = 0;
                self.successes += 1;
                if self.successes >= self.success_threshold {
                    self.verdict = Verdict::Success;
                }
            }
            ProbeAnswer::Failure => {
                self.successes = 0;
                self.failures += 1;
                if self.failures >= self.failure_threshold {
                    self.verdict = Verdict::Failure;
                }
            }
            ProbeAnswer::Unknown => {}
        }
    }
}

pub(crate) fn probe_of(container: &Container, kind: ProbeKind) -> Option<&Probe> {
    match kind {
        ProbeKind::Startup => container.startup_probe.as_ref(),
        ProbeKind::Liveness => container.liveness_probe.as_ref(),
        ProbeKind::Readiness => container.readiness_probe.as_ref(),
    }
}

fn positive(value: Option<i32>, default: i32) -> i32 {
    value.filter(|value| *value > 0).unwrap_or(default)
}
