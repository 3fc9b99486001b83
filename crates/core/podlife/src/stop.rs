//! The end of a pod: containers first, sidecars after them in reverse order, then the sandbox, then what they used,
//! then the pod itself.

use jiff::SignedDuration;

use crate::containers::{init_containers, is_sidecar};
use crate::memory::Stop;
use crate::observed::Instance;
use crate::plan::{Plan, spec_grace};
use crate::{Action, PreStop, Presence};

/// A container always gets this long, whatever the pod's grace.
const GRACE_SECONDS_MIN: i64 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Its containers are done, or it has to end; the pod stays in the API.
    Over,
    /// Its node goes down; the pod stays in the API as it is.
    Left,
    /// Somebody deleted it.
    Deleted,
    /// It is no longer in the API.
    Gone,
}

pub(crate) fn plan_end(plan: &mut Plan<'_>, ending: Ending) {
    let grace_seconds = grace(plan, ending);
    note_deadline(plan, grace_seconds);
    if kill_containers(plan, grace_seconds) {
        return;
    }
    let working = ["start/", "sandbox/create", "prepare"].iter().any(|prefix| plan.memory.is_any_busy(prefix));
    if ending == Ending::Left {
        if !working {
            plan.act(Action::Leave);
        }
        return;
    }
    let ready: Vec<String> =
        plan.observed.sandboxes.iter().filter(|sandbox| sandbox.ready).map(|sandbox| sandbox.id.clone()).collect();
    for id in &ready {
        plan.act(Action::StopSandbox { id: id.clone() });
    }
    if !ready.is_empty() || working {
        return;
    }
    let (cleaned, deleted) = plan.memory.stop.as_ref().map_or((false, false), |stop| (stop.cleaned, stop.deleted));
    match ending {
        _ if !cleaned => plan.act(Action::CleanUp),
        Ending::Over | Ending::Left => {}
        Ending::Deleted if !deleted => plan.act(Action::Delete),
        Ending::Deleted => {}
        Ending::Gone => forget(plan),
    }
}

fn forget(plan: &mut Plan<'_>) {
    if plan.observed.sandboxes.is_empty() && plan.observed.instances.is_empty() {
        return plan.act(Action::Forget);
    }
    let observed = plan.observed;
    for sandbox in &observed.sandboxes {
        plan.act(Action::RemoveSandbox { id: sandbox.id.clone() });
    }
    if observed.sandboxes.is_empty() {
        for instance in &observed.instances {
            plan.act(Action::RemoveContainer { id: instance.id.clone() });
        }
    }
}

fn grace(plan: &Plan<'_>, ending: Ending) -> i64 {
    let asked = plan.pod().metadata.deletion_grace_period_seconds;
    let grace_seconds = match ending {
        Ending::Over | Ending::Left => spec_grace(plan.pod()),
        Ending::Deleted | Ending::Gone => asked.unwrap_or_else(|| spec_grace(plan.pod())),
    };
    match plan.desired.presence {
        Presence::Leaving { grace_seconds_max } => grace_seconds.min(grace_seconds_max),
        Presence::InApi | Presence::Gone => grace_seconds,
    }
}

/// The grace runs from when the end was first seen. A shorter one asked for later takes effect, a longer one does not.
fn note_deadline(plan: &mut Plan<'_>, grace_seconds: i64) {
    let deadline = plan.now + SignedDuration::from_secs(grace_seconds.max(GRACE_SECONDS_MIN));
    match &mut plan.memory.stop {
        None => plan.memory.stop = Some(Stop { deadline, cleaned: false, deleted: false }),
        Some(stop) if deadline < stop.deadline => {
            stop.deadline = deadline;
            plan.memory.forget_kills();
        }
        Some(_) => {}
    }
}

/// Whether any container may still run.
fn kill_containers(plan: &mut Plan<'_>, grace_seconds: i64) -> bool {
    let spec = plan.spec();
    let sidecars: Vec<&str> =
        init_containers(&spec).iter().filter(|init| is_sidecar(init)).map(|init| init.name.as_str()).collect();
    let alive: Vec<Instance> = plan.observed.alive().cloned().collect();
    let (beside, main): (Vec<&Instance>, Vec<&Instance>) =
        alive.iter().partition(|instance| sidecars.contains(&instance.name.as_str()));
    let now_due = match main.is_empty() {
        false => main,
        true => last_of(&sidecars, &beside),
    };
    let deadline = plan.memory.stop.as_ref().map_or(plan.now, |stop| stop.deadline);
    let left_seconds = deadline.duration_since(plan.now).as_secs().max(GRACE_SECONDS_MIN);
    let pre_stop =
        if grace_seconds == 0 && plan.desired.presence == Presence::Gone { PreStop::Skip } else { PreStop::Run };
    for instance in now_due {
        plan.act(Action::KillContainer {
            id: instance.id.clone(),
            name: instance.name.clone(),
            grace_seconds: left_seconds,
            message: format!("Stopping container {}", instance.name),
            pre_stop,
        });
    }
    !alive.is_empty()
}

/// The sidecar that started last, of those that run.
fn last_of<'a>(sidecars: &[&str], beside: &[&'a Instance]) -> Vec<&'a Instance> {
    let last = sidecars.iter().rev().find(|name| beside.iter().any(|instance| instance.name == **name));
    beside.iter().copied().filter(|instance| Some(&instance.name.as_str()) == last).collect()
}
