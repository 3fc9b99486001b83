//! From what is wanted and what is there to what is due.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};

use crate::containers::{ContainerKind, each_container, find_container, init_containers, is_sidecar};
use crate::memory::{Prepared, Verdict};
use crate::observed::{Instance, NeedsIp, RunState};
use crate::policy::{definition_changed, restarts_after_kill, wants_start};
use crate::probes::{Adopted, ProbeKind};
use crate::report::report;
use crate::resize::{self, Change};
use crate::stop::{Ending, plan_end};
use crate::{Action, Decision, Desired, Memory, Note, Observation, PreStop, Presence, Severity};

/// Decides. The memory takes note of what it needs the next time; what is started has to be told to it by `begin`.
pub fn step(desired: Desired<'_>, observed: &Observation, memory: &mut Memory, now: Timestamp) -> Decision {
    let mut plan = Plan { desired, observed, memory, now, actions: Vec::new(), notes: Vec::new(), wake_at: None };
    plan.follow_probes();
    plan.check_deadline();
    match plan.ending() {
        Some(ending) => plan_end(&mut plan, ending),
        None => plan.live(),
    }
    plan.probe();
    plan.collect_garbage();
    let status = report(&mut plan);
    Decision { actions: plan.actions, notes: plan.notes, wake_at: plan.wake_at, status }
}

pub(crate) struct Plan<'a> {
    pub desired: Desired<'a>,
    pub observed: &'a Observation,
    pub memory: &'a mut Memory,
    pub now: Timestamp,
    pub actions: Vec<Action>,
    pub notes: Vec<Note>,
    pub wake_at: Option<Timestamp>,
}

impl<'a> Plan<'a> {
    pub fn pod(&self) -> &'a Pod {
        self.desired.pod
    }

    /// The spec; a pod without one has no containers.
    pub fn spec(&self) -> PodSpec {
        self.desired.pod.spec.clone().unwrap_or_default()
    }

    pub fn needs_ip(&self) -> NeedsIp {
        needs_ip(self.desired.pod)
    }

    /// Asks for an action unless it is under way or has to wait after a failure.
    pub fn act(&mut self, action: Action) {
        if self.memory.is_busy(&action) {
            return;
        }
        match self.memory.deferred_until(&action, self.now) {
            Some(until) => self.wake(until),
            None => self.actions.push(action),
        }
    }

    pub fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }

    pub fn note(&mut self, severity: Severity, reason: &'static str, message: String, container: Option<&str>) {
        self.notes.push(Note { severity, reason, message, container: container.map(str::to_owned) });
    }

    fn follow_probes(&mut self) {
        let first_look = !std::mem::replace(&mut self.memory.adopted, true);
        for (kind, container) in each_container(self.pod()) {
            let Some(instance) = self.observed.newest(&container.name) else { continue };
            let RunState::Running { started_at } = instance.state else { continue };
            if matches!(kind, ContainerKind::Init | ContainerKind::Ephemeral) {
                continue;
            }
            let adopted = if first_look { self.reported(instance) } else { Adopted::default() };
            let memory = self.memory.containers.entry(container.name.clone()).or_default();
            memory.probes.follow(&container, &instance.id, started_at, adopted);
        }
    }

    /// What the status last reported says of a container that was running before this process was.
    fn reported(&self, instance: &Instance) -> Adopted {
        let Some(status) = &self.pod().status else { return Adopted::default() };
        let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let same = all.into_iter().find(|status| status.container_id.as_deref() == Some(&instance.container_id));
        same.map_or(Adopted::default(), |status| Adopted { started: status.started == Some(true), ready: status.ready })
    }

    fn check_deadline(&mut self) {
        let pod = self.pod();
        let limit = pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        let Some(limit) = limit else { return };
        let start = pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map_or(self.now, |start| start.0);
        if self.memory.verdict.is_some() || reported_phase(pod).is_some_and(is_terminal) {
            return;
        }
        let deadline = start + SignedDuration::from_secs(limit);
        if deadline > self.now {
            return self.wake(deadline);
        }
        let message = "Pod was active on the node longer than the specified deadline".to_owned();
        self.note(Severity::Normal, "DeadlineExceeded", message.clone(), None);
        self.memory.verdict = Some(Verdict { reason: "DeadlineExceeded", message });
    }

    fn ending(&self) -> Option<Ending> {
        let pod = self.pod();
        if self.desired.presence == Presence::Gone {
            return Some(Ending::Gone);
        }
        if pod.metadata.deletion_timestamp.is_some() {
            return Some(Ending::Deleted);
        }
        if let Presence::Leaving { .. } = self.desired.presence {
            return Some(Ending::Left);
        }
        let over = self.memory.verdict.is_some() || reported_phase(pod).is_some_and(is_terminal);
        (over || self.is_finished()).then_some(Ending::Over)
    }

    /// Whether every container has had its last run.
    fn is_finished(&self) -> bool {
        let spec = self.spec();
        let sandbox = self.observed.sandboxes.first().map(|sandbox| sandbox.id.clone()).unwrap_or_default();
        let hopeless = init_containers(&spec).iter().filter(|container| !is_sidecar(container)).any(|container| {
            let newest = self.observed.newest_in(&sandbox, &container.name);
            newest.and_then(Instance::exit_code).is_some_and(|code| code != 0) && !wants_start(container, &spec, newest)
        });
        let done = !spec.containers.is_empty()
            && spec.containers.iter().all(|container| {
                let newest = self.observed.newest(&container.name);
                newest.is_some_and(|newest| !newest.is_running()) && !wants_start(container, &spec, newest)
            });
        hopeless || done
    }

    fn live(&mut self) {
        if self.memory.prepared != Prepared::Yes {
            self.act(Action::Prepare);
        }
        let current = self.observed.current_sandbox(self.needs_ip()).cloned();
        let Some(sandbox) = current else {
            return self.make_sandbox();
        };
        if self.memory.prepared == Prepared::No {
            return;
        }
        self.start_ephemeral();
        if self.initialize(&sandbox.id) {
            self.run_regular();
        }
    }

    /// Whatever is left in former sandboxes ends before a new one is made.
    fn make_sandbox(&mut self) {
        let left: Vec<Instance> = self.observed.alive().cloned().collect();
        for instance in &left {
            let message = format!("Stopping container {}", instance.name);
            self.kill(instance, message, None);
        }
        if !left.is_empty() {
            return;
        }
        let ready: Vec<String> =
            self.observed.sandboxes.iter().filter(|sandbox| sandbox.ready).map(|sandbox| sandbox.id.clone()).collect();
        for id in &ready {
            self.act(Action::StopSandbox { id: id.clone() });
        }
        if !ready.is_empty() || self.memory.prepared == Prepared::No {
            return;
        }
        if let Some(last) = self.observed.sandboxes.first()
            && !self.memory.is_any_busy("sandbox/create")
        {
            let attempt = last.attempt + 1;
            self.act(Action::CreateSandbox { attempt });
            if self.actions.contains(&Action::CreateSandbox { attempt }) {
                let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
                self.note(Severity::Normal, "SandboxChanged", message, None);
            }
            return;
        }
        self.act(Action::CreateSandbox { attempt: 0 });
    }

    fn start_ephemeral(&mut self) {
        for (kind, container) in each_container(self.pod()) {
            if kind == ContainerKind::Ephemeral && self.observed.newest(&container.name).is_none() {
                self.start(&container);
            }
        }
    }

    /// Brings the init containers forward by one; says whether the regular containers may run.
    fn initialize(&mut self, sandbox: &str) -> bool {
        let spec = self.spec();
        let observed = self.observed;
        let before = spec.containers.iter().any(|container| {
            let newest = observed.newest_in(sandbox, &container.name);
            newest.is_some_and(|newest| matches!(newest.state, RunState::Created | RunState::Running { .. }))
        });
        let inits = init_containers(&spec);
        if before {
            for container in inits.iter().filter(|container| is_sidecar(container)) {
                self.keep(container, observed.newest_in(sandbox, &container.name));
            }
            return true;
        }
        // The last that was begun tells how far it came: earlier ones may have been cleared away.
        let Some(last) = inits.iter().rposition(|container| observed.newest_in(sandbox, &container.name).is_some())
        else {
            if let Some(first) = inits.first() {
                self.start(first);
            }
            return inits.is_empty();
        };
        for container in inits[..last].iter().filter(|container| is_sidecar(container)) {
            self.keep(container, observed.newest_in(sandbox, &container.name));
        }
        let container = &inits[last];
        let newest = observed.newest_in(sandbox, &container.name);
        if !self.is_initialized(container, newest) {
            self.keep(container, newest);
            return false;
        }
        if is_sidecar(container) {
            self.keep(container, newest);
        }
        match inits.get(last + 1) {
            Some(next) => {
                self.start(next);
                false
            }
            None => true,
        }
    }

    fn is_initialized(&self, container: &Container, newest: Option<&Instance>) -> bool {
        let Some(newest) = newest else { return false };
        match is_sidecar(container) {
            true => newest.is_running() && self.is_started(container, &newest.id),
            false => newest.exit_code() == Some(0),
        }
    }

    /// A container that runs has started, unless its startup probe or its postStart hook is still to succeed.
    pub fn is_started(&self, container: &Container, id: &str) -> bool {
        let name = &container.name;
        let has_hook = container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some());
        let starting = self.memory.is_busy(&Action::StartContainer { name: name.clone(), attempt: 0 });
        !(has_hook && starting) && self.memory.containers.get(name).is_none_or(|memory| memory.probes.is_started(id))
    }

    fn run_regular(&mut self) {
        let observed = self.observed;
        for container in self.spec().containers {
            self.keep(&container, observed.newest(&container.name));
        }
    }

    /// Keeps one container as it should be: running, of the present definition, alive by its probes.
    fn keep(&mut self, container: &Container, newest: Option<&Instance>) {
        let spec = self.spec();
        if let Some(newest) = newest.filter(|newest| newest.is_running()) {
            return self.check_running(container, &spec, newest);
        }
        if let Some(unknown) = newest.filter(|newest| newest.state == RunState::Unknown) {
            let message = "Container is in \"unknown\" state, try killing it before restart".to_owned();
            return self.kill(unknown, message, None);
        }
        if wants_start(container, &spec, newest) {
            self.start(container);
        }
    }

    fn check_running(&mut self, container: &Container, spec: &PodSpec, newest: &Instance) {
        let name = &container.name;
        let condemned = self.memory.containers.get(name).and_then(|memory| memory.probes.condemns(&newest.id));
        let (why, restart) = if definition_changed(container, newest) {
            (format!("Container {name} definition changed"), true)
        } else if let Some(kind) = condemned {
            let probe = kind.word().to_lowercase();
            (format!("Container {name} failed {probe} probe"), restarts_after_kill(container, spec))
        } else {
            match self.resize(container, newest) {
                Change::Restart => (format!("Container {name} resize requires restart"), true),
                Change::None | Change::InPlace => return,
            }
        };
        let message = if restart { format!("{why}, will be restarted") } else { why };
        self.kill(newest, message, condemned);
    }

    /// Brings a running container to the resources it should have.
    fn resize(&mut self, container: &Container, newest: &Instance) -> Change {
        let change = resize::change(container, &self.actual_resources(container, newest));
        if change == Change::InPlace {
            let wanted = container.resources.clone().unwrap_or_default();
            let resources = serde_json::to_string(&wanted).unwrap_or_default();
            let (id, name) = (newest.id.clone(), newest.name.clone());
            self.act(Action::ResizeContainer { id, name, resources });
        }
        change
    }

    pub fn actual_resources(&self, container: &Container, instance: &Instance) -> ResourceRequirements {
        let memory = self.memory.containers.get(&container.name);
        resize::actual(self.pod(), container, instance, memory.and_then(|memory| memory.resized.as_ref()))
    }

    /// Whether a container has not got the resources yet that it should have.
    pub fn is_resizing(&self) -> bool {
        each_container(self.pod()).iter().any(|(kind, container)| {
            let newest = self.observed.newest(&container.name).filter(|newest| newest.is_running());
            let resizable = matches!(kind, ContainerKind::Regular | ContainerKind::Sidecar);
            resizable
                && newest.is_some_and(|newest| {
                    resize::change(container, &self.actual_resources(container, newest)) != Change::None
                })
        })
    }

    fn kill(&mut self, instance: &Instance, message: String, condemned: Option<ProbeKind>) {
        let found = find_container(self.pod(), &instance.name);
        let by_probe = condemned.and_then(|kind| {
            let (_, container) = found.as_ref()?;
            crate::probes::probe_of(container, kind)?.termination_grace_period_seconds
        });
        let grace_seconds = by_probe.unwrap_or_else(|| spec_grace(self.pod()));
        let (id, name) = (instance.id.clone(), instance.name.clone());
        self.act(Action::KillContainer { id, name, grace_seconds, message, pre_stop: PreStop::Run });
    }

    /// Starts a container, one at a time and not before its back-off is over.
    fn start(&mut self, container: &Container) {
        let name = &container.name;
        let newest = self.observed.newest(name);
        let (now, full_name) = (self.now, full_name(self.pod()));
        let memory = self.memory.containers.entry(name.clone()).or_default();
        let crash_wait = memory.crash_wait(newest, now);
        if let (Some(_), Some(newest)) = (crash_wait, newest)
            && memory.back_off_told != newest.id
        {
            memory.back_off_told = newest.id.clone();
            let message = format!("Back-off restarting failed container {name} in pod {full_name}");
            self.note(Severity::Warning, "BackOff", message, Some(name));
        }
        let retry_at = self.memory.containers.get(name).and_then(|memory| memory.retry_at).filter(|at| *at > now);
        if let Some(until) = crash_wait.max(retry_at) {
            return self.wake(until);
        }
        if self.memory.is_any_busy("start/") || self.actions.iter().any(is_start) {
            return;
        }
        let attempt = newest.map_or_else(|| self.reported_attempt(name), |newest| newest.attempt + 1);
        if let (Some(newest), Some(memory)) = (newest, self.memory.containers.get_mut(name))
            && newest.exit_code().is_some()
        {
            memory.grow_crash_delay(now);
        }
        self.act(Action::StartContainer { name: name.clone(), attempt });
    }

    /// The next attempt of a container whose instances are all cleared away.
    fn reported_attempt(&self, name: &str) -> u32 {
        let Some(status) = &self.pod().status else { return 0 };
        let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let known = all.into_iter().find(|status| status.name == name);
        known.map_or(0, |status| {
            let lived = status.container_id.as_ref().is_some_and(|id| !id.is_empty());
            u32::try_from(status.restart_count).unwrap_or(0) + u32::from(lived)
        })
    }

    fn probe(&mut self) {
        let stopping = self.memory.stop.is_some();
        let running: Vec<(String, String)> = self
            .observed
            .instances
            .iter()
            .filter(|instance| instance.is_running())
            .map(|instance| (instance.name.clone(), instance.id.clone()))
            .collect();
        for (name, id) in running {
            if self.memory.is_busy(&Action::StartContainer { name: name.clone(), attempt: 0 }) {
                continue;
            }
            let Some(memory) = self.memory.containers.get(&name) else { continue };
            if !memory.probes.is_about(&id) {
                continue;
            }
            let (due, next) = memory.probes.due(self.now);
            for kind in due.into_iter().filter(|kind| !stopping || *kind == ProbeKind::Readiness) {
                self.act(Action::Probe { id: id.clone(), name: name.clone(), kind });
            }
            if let Some(next) = next {
                self.wake(next);
            }
        }
    }

    /// Of every container one ended life is kept beside the newest; empty old sandboxes go.
    fn collect_garbage(&mut self) {
        if self.memory.stop.is_some() || self.memory.is_any_busy("start/") {
            return;
        }
        let mut seen: Vec<(&str, usize)> = Vec::new();
        for instance in &self.observed.instances {
            let place = match seen.iter_mut().find(|(name, _)| *name == instance.name) {
                Some((_, count)) => {
                    *count += 1;
                    *count
                }
                None => {
                    seen.push((&instance.name, 0));
                    0
                }
            };
            if place > 1 && !instance.may_run() {
                self.act(Action::RemoveContainer { id: instance.id.clone() });
            }
        }
        for sandbox in self.observed.sandboxes.iter().skip(1) {
            let empty = !self.observed.instances.iter().any(|instance| instance.sandbox_id == sandbox.id);
            if empty && !sandbox.ready {
                self.act(Action::RemoveSandbox { id: sandbox.id.clone() });
            }
        }
    }
}

pub(crate) fn needs_ip(pod: &Pod) -> NeedsIp {
    match pod.spec.as_ref().and_then(|spec| spec.host_network) {
        Some(true) => NeedsIp::No,
        _ => NeedsIp::Yes,
    }
}

pub(crate) fn reported_phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

pub(crate) fn is_terminal(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

pub(crate) fn spec_grace(pod: &Pod) -> i64 {
    pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30)
}

/// `name_namespace(uid)`, as messages name a pod.
pub(crate) fn full_name(pod: &Pod) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    let metadata = &pod.metadata;
    format!("{}_{}({})", part(&metadata.name), part(&metadata.namespace), part(&metadata.uid))
}

fn is_start(action: &Action) -> bool {
    matches!(action, Action::StartContainer { .. })
}
