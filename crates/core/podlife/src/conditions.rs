//! The conditions of a pod that its node owns.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodCondition, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::Hindrance;
use crate::containers::{init_containers, is_sidecar};

struct Finding {
    holds: bool,
    reason: &'static str,
    message: String,
}

/// What conditions are made of.
pub(crate) struct Basis<'a> {
    pub pod: &'a Pod,
    pub phase: &'a str,
    pub has_sandbox: bool,
    /// Of init and regular containers.
    pub statuses: &'a [ContainerStatus],
    pub hindrance: Option<&'a Hindrance>,
    pub is_resizing: bool,
    pub now: Timestamp,
}

/// All conditions: others' as they are, then the node's own; a transition time moves only with its status.
pub(crate) fn conditions(basis: &Basis<'_>) -> Vec<PodCondition> {
    const OWN: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
    const RESIZE: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];
    let old: &[PodCondition] =
        basis.pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let spec = basis.pod.spec.clone().unwrap_or_default();
    let containers_ready = containers_ready(basis, &spec);
    let findings = [
        (OWN[0], Finding::plain(basis.has_sandbox)),
        (OWN[1], initialized(basis, &spec)),
        (OWN[2], ready(&spec, old, &containers_ready)),
        (OWN[3], containers_ready),
        (OWN[4], Finding::plain(true)),
    ];
    let mut all: Vec<PodCondition> = old
        .iter()
        .filter(|one| !OWN.contains(&one.type_.as_str()) && !RESIZE.contains(&one.type_.as_str()))
        .cloned()
        .collect();
    let pending = basis.hindrance.map(|hindrance| match hindrance {
        Hindrance::Deferred(message) => Finding { holds: true, reason: "Deferred", message: message.clone() },
        Hindrance::Infeasible(message) => Finding { holds: true, reason: "Infeasible", message: message.clone() },
    });
    let in_progress = basis.is_resizing.then(|| Finding::plain(true));
    for (type_, finding) in RESIZE.into_iter().zip([pending, in_progress]) {
        let before = old.iter().find(|condition| condition.type_ == type_);
        all.extend(finding.map(|finding| finding.into_condition(type_, before, basis)));
    }
    for (type_, finding) in findings {
        let before = old.iter().find(|condition| condition.type_ == type_);
        all.push(finding.into_condition(type_, before, basis));
    }
    all
}

impl Finding {
    fn plain(holds: bool) -> Finding {
        Finding { holds, reason: "", message: String::new() }
    }

    fn not(reason: &'static str, message: String) -> Finding {
        Finding { holds: false, reason, message }
    }

    fn into_condition(self, type_: &str, before: Option<&PodCondition>, basis: &Basis<'_>) -> PodCondition {
        let status = if self.holds { "True" } else { "False" };
        let same = before.filter(|before| before.status == status);
        let since = same.and_then(|before| before.last_transition_time.clone());
        PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: some_text(self.reason),
            message: some_text(&self.message),
            last_probe_time: None,
            last_transition_time: Some(since.unwrap_or(Time(basis.now))),
            observed_generation: basis.pod.metadata.generation,
        }
    }
}

fn containers_ready(basis: &Basis<'_>, spec: &PodSpec) -> Finding {
    let sidecars = init_containers(spec).iter().filter(|container| is_sidecar(container));
    let (unknown, unready) = sort(sidecars.chain(&spec.containers), basis.statuses, |_, status| status.ready);
    match basis.phase {
        "Succeeded" if unknown.is_empty() => return Finding::not("PodCompleted", String::new()),
        "Failed" => return Finding::not("PodFailed", String::new()),
        _ => {}
    }
    match complaint(&unknown, &unready, "unready") {
        None => Finding::plain(true),
        Some(message) => Finding::not("ContainersNotReady", message),
    }
}

fn ready(spec: &PodSpec, conditions: &[PodCondition], containers: &Finding) -> Finding {
    if !containers.holds {
        return Finding::not(containers.reason, containers.message.clone());
    }
    let complaints: Vec<String> = spec
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match conditions.iter().find(|condition| condition.type_ == *name) {
                None => Some(format!("corresponding condition of pod readiness gate \"{name}\" does not exist.")),
                Some(condition) if condition.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    match complaints.is_empty() {
        true => Finding::plain(true),
        false => Finding::not("ReadinessGatesNotReady", complaints.join(", ")),
    }
}

fn initialized(basis: &Basis<'_>, spec: &PodSpec) -> Finding {
    let is_initialized = |container: &Container, status: &ContainerStatus| match is_sidecar(container) {
        true => status.started == Some(true),
        false => status.ready,
    };
    let (unknown, incomplete) = sort(init_containers(spec).iter(), basis.statuses, is_initialized);
    if basis.phase == "Succeeded" && unknown.is_empty() {
        return Finding { holds: true, reason: "PodCompleted", message: String::new() };
    }
    let begun = spec.containers.iter().any(|container| {
        let status = basis.statuses.iter().find(|status| status.name == container.name);
        status.is_some_and(has_begun)
    });
    match complaint(&unknown, &incomplete, "incomplete") {
        Some(message) if !begun => Finding::not("ContainersNotInitialized", message),
        _ => Finding::plain(true),
    }
}

pub(crate) fn has_begun(status: &ContainerStatus) -> bool {
    let ran = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    };
    ran(&status.state) || ran(&status.last_state)
}

/// The names of containers without a status, and of those whose status is not good.
fn sort<'a>(
    containers: impl Iterator<Item = &'a Container>,
    statuses: &[ContainerStatus],
    is_good: impl Fn(&Container, &ContainerStatus) -> bool,
) -> (Vec<&'a str>, Vec<&'a str>) {
    let (mut unknown, mut bad) = (Vec::new(), Vec::new());
    for container in containers {
        match statuses.iter().find(|status| status.name == container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !is_good(container, status) => bad.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    (unknown, bad)
}

fn complaint(unknown: &[&str], bad: &[&str], word: &str) -> Option<String> {
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(format!("containers with unknown status: [{}]", unknown.join(" ")));
    }
    if !bad.is_empty() {
        parts.push(format!("containers with {word} status: [{}]", bad.join(" ")));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn some_text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
