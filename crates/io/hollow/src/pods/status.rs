//! The status of a pod as a patch: what a kubelet would show of containers that run, wait or have ended as decided.

use std::net::Ipv4Addr;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use super::facts::{Condition as Seen, Container, Gate, Mount, PodFacts, RestartPolicy};
use super::life::{Cause, End, Known, Life, Next, Run, back_off};
use crate::identity::{hex_id, whole_seconds};

const DEADLINE_MESSAGE: &str = "Pod was active on the node longer than the specified deadline";

/// What of a pod only its status needs: kept no longer than until it is written.
#[derive(Debug)]
pub struct Details {
    init: Vec<Container>,
    regular: Vec<Container>,
    ephemeral: Vec<Container>,
    conditions: Vec<Seen>,
    host_network: bool,
}

/// Of which pod a status is.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub uid: &'a str,
    pub host_ip: Ipv4Addr,
}

impl Details {
    pub fn of(facts: PodFacts) -> Details {
        Details {
            init: facts.spec.init_containers,
            regular: facts.spec.containers,
            ephemeral: facts.spec.ephemeral_containers,
            conditions: facts.status.conditions,
            host_network: facts.spec.host_network,
        }
    }

    pub fn uses_host_network(&self) -> bool {
        self.host_network
    }
}

/// Why a pod with these gates is not ready though its containers are.
pub fn gate_complaint(gates: &[Gate], conditions: &[Seen]) -> Option<Box<str>> {
    let complaints: Vec<String> = gates
        .iter()
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match conditions.iter().find(|condition| condition.name == *name) {
                None => Some(format!("corresponding condition of pod readiness gate \"{name}\" does not exist.")),
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    (!complaints.is_empty()).then(|| complaints.join(", ").into())
}

/// Whether conditions say of running containers what is to be said.
pub fn readiness_is_right(conditions: &[Seen], complaint: Option<&str>) -> bool {
    let says = |name: &str, status: &str, message: &str| {
        let found = conditions.iter().find(|condition| condition.name == name);
        found.is_some_and(|found| found.status == status && found.message == message)
    };
    let ready = if complaint.is_none() { "True" } else { "False" };
    says("ContainersReady", "True", "") && says("Ready", ready, complaint.unwrap_or_default())
}

/// A strategic merge patch of the pod's status; lists of containers are replaced by it, conditions are merged.
pub fn patch(subject: Subject<'_>, details: &Details, known: &Known, next: &Next, now: Timestamp) -> Vec<u8> {
    let writer = Writer { subject, details, known, next, now };
    let patch = Patch { metadata: Uid { uid: subject.uid }, status: writer.status() };
    serde_json::to_vec(&patch).expect("strings and numbers are written always")
}

struct Writer<'a> {
    subject: Subject<'a>,
    details: &'a Details,
    known: &'a Known,
    next: &'a Next,
    now: Timestamp,
}

impl<'a> Writer<'a> {
    fn status(&self) -> Status<'a> {
        let ip = if self.details.host_network { Some(self.subject.host_ip) } else { self.known.ip };
        let host = self.subject.host_ip;
        let deadline = matches!(self.next, Next::Over(_, End { cause: Cause::Deadline, .. }));
        let has_run = !matches!(self.next, Next::Over(None, _));
        let list = |containers: &'a [Container], kind: fn(&Container) -> Kind| {
            let shown = if has_run { containers } else { &[] };
            shown.iter().map(|container| self.container(container, kind(container))).collect()
        };
        Status {
            observed_generation: (self.known.generation > 0).then_some(self.known.generation),
            phase: match self.next.phase() {
                super::facts::Phase::Succeeded => "Succeeded",
                super::facts::Phase::Failed => "Failed",
                _ => "Running",
            },
            reason: deadline.then_some("DeadlineExceeded"),
            message: deadline.then_some(DEADLINE_MESSAGE),
            conditions: self.conditions(),
            host_ip: host,
            host_ips: [Ip { ip: host }],
            pod_ip: ip,
            pod_ips: ip.map(|ip| [Ip { ip }]),
            start_time: whole_seconds(self.known.start_time.unwrap_or(self.now)),
            init_container_statuses: list(&self.details.init, init_kind),
            container_statuses: list(&self.details.regular, |_| Kind::Regular),
            ephemeral_container_statuses: list(&self.details.ephemeral, |_| Kind::Ephemeral),
        }
    }

    fn conditions(&self) -> [Condition<'a>; 5] {
        let over = matches!(self.next, Next::Over(..));
        let done = self.next.phase() == super::facts::Phase::Succeeded;
        let unready = match self.next {
            Next::Running(_) => None,
            Next::Waiting(..) => {
                let names: Vec<&str> = self.details.regular.iter().map(|container| &*container.name).collect();
                Some(("ContainersNotReady", format!("containers with unready status: [{}]", names.join(" "))))
            }
            Next::Over(..) => Some((if done { "PodCompleted" } else { "PodFailed" }, String::new())),
        };
        let gated = || self.known.gate_complaint.as_deref().map(|told| ("ReadinessGatesNotReady", told.to_owned()));
        let initialized = !matches!(self.next, Next::Over(None, _)) || self.details.init.is_empty();
        [
            self.condition("PodReadyToStartContainers", !over, None),
            self.condition("Initialized", initialized, done.then(|| ("PodCompleted", String::new()))),
            self.condition("Ready", unready.is_none() && gated().is_none(), unready.clone().or_else(gated)),
            self.condition("ContainersReady", unready.is_none(), unready),
            self.condition("PodScheduled", true, None),
        ]
    }

    /// Since when is told only where the status becomes another; what was said before and is not any more is taken out.
    fn condition(&self, name: &'static str, holds: bool, why: Option<(&'static str, String)>) -> Condition<'a> {
        let before = self.details.conditions.iter().find(|condition| condition.name == name);
        let status = if holds { "True" } else { "False" };
        let same = before.is_some_and(|before| before.status == status);
        let explained = before.is_some_and(|before| !before.reason.is_empty() || !before.message.is_empty());
        let (reason, message) = match why {
            Some((reason, message)) => (Some(Some(reason)), Some(Some(message).filter(|message| !message.is_empty()))),
            None => (explained.then_some(None), explained.then_some(None)),
        };
        Condition {
            name,
            status,
            observed_generation: (self.known.generation > 0).then_some(self.known.generation),
            last_transition_time: (!same).then(|| whole_seconds(self.now)),
            reason,
            message: message.filter(|message| message.is_some() || explained),
        }
    }

    fn container(&self, container: &'a Container, kind: Kind) -> ContainerStatus<'a> {
        let run = match *self.next {
            Next::Running(run) | Next::Waiting(run, _) | Next::Over(Some(run), _) => run,
            Next::Over(None, end) => Run { attempt: 0, started_at: end.at, before: None },
        };
        let attempt = if kind == Kind::Regular { run.attempt } else { 0 };
        let id = self.container_id(container, attempt);
        let (state, last_state) = self.states(container, kind, &run, &id);
        let runs = state.running.is_some();
        let resources = container.resources.as_deref();
        ContainerStatus {
            name: &container.name,
            ready: (runs && kind != Kind::Ephemeral) || kind == Kind::Init,
            started: (kind != Kind::Ephemeral).then_some(runs),
            restart_count: attempt,
            image: &container.image,
            image_id: format!("hollow://sha256:{}", hex_id(&[&container.image])),
            container_id: id,
            allocated_resources: resources.and_then(requests),
            resources: resources.filter(|resources| kind != Kind::Ephemeral || resources.get() != "{}"),
            volume_mounts: container.volume_mounts.iter().map(MountStatus::of).collect(),
            state,
            last_state,
        }
    }

    /// How the container is now, and how its life before ended.
    fn states(&self, container: &Container, kind: Kind, run: &Run, id: &str) -> (State, State) {
        let start = self.known.start_time.unwrap_or(self.now);
        let code = self.known.orders.exit_code;
        let before = run.before.map(|(from, to)| {
            let id = self.container_id(container, run.attempt.saturating_sub(1));
            State::terminated(code, (from, to), id)
        });
        match (kind, self.next) {
            (Kind::Init, _) => (State::terminated(0, (start, start), id.into()), State::default()),
            (Kind::Regular, Next::Running(run)) => (State::running(run.started_at), before.unwrap_or_default()),
            (Kind::Regular, Next::Waiting(run, until)) => {
                let ended_at = *until - back_off(run.attempt);
                let waiting = State::waiting(self.crash_loop(container, run.attempt));
                (waiting, State::terminated(code, (run.started_at, ended_at), id.into()))
            }
            (Kind::Regular, Next::Over(_, end)) => {
                let (code, ended_at) = match self.known.life {
                    Life::Waiting(run, until) => (code, until - back_off(run.attempt)),
                    _ => (end.code, end.at),
                };
                (State::terminated(code, (run.started_at, ended_at), id.into()), before.unwrap_or_default())
            }
            // Others run as long as the pod lives, and are stopped with it.
            (_, Next::Over(_, end)) => {
                let stopped = if end.code == 128 + 9 { end.code } else { 128 + 15 };
                (State::terminated(stopped, (start, end.at), id.into()), State::default())
            }
            (_, _) => (State::running(start), State::default()),
        }
    }

    fn container_id(&self, container: &Container, attempt: u32) -> String {
        format!("hollow://{}", hex_id(&[self.subject.uid, &container.name, &attempt.to_string()]))
    }

    fn crash_loop(&self, container: &Container, attempt: u32) -> String {
        let Subject { namespace, name, uid, .. } = self.subject;
        let seconds = back_off(attempt).as_secs();
        let pause = if seconds < 60 { format!("{seconds}s") } else { format!("{}m{}s", seconds / 60, seconds % 60) };
        format!("back-off {pause} restarting failed container={} pod={name}_{namespace}({uid})", container.name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Init,
    Sidecar,
    Regular,
    Ephemeral,
}

fn init_kind(container: &Container) -> Kind {
    if container.restart_policy == Some(RestartPolicy::Always) { Kind::Sidecar } else { Kind::Init }
}

/// The requests of a container's resources, as they are written there.
fn requests(resources: &RawValue) -> Option<&RawValue> {
    #[derive(serde::Deserialize)]
    struct Resources<'a> {
        #[serde(borrow)]
        requests: Option<&'a RawValue>,
    }
    serde_json::from_str::<Resources<'_>>(resources.get()).ok()?.requests
}

#[derive(Serialize)]
struct Patch<'a> {
    metadata: Uid<'a>,
    status: Status<'a>,
}

#[derive(Serialize)]
struct Uid<'a> {
    uid: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    observed_generation: Option<i64>,
    phase: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
    conditions: [Condition<'a>; 5],
    #[serde(rename = "hostIP")]
    host_ip: Ipv4Addr,
    #[serde(rename = "hostIPs")]
    host_ips: [Ip; 1],
    #[serde(rename = "podIP", skip_serializing_if = "Option::is_none")]
    pod_ip: Option<Ipv4Addr>,
    #[serde(rename = "podIPs", skip_serializing_if = "Option::is_none")]
    pod_ips: Option<[Ip; 1]>,
    start_time: Timestamp,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_container_statuses: Vec<ContainerStatus<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    container_statuses: Vec<ContainerStatus<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ephemeral_container_statuses: Vec<ContainerStatus<'a>>,
}

#[derive(Serialize)]
struct Ip {
    ip: Ipv4Addr,
}

/// An inner `None` is written as null.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Condition<'a> {
    #[serde(rename = "type")]
    name: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    observed_generation: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_transition_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Option<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Option<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus<'a> {
    name: &'a str,
    state: State,
    last_state: State,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<bool>,
    restart_count: u32,
    image: &'a str,
    #[serde(rename = "imageID")]
    image_id: String,
    #[serde(rename = "containerID")]
    container_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    allocated_resources: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    volume_mounts: Vec<MountStatus<'a>>,
}

#[derive(Default, Serialize)]
struct State {
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<Running>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<Waiting>,
    #[serde(skip_serializing_if = "Option::is_none")]
    terminated: Option<Terminated>,
}

impl State {
    fn running(since: Timestamp) -> State {
        State { running: Some(Running { started_at: whole_seconds(since) }), ..State::default() }
    }

    fn waiting(message: String) -> State {
        State { waiting: Some(Waiting { reason: "CrashLoopBackOff", message }), ..State::default() }
    }

    fn terminated(exit_code: i32, (from, to): (Timestamp, Timestamp), container_id: String) -> State {
        let terminated = Terminated {
            exit_code,
            reason: if exit_code == 0 { "Completed" } else { "Error" },
            started_at: whole_seconds(from),
            finished_at: whole_seconds(to),
            container_id,
        };
        State { terminated: Some(terminated), ..State::default() }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Running {
    started_at: Timestamp,
}

#[derive(Serialize)]
struct Waiting {
    reason: &'static str,
    message: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Terminated {
    exit_code: i32,
    reason: &'static str,
    started_at: Timestamp,
    finished_at: Timestamp,
    #[serde(rename = "containerID")]
    container_id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MountStatus<'a> {
    name: &'a str,
    mount_path: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    read_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    recursive_read_only: Option<&'static str>,
}

impl<'a> MountStatus<'a> {
    fn of(mount: &'a Mount) -> MountStatus<'a> {
        MountStatus {
            name: &mount.name,
            mount_path: &mount.mount_path,
            read_only: mount.read_only,
            recursive_read_only: mount.read_only.then_some("Disabled"),
        }
    }
}
