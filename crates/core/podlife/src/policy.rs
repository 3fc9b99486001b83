//! Whether a container that ended runs again, and whether one that runs is still the one that is wanted.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use crate::containers::is_sidecar;
use crate::observed::{Instance, RunState};

/// Identifies the part of a container's definition whose change restarts it: name and image.
pub fn container_hash(container: &Container) -> String {
    let mut hash = 0x811c_9dc5_u32;
    let image = container.image.as_deref().unwrap_or_default();
    for byte in container.name.bytes().chain([0]).chain(image.bytes()) {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    format!("{hash:x}")
}

pub(crate) fn definition_changed(container: &Container, instance: &Instance) -> bool {
    !instance.hash.is_empty() && instance.hash != container_hash(container)
}

/// Rules of the container come first, then its own policy, then the pod's.
pub(crate) fn restarts_after(container: &Container, spec: &PodSpec, code: i32) -> bool {
    let by_rule = container.restart_policy_rules.iter().flatten().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|value| *value == code);
            listed == (codes.operator == "In")
        })
    });
    if by_rule.is_some_and(|rule| rule.action.starts_with("Restart")) {
        return true;
    }
    match policy(container, spec) {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

/// Whether a container that is killed, for its probe's sake, comes back.
pub(crate) fn restarts_after_kill(container: &Container, spec: &PodSpec) -> bool {
    policy(container, spec) != "Never"
}

fn policy<'a>(container: &'a Container, spec: &'a PodSpec) -> &'a str {
    container.restart_policy.as_deref().or(spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// Whether the container is to run, given its newest instance.
pub(crate) fn wants_start(container: &Container, spec: &PodSpec, newest: Option<&Instance>) -> bool {
    match newest.map(|instance| &instance.state) {
        None | Some(RunState::Created | RunState::Unknown) => true,
        Some(RunState::Running { .. }) => false,
        Some(RunState::Exited { .. }) if is_sidecar(container) => true,
        Some(RunState::Exited { code, .. }) => restarts_after(container, spec, *code),
    }
}
