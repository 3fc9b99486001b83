//! Security contexts of pods and containers, as the runtime wants them.

use std::path::Path;

use coracle_proto::cri;
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext};

const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

pub(crate) fn sandbox_security(pod: &Pod, seccomp_dir: &Path) -> cri::LinuxSandboxSecurityContext {
    let context = pod_context(pod);
    let privileged = coracle_podlife::each_container(pod).iter().any(|(_, container)| is_privileged(container));
    cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, None)),
        run_as_user: context.run_as_user.map(|value| cri::Int64Value { value }),
        run_as_group: context.run_as_group.map(|value| cri::Int64Value { value }),
        supplemental_groups: groups(&context),
        supplemental_groups_policy: groups_policy(&context),
        privileged,
        seccomp: Some(seccomp(context.seccomp_profile.as_ref(), seccomp_dir)),
        ..Default::default()
    }
}

pub(crate) fn container_security(
    pod: &Pod,
    container: &Container,
    seccomp_dir: &Path,
    target_id: Option<String>,
) -> cri::LinuxContainerSecurityContext {
    let of_pod = pod_context(pod);
    let context = container.security_context.clone().unwrap_or_default();
    let privileged = context.privileged == Some(true);
    let capabilities = context.capabilities.clone().unwrap_or_default();
    let unmasked = privileged || context.proc_mount.as_deref() == Some("Unmasked");
    let list =
        |paths: &[&str]| if unmasked { Vec::new() } else { paths.iter().map(|path| (*path).to_owned()).collect() };
    let profile = context.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref());
    cri::LinuxContainerSecurityContext {
        capabilities: Some(cri::Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged,
        namespace_options: Some(namespaces(pod, target_id)),
        run_as_user: run_as_user(&of_pod, &context).map(|value| cri::Int64Value { value }),
        run_as_group: context.run_as_group.or(of_pod.run_as_group).map(|value| cri::Int64Value { value }),
        readonly_rootfs: context.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(&of_pod),
        supplemental_groups_policy: groups_policy(&of_pod),
        no_new_privs: context.allow_privilege_escalation == Some(false),
        masked_paths: list(&MASKED_PATHS),
        readonly_paths: list(&READONLY_PATHS),
        seccomp: Some(seccomp(profile.filter(|_| !privileged), seccomp_dir)),
        ..Default::default()
    }
}

/// Refuses a container that must not run as root and would, or of which that cannot be told.
pub(crate) fn check_non_root(pod: &Pod, container: &Container, image: Option<&cri::Image>) -> Result<(), String> {
    let of_pod = pod_context(pod);
    let context = container.security_context.clone().unwrap_or_default();
    if context.run_as_non_root.or(of_pod.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let who = format!("(pod: \"{}\", container: {})", full_name(pod), container.name);
    match run_as_user(&of_pod, &context) {
        Some(0) => return Err(format!("container's runAsUser breaks non-root policy {who}")),
        Some(_) => return Ok(()),
        None => {}
    }
    let image = image.cloned().unwrap_or_default();
    match (&image.uid, image.username.as_str()) {
        (Some(uid), _) if uid.value != 0 => Ok(()),
        (None, name) if !name.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {who}"
        )),
        _ => Err(format!("container has runAsNonRoot and image will run as root {who}")),
    }
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().is_some_and(|context| context.privileged == Some(true))
}

pub(crate) fn pod_context(pod: &Pod) -> PodSecurityContext {
    pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default()
}

fn run_as_user(of_pod: &PodSecurityContext, context: &SecurityContext) -> Option<i64> {
    context.run_as_user.or(of_pod.run_as_user)
}

fn namespaces(pod: &Pod, target_id: Option<String>) -> cri::NamespaceOption {
    let spec = pod.spec.clone().unwrap_or_default();
    let host = |flag: Option<bool>| match flag {
        Some(true) => cri::NamespaceMode::Node,
        _ => cri::NamespaceMode::Pod,
    };
    let pid = match (&target_id, spec.host_pid, spec.share_process_namespace) {
        (_, Some(true), _) => cri::NamespaceMode::Node,
        (_, _, Some(true)) => cri::NamespaceMode::Pod,
        (Some(_), _, _) => cri::NamespaceMode::Target,
        _ => cri::NamespaceMode::Container,
    };
    cri::NamespaceOption {
        network: host(spec.host_network) as i32,
        pid: pid as i32,
        ipc: host(spec.host_ipc) as i32,
        target_id: target_id.filter(|_| pid == cri::NamespaceMode::Target).unwrap_or_default(),
        userns_options: None,
    }
}

fn groups(context: &PodSecurityContext) -> Vec<i64> {
    context.fs_group.into_iter().chain(context.supplemental_groups.iter().flatten().copied()).collect()
}

fn groups_policy(context: &PodSecurityContext) -> i32 {
    match context.supplemental_groups_policy.as_deref() {
        Some("Strict") => cri::SupplementalGroupsPolicy::Strict as i32,
        _ => cri::SupplementalGroupsPolicy::Merge as i32,
    }
}

fn seccomp(profile: Option<&SeccompProfile>, seccomp_dir: &Path) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType;
    let (profile_type, localhost_ref) = match profile.map(|profile| (profile.type_.as_str(), profile)) {
        Some(("RuntimeDefault", _)) => (ProfileType::RuntimeDefault, String::new()),
        Some(("Localhost", profile)) => {
            let path = seccomp_dir.join(profile.localhost_profile.as_deref().unwrap_or_default());
            (ProfileType::Localhost, path.to_string_lossy().into_owned())
        }
        _ => (ProfileType::Unconfined, String::new()),
    };
    cri::SecurityProfile { profile_type: profile_type as i32, localhost_ref }
}

fn full_name(pod: &Pod) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}_{}({})", part(&pod.metadata.name), part(&pod.metadata.namespace), part(&pod.metadata.uid))
}
