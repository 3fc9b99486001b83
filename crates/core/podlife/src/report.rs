//! The status to report of a pod.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, PodIP, PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::conditions::{Basis, conditions, has_begun};
use crate::containers::{ContainerKind, each_container};
use crate::memory::FailureKind;
use crate::observed::{Instance, NeedsIp, RunState};
use crate::phase::{Course, phase};
use crate::plan::{Plan, full_name, is_terminal, needs_ip, reported_phase};
use crate::policy::wants_start;

/// How long a failed pull or start shows as such before it shows as backing off.
const ERROR_SHOWN_SECONDS: i64 = 2;

pub(crate) fn report(plan: &mut Plan<'_>) -> PodStatus {
    let old = plan.pod().status.clone().unwrap_or_default();
    let (mut init, mut regular, mut ephemeral) = (Vec::new(), Vec::new(), Vec::new());
    for (kind, container) in each_container(plan.pod()) {
        let status = container_status(plan, kind, &container);
        match kind {
            ContainerKind::Init | ContainerKind::Sidecar => init.push(status),
            ContainerKind::Regular => regular.push(status),
            ContainerKind::Ephemeral => ephemeral.push(status),
        }
    }
    if plan.memory.verdict.is_some() && plan.observed.instances.is_empty() && old.container_statuses.is_none() {
        // A pod that was never taken has no containers to tell of.
        (init, regular, ephemeral) = (Vec::new(), Vec::new(), Vec::new());
    }
    let all: Vec<ContainerStatus> = init.iter().chain(&regular).cloned().collect();
    let mut status = PodStatus {
        container_statuses: some_list(regular),
        init_container_statuses: some_list(init),
        ephemeral_container_statuses: some_list(ephemeral),
        observed_generation: plan.pod().metadata.generation,
        start_time: old.start_time.clone().or(Some(Time(whole_seconds(plan.now)))),
        ..old.clone()
    };
    set_phase(plan, &mut status, &all);
    status.conditions = Some(conditions(&Basis {
        pod: plan.pod(),
        phase: status.phase.as_deref().unwrap_or_default(),
        has_sandbox: plan.observed.current_sandbox(needs_ip(plan.pod())).is_some(),
        statuses: &all,
        hindrance: plan.desired.hindrance,
        is_resizing: plan.is_resizing(),
        now: whole_seconds(plan.now),
    }));
    set_addresses(plan, &mut status);
    status
}

fn set_phase(plan: &Plan<'_>, status: &mut PodStatus, all: &[ContainerStatus]) {
    if let Some(terminal) = reported_phase(plan.pod()).filter(|phase| is_terminal(phase)) {
        status.phase = Some(terminal.to_owned());
        return;
    }
    let spec = plan.spec();
    let stopped = plan.memory.stop.is_some() && plan.observed.alive().next().is_none();
    let working = plan.memory.is_any_busy("start/") || plan.memory.is_any_busy("sandbox/create");
    let course = if stopped && !working { Course::Ended } else { Course::Living };
    let initialized = all
        .iter()
        .any(|status| spec.containers.iter().any(|container| container.name == status.name) && has_begun(status));
    let mut now = phase(&spec, all, course, initialized);
    if course == Course::Ended && !is_terminal(now) {
        now = "Failed";
    }
    if let Some(verdict) = &plan.memory.verdict {
        now = "Failed";
        status.reason = Some(verdict.reason.to_owned());
        status.message = Some(verdict.message.clone());
    }
    status.phase = Some(now.to_owned());
}

fn set_addresses(plan: &Plan<'_>, status: &mut PodStatus) {
    let node_ip = plan.desired.node_ip;
    if !node_ip.is_empty() {
        status.host_ip = Some(node_ip.to_owned());
        status.host_ips = Some(vec![HostIP { ip: node_ip.to_owned() }]);
    }
    let ips: Vec<String> = match needs_ip(plan.pod()) {
        NeedsIp::No if !node_ip.is_empty() => vec![node_ip.to_owned()],
        NeedsIp::No => Vec::new(),
        NeedsIp::Yes => plan.observed.sandboxes.first().map(|sandbox| sandbox.ips.clone()).unwrap_or_default(),
    };
    if let Some(first) = ips.first() {
        status.pod_ip = Some(first.clone());
        status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
    }
}

fn container_status(plan: &mut Plan<'_>, kind: ContainerKind, container: &Container) -> ContainerStatus {
    let old = reported(plan, kind, &container.name).cloned();
    // What was made but does not run yet is nothing to tell of: it is a moment from running, or failed and says why.
    let lives = plan.observed.instances.iter().filter(|instance| instance.name == container.name);
    let mut lives = lives.filter(|instance| instance.state != RunState::Created);
    let mut status = match (lives.next(), &old) {
        (Some(newest), _) => of_instance(container, newest, lives.next(), old.as_ref()),
        (None, Some(old)) => without_instance(plan, container, old),
        (None, None) => blank(container),
    };
    if status.state.is_none() {
        status.state = Some(waiting(default_reason(plan, kind), String::new()));
    }
    explain_waiting(plan, container, &mut status);
    let newest = plan.observed.newest(&container.name);
    let running = newest.filter(|newest| newest.is_running());
    if let Some(running) = running.filter(|_| matches!(kind, ContainerKind::Regular | ContainerKind::Sidecar)) {
        status.resources = Some(plan.actual_resources(container, running));
    }
    let started = running.is_some_and(|newest| plan.is_started(container, &newest.id));
    status.started = Some(started);
    status.ready = match (kind, running) {
        (ContainerKind::Init, _) => newest.and_then(Instance::exit_code) == Some(0) || was_completed(&status),
        (ContainerKind::Ephemeral, _) | (_, None) => false,
        (_, Some(newest)) => {
            let memory = plan.memory.containers.get(&container.name);
            started && memory.is_none_or(|memory| memory.probes.is_ready(&newest.id))
        }
    };
    if kind == ContainerKind::Ephemeral {
        status.started = None;
    }
    status
}

fn of_instance(
    container: &Container,
    newest: &Instance,
    before: Option<&Instance>,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let mut last_state = before.and_then(terminated);
    if last_state.is_none() {
        let kept = old.filter(|old| old.restart_count <= newest.attempt as i32);
        last_state = kept.and_then(|old| match old.container_id.as_deref() == Some(&newest.container_id) {
            true => old.last_state.clone(),
            false => old.state.clone().filter(|state| state.terminated.is_some()).or(old.last_state.clone()),
        });
    }
    ContainerStatus {
        state: match &newest.state {
            RunState::Running { started_at } => Some(ContainerState {
                running: Some(ContainerStateRunning { started_at: Some(Time(whole_seconds(*started_at))) }),
                ..ContainerState::default()
            }),
            _ => remembered(terminated(newest), old),
        },
        last_state: Some(last_state.unwrap_or_default()),
        restart_count: i32::try_from(newest.attempt).unwrap_or(i32::MAX),
        container_id: Some(newest.container_id.clone()),
        image: if newest.image.is_empty() { image_of(container) } else { newest.image.clone() },
        image_id: newest.image_id.clone(),
        ..blank(container)
    }
}

/// The message that a container left goes with its pod's files; once reported it is kept.
fn remembered(state: Option<ContainerState>, old: Option<&ContainerStatus>) -> Option<ContainerState> {
    let mut state = state?;
    let before = old.and_then(|old| old.state.as_ref()).and_then(|state| state.terminated.as_ref());
    if let (Some(end), Some(before)) = (&mut state.terminated, before)
        && end.container_id == before.container_id
        && end.message.is_none()
    {
        end.message = before.message.clone();
    }
    Some(state)
}

/// No instance is left. What ended stays ended; what ran has vanished and counts as ended with an unknown result.
fn without_instance(plan: &Plan<'_>, container: &Container, old: &ContainerStatus) -> ContainerStatus {
    let state = old.state.clone().unwrap_or_default();
    let mut status =
        ContainerStatus { restart_count: old.restart_count, last_state: old.last_state.clone(), ..blank(container) };
    if state.terminated.is_some() {
        return ContainerStatus { state: Some(state), ..old.clone() };
    }
    if state.running.is_some() {
        let lost = ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            ..ContainerStateTerminated::default()
        };
        let lost = ContainerState { terminated: Some(lost), ..ContainerState::default() };
        match plan.memory.stop.is_some() {
            true => status.state = Some(lost),
            false => {
                status.last_state = Some(lost);
                status.restart_count += 1;
            }
        }
    }
    status
}

fn blank(container: &Container) -> ContainerStatus {
    let mounts = container.volume_mounts.iter().flatten().map(|mount| VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.filter(|read_only| *read_only),
        recursive_read_only: mount.read_only.filter(|read_only| *read_only).map(|_| "Disabled".to_owned()),
        ..VolumeMountStatus::default()
    });
    ContainerStatus {
        name: container.name.clone(),
        image: image_of(container),
        last_state: Some(ContainerState::default()),
        volume_mounts: some_list(mounts.collect()),
        allocated_resources: container.resources.as_ref().and_then(|resources| resources.requests.clone()),
        resources: container.resources.clone(),
        ..ContainerStatus::default()
    }
}

/// A container that does not run though it should tells why.
fn explain_waiting(plan: &mut Plan<'_>, container: &Container, status: &mut ContainerStatus) {
    let state = status.state.clone().unwrap_or_default();
    if state.running.is_some() || plan.memory.stop.is_some() {
        return;
    }
    let newest = plan.observed.newest(&container.name);
    if !wants_start(container, &plan.spec(), newest) {
        return;
    }
    let Some((reason, message)) = reason_to_wait(plan, container) else { return };
    if state.terminated.is_some() {
        status.last_state = Some(state);
    }
    status.state = Some(waiting(&reason, message));
}

fn reason_to_wait(plan: &mut Plan<'_>, container: &Container) -> Option<(String, String)> {
    let newest = plan.observed.newest(&container.name);
    let now = plan.now;
    let memory = plan.memory.containers.get(&container.name)?;
    if let Some(failure) = &memory.failure {
        let failed_at = memory.failed_at.unwrap_or(now);
        let shown_until = failed_at + SignedDuration::from_secs(ERROR_SHOWN_SECONDS);
        let backs_off = matches!(failure.reason.as_str(), "ErrImagePull" | "RunContainerError" | "PostStartHookError");
        if !backs_off || now < shown_until {
            let told = (failure.reason.clone(), failure.message.clone());
            if backs_off {
                plan.wake(shown_until);
            }
            return Some(told);
        }
        if failure.kind != FailureKind::Pull {
            return Some(crash_loop(plan, container, memory.start_delay_seconds()));
        }
        let message = format!("Back-off pulling image \"{}\": ErrImagePull: {}", image_of(container), failure.message);
        return Some(("ImagePullBackOff".to_owned(), message));
    }
    memory.crash_wait(newest, now)?;
    Some(crash_loop(plan, container, memory.crash_delay_seconds()))
}

fn crash_loop(plan: &Plan<'_>, container: &Container, seconds: i64) -> (String, String) {
    let message = format!(
        "back-off {} restarting failed container={} pod={}",
        go_duration(seconds),
        container.name,
        full_name(plan.pod())
    );
    ("CrashLoopBackOff".to_owned(), message)
}

fn reported<'a>(plan: &Plan<'a>, kind: ContainerKind, name: &str) -> Option<&'a ContainerStatus> {
    let status = plan.desired.pod.status.as_ref()?;
    let list = match kind {
        ContainerKind::Init | ContainerKind::Sidecar => &status.init_container_statuses,
        ContainerKind::Regular => &status.container_statuses,
        ContainerKind::Ephemeral => &status.ephemeral_container_statuses,
    };
    list.iter().flatten().find(|status| status.name == name)
}

fn default_reason(plan: &Plan<'_>, kind: ContainerKind) -> &'static str {
    let has_init =
        plan.pod().spec.as_ref().is_some_and(|spec| spec.init_containers.as_ref().is_some_and(|list| !list.is_empty()));
    match has_init && kind != ContainerKind::Ephemeral {
        true => "PodInitializing",
        false => "ContainerCreating",
    }
}

fn waiting(reason: &str, message: String) -> ContainerState {
    let message = (!message.is_empty()).then_some(message);
    let waiting = ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn terminated(instance: &Instance) -> Option<ContainerState> {
    let RunState::Exited { code, reason, message, started_at, finished_at } = &instance.state else { return None };
    let default = if *code == 0 { "Completed" } else { "Error" };
    let terminated = ContainerStateTerminated {
        container_id: Some(instance.container_id.clone()),
        exit_code: *code,
        reason: Some(if reason.is_empty() { default.to_owned() } else { reason.clone() }),
        message: (!message.is_empty()).then(|| message.clone()),
        started_at: Some(Time(whole_seconds(*started_at))),
        finished_at: Some(Time(whole_seconds(*finished_at))),
        signal: None,
    };
    Some(ContainerState { terminated: Some(terminated), ..ContainerState::default() })
}

fn was_completed(status: &ContainerStatus) -> bool {
    let end = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    end.is_some_and(|end| end.exit_code == 0)
}

fn image_of(container: &Container) -> String {
    container.image.clone().unwrap_or_default()
}

/// The API's times have no fraction.
fn whole_seconds(at: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(at.as_second()).unwrap_or(at)
}

/// `10s`, `2m40s`, as Go prints it.
fn go_duration(seconds: i64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        _ => format!("{}m{}s", seconds / 60, seconds % 60),
    }
}

fn some_list<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
