//! Decides how the life of one pod goes on: from what is known of it and the time, to what its status is to say next,
//! or to its deletion, or to the moment when to decide again. It knows neither a server nor a clock.
//!
//! Source of the rules: the kubelet of Kubernetes 1.36, of containers that do what annotations tell them.

use std::net::Ipv4Addr;

use jiff::{SignedDuration, Timestamp};

use super::facts::{Orders, Phase, RestartPolicy};

const BACK_OFF_FIRST_SECONDS: i64 = 10;
const BACK_OFF_SECONDS_MAX: i64 = 300;
/// Exit codes of a process that a signal has ended.
const TERMINATED: i32 = 128 + 15;
const KILLED: i32 = 128 + 9;

/// What is known of a pod, in few bytes.
#[derive(Clone, Debug)]
pub struct Known {
    pub orders: Orders,
    pub restart_policy: RestartPolicy,
    pub active_deadline_seconds: Option<i64>,
    pub generation: i64,
    pub start_time: Option<Timestamp>,
    pub deletion: Option<Deletion>,
    /// Whether finalizers keep the pod when its node has let go of it: then its last status is for somebody.
    pub is_held: bool,
    /// Why the pod is not ready though its containers are.
    pub gate_complaint: Option<Box<str>>,
    pub ip: Option<Ipv4Addr>,
    pub shown: Shown,
    pub life: Life,
}

/// Someone wants the pod gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    pub seen_at: Timestamp,
    pub grace_seconds: i64,
    /// Whether the node has let go of it; what is left then is up to finalizers.
    pub released: bool,
}

/// What the pod's status in the API says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    pub phase: Phase,
    pub observed_generation: i64,
    pub attempt: u32,
    pub waits: bool,
    /// Whether readiness is told as it is while the containers run.
    pub readiness_is_right: bool,
}

/// How far a pod has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    New,
    Running(Run),
    /// The run has ended; the next one starts then.
    Waiting(Run, Timestamp),
    Over,
}

/// One life of the pod's containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// How often they had run before.
    pub attempt: u32,
    pub started_at: Timestamp,
    /// When the run before started and ended.
    pub before: Option<(Timestamp, Timestamp)>,
}

/// How containers have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub at: Timestamp,
    pub code: i32,
    pub cause: Cause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Themselves,
    Deletion,
    Deadline,
}

/// What the status is to say next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Running(Run),
    Waiting(Run, Timestamp),
    /// After this run, if there was any.
    Over(Option<Run>, End),
}

impl Next {
    pub fn life(&self) -> Life {
        match *self {
            Next::Running(run) => Life::Running(run),
            Next::Waiting(run, until) => Life::Waiting(run, until),
            Next::Over(..) => Life::Over,
        }
    }

    pub fn phase(&self) -> Phase {
        match self {
            Next::Over(Some(_), End { code: 0, cause: Cause::Themselves, .. }) => Phase::Succeeded,
            Next::Over(..) => Phase::Failed,
            Next::Running(_) | Next::Waiting(..) => Phase::Running,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Show(Next),
    /// Nothing runs any more: the pod may go.
    Delete,
    /// Until something happens, at the latest until then.
    Wait(Option<Timestamp>),
}

pub fn decide(pod: &Known, job_seconds: u32, now: Timestamp) -> Decision {
    if pod.life == Life::Over || pod.shown.phase.is_over() {
        return let_go(pod);
    }
    let run = pod.run();
    let end = pod.end(job_seconds);
    match end.filter(|end| end.at <= now) {
        Some(End { cause: Cause::Deletion, .. }) if !pod.is_held => let_go(pod),
        Some(end) if end.cause == Cause::Themselves && pod.restarts(end.code) => after(pod, run, end, now),
        Some(end) => Decision::Show(Next::Over(run, end)),
        None => go_on(pod, end.map(|end| end.at), now),
    }
}

/// The pod goes if it is to go.
fn let_go(pod: &Known) -> Decision {
    match pod.deletion {
        Some(Deletion { released: false, .. }) => Decision::Delete,
        _ => Decision::Wait(None),
    }
}

/// Nothing has ended the pod yet.
fn go_on(pod: &Known, ends_at: Option<Timestamp>, now: Timestamp) -> Decision {
    let show = match pod.life {
        Life::New => Next::Running(Run { attempt: 0, started_at: now, before: None }),
        Life::Waiting(run, until) if until <= now => Next::Running(run.next(until, now)),
        Life::Waiting(run, until) => Next::Waiting(run, until),
        Life::Running(run) => Next::Running(run),
        Life::Over => return Decision::Wait(None),
    };
    if show.life() != pod.life || pod.shown != pod.to_show(&show) {
        return Decision::Show(show);
    }
    let goes_on_at = match pod.life {
        Life::Waiting(_, until) => Some(until),
        _ => None,
    };
    Decision::Wait(ends_at.into_iter().chain(goes_on_at).min())
}

/// Containers that have ended and are started again: the first time at once, then after a pause that doubles.
fn after(pod: &Known, run: Option<Run>, end: End, now: Timestamp) -> Decision {
    let Some(run) = run else { return go_on(pod, None, now) };
    match back_off(run.attempt) {
        SignedDuration::ZERO => Decision::Show(Next::Running(run.next(end.at, now))),
        pause => Decision::Show(Next::Waiting(run, now + pause)),
    }
}

/// How long a run waits that comes after so many others.
pub fn back_off(attempt: u32) -> SignedDuration {
    let Some(doublings) = attempt.checked_sub(1) else { return SignedDuration::ZERO };
    let seconds = BACK_OFF_FIRST_SECONDS << doublings.min(8);
    SignedDuration::from_secs(seconds.min(BACK_OFF_SECONDS_MAX))
}

impl Run {
    fn next(self, ended_at: Timestamp, now: Timestamp) -> Run {
        Run { attempt: self.attempt + 1, started_at: now, before: Some((self.started_at, ended_at)) }
    }
}

impl Known {
    fn run(&self) -> Option<Run> {
        match self.life {
            Life::Running(run) | Life::Waiting(run, _) => Some(run),
            Life::New | Life::Over => None,
        }
    }

    /// What will have been shown once `next` is written.
    pub fn to_show(&self, next: &Next) -> Shown {
        let attempt = match next {
            Next::Running(run) | Next::Waiting(run, _) => run.attempt,
            Next::Over(..) => self.shown.attempt,
        };
        Shown {
            phase: next.phase(),
            observed_generation: self.generation,
            attempt,
            waits: matches!(next, Next::Waiting(..)),
            readiness_is_right: true,
        }
    }

    fn restarts(&self, code: i32) -> bool {
        let wanted = self.deletion.is_none();
        wanted
            && match self.restart_policy {
                RestartPolicy::Always => true,
                RestartPolicy::OnFailure => code != 0,
                RestartPolicy::Never => false,
            }
    }

    /// What will end the containers first.
    fn end(&self, job_seconds: u32) -> Option<End> {
        let ends = [self.own_end(job_seconds), self.end_by_deletion(), self.end_by_deadline()];
        ends.into_iter().flatten().min_by_key(|end| end.at)
    }

    fn own_end(&self, job_seconds: u32) -> Option<End> {
        let Life::Running(run) = self.life else { return None };
        let default = SignedDuration::from_secs(job_seconds.into());
        let seconds = match self.restart_policy {
            RestartPolicy::Always => self.orders.run_for?,
            RestartPolicy::OnFailure | RestartPolicy::Never => self.orders.run_for.unwrap_or(default),
        };
        Some(End { at: run.started_at + seconds, code: self.orders.exit_code, cause: Cause::Themselves })
    }

    fn end_by_deletion(&self) -> Option<End> {
        let deletion = self.deletion?;
        let grace = SignedDuration::from_secs(deletion.grace_seconds);
        let wants = if self.run().is_some() { self.orders.stop_after } else { SignedDuration::ZERO };
        let code = if wants > grace { KILLED } else { TERMINATED };
        Some(End { at: deletion.seen_at + wants.min(grace), code, cause: Cause::Deletion })
    }

    fn end_by_deadline(&self) -> Option<End> {
        let allowed = SignedDuration::from_secs(self.active_deadline_seconds?);
        Some(End { at: self.start_time? + allowed, code: TERMINATED, cause: Cause::Deadline })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_800_000_000;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(NOON + seconds).unwrap()
    }

    fn pod(restart_policy: RestartPolicy) -> Known {
        Known {
            orders: Orders::default(),
            restart_policy,
            active_deadline_seconds: None,
            generation: 1,
            start_time: None,
            deletion: None,
            is_held: true,
            gate_complaint: None,
            ip: None,
            shown: Shown::default(),
            life: Life::New,
        }
    }

    fn deleted(seconds: i64, grace_seconds: i64) -> Option<Deletion> {
        Some(Deletion { seen_at: at(seconds), grace_seconds, released: false })
    }

    /// Follows every decision as if it were written at once, up to a moment; tells what was shown when.
    fn live(pod: &mut Known, until: i64) -> Vec<(i64, Phase, u32)> {
        let (mut now, mut told) = (pod.start_time.unwrap_or(at(0)), Vec::new());
        loop {
            match decide(pod, 1, now) {
                Decision::Show(next) => {
                    (pod.shown, pod.life) = (pod.to_show(&next), next.life());
                    pod.start_time = pod.start_time.or(Some(now));
                    told.push((now.as_second() - NOON, pod.shown.phase, pod.shown.attempt));
                }
                Decision::Wait(Some(wake)) if wake <= at(until) => now = wake,
                Decision::Wait(_) | Decision::Delete => return told,
            }
        }
    }

    #[test]
    fn a_pod_of_a_deployment_runs_for_ever() {
        let mut pod = pod(RestartPolicy::Always);
        assert_eq!(live(&mut pod, 1_000_000), [(0, Phase::Running, 0)]);
        assert_eq!(decide(&pod, 1, at(1_000_000)), Decision::Wait(None));
    }

    #[test]
    fn pods_of_jobs_end_when_and_as_they_are_told() {
        for (order, code, phase, ends) in [(None, 0, Phase::Succeeded, 1), (Some(7), 2, Phase::Failed, 7)] {
            let mut pod = pod(RestartPolicy::Never);
            pod.orders = Orders { run_for: order.map(SignedDuration::from_secs), exit_code: code, ..pod.orders };
            assert_eq!(live(&mut pod, 100), [(0, Phase::Running, 0), (ends, phase, 0)]);
        }
    }

    #[test]
    fn what_fails_is_started_again_after_pauses_that_double() {
        let mut pod = pod(RestartPolicy::OnFailure);
        pod.orders.exit_code = 1;
        let running = |at, attempt| (at, Phase::Running, attempt);
        let expected = [
            running(0, 0),
            running(1, 1),
            running(2, 1),
            running(12, 2),
            running(13, 2),
            running(33, 3),
            running(34, 3),
        ];
        assert_eq!(live(&mut pod, 40), expected);
        assert_eq!(back_off(60), SignedDuration::from_secs(300));
    }

    #[test]
    fn a_deadline_ends_a_pod_for_good() {
        let mut pod = pod(RestartPolicy::Always);
        pod.active_deadline_seconds = Some(5);
        assert_eq!(live(&mut pod, 100), [(0, Phase::Running, 0), (5, Phase::Failed, 0)]);
    }

    #[test]
    fn a_deleted_pod_ends_within_its_grace_and_then_goes() {
        for (stop_after, ends, code) in [(0, 10, TERMINATED), (3, 13, TERMINATED), (60, 40, KILLED)] {
            let mut pod = pod(RestartPolicy::Always);
            pod.orders.stop_after = SignedDuration::from_secs(stop_after);
            live(&mut pod, 10);
            pod.deletion = deleted(10, 30);
            let run = Some(Run { attempt: 0, started_at: at(0), before: None });
            let end = End { at: at(ends), code, cause: Cause::Deletion };
            assert_eq!(decide(&pod, 1, at(ends)), Decision::Show(Next::Over(run, end)));
            assert_eq!(live(&mut pod, 100), [(ends, Phase::Failed, 0)]);
            assert_eq!(decide(&pod, 1, at(ends)), Decision::Delete);
            pod.deletion = Some(Deletion { released: true, ..pod.deletion.unwrap() });
            assert_eq!(decide(&pod, 1, at(ends)), Decision::Wait(None));
        }
    }

    #[test]
    fn a_pod_deleted_before_it_ran_has_failed_without_a_run() {
        let mut pod = pod(RestartPolicy::Never);
        pod.orders.stop_after = SignedDuration::from_secs(9);
        pod.deletion = deleted(0, 30);
        let end = End { at: at(0), code: TERMINATED, cause: Cause::Deletion };
        assert_eq!(decide(&pod, 1, at(0)), Decision::Show(Next::Over(None, end)));
    }

    #[test]
    fn what_others_have_changed_is_told_again() {
        let mut pod = pod(RestartPolicy::Always);
        live(&mut pod, 0);
        pod.generation = 2;
        assert!(matches!(decide(&pod, 1, at(1)), Decision::Show(Next::Running(_))));
        live(&mut pod, 1);
        pod.shown.readiness_is_right = false;
        assert!(matches!(decide(&pod, 1, at(1)), Decision::Show(Next::Running(_))));
        live(&mut pod, 1);
        assert_eq!(decide(&pod, 1, at(1)), Decision::Wait(None));
    }
}
