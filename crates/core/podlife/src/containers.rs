//! The three lists of containers of a pod, seen as one.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerKind {
    /// Runs to completion before the next.
    Init,
    /// An init container with restart policy Always: it stays beside the others.
    Sidecar,
    Regular,
    Ephemeral,
}

/// Every container, in the order in which they start.
pub fn each_container(pod: &Pod) -> Vec<(ContainerKind, Container)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = init_containers(spec).iter().map(|container| (init_kind(container), container.clone()));
    let regular = spec.containers.iter().map(|container| (ContainerKind::Regular, container.clone()));
    let ephemeral =
        spec.ephemeral_containers.iter().flatten().map(|container| (ContainerKind::Ephemeral, as_container(container)));
    init.chain(regular).chain(ephemeral).collect()
}

pub fn find_container(pod: &Pod, name: &str) -> Option<(ContainerKind, Container)> {
    each_container(pod).into_iter().find(|(_, container)| container.name == name)
}

pub(crate) fn init_containers(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

pub(crate) fn init_kind(container: &Container) -> ContainerKind {
    match container.restart_policy.as_deref() {
        Some("Always") => ContainerKind::Sidecar,
        _ => ContainerKind::Init,
    }
}

pub(crate) fn is_sidecar(container: &Container) -> bool {
    init_kind(container) == ContainerKind::Sidecar
}

/// An ephemeral container has the fields of a container and the one it looks at.
fn as_container(ephemeral: &k8s_openapi::api::core::v1::EphemeralContainer) -> Container {
    let from = ephemeral.clone();
    Container {
        args: from.args,
        command: from.command,
        env: from.env,
        env_from: from.env_from,
        image: from.image,
        image_pull_policy: from.image_pull_policy,
        name: from.name,
        resources: from.resources,
        security_context: from.security_context,
        stdin: from.stdin,
        stdin_once: from.stdin_once,
        termination_message_path: from.termination_message_path,
        termination_message_policy: from.termination_message_policy,
        tty: from.tty,
        volume_devices: from.volume_devices,
        volume_mounts: from.volume_mounts,
        working_dir: from.working_dir,
        ..Container::default()
    }
}
