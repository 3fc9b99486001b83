//! The runtime's view of a pod, in the words of `podlife`.

use std::collections::BTreeMap;

use coracle_podlife::{Instance, Observation, RunState, Sandbox};
use coracle_proto::cri;
use jiff::Timestamp;

use crate::runtime::{Runtime, RuntimeError};

pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
pub(crate) const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
pub(crate) const CONTAINER_RESOURCES: &str = "coracle.dev/container.resources";
pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Seconds, for whoever ends the container while no kubelet runs.
pub(crate) const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
pub(crate) const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub(crate) const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";

const MESSAGE_BYTES_MAX: usize = 4096;
const LOG_MESSAGE_BYTES_MAX: usize = 2048;
const LOG_MESSAGE_LINES_MAX: usize = 80;

/// All sandboxes and containers of the pod with this uid.
pub(crate) async fn observe(runtime: &dyn Runtime, scheme: &str, uid: &str) -> Result<Observation, RuntimeError> {
    let labels = BTreeMap::from([(POD_UID.to_owned(), uid.to_owned())]);
    let selector = || labels.clone().into_iter().collect();
    let filter = cri::PodSandboxFilter { label_selector: selector(), ..Default::default() };
    let mut sandboxes = Vec::new();
    for listed in runtime.list_pod_sandbox(filter).await? {
        match runtime.pod_sandbox_status(&listed.id).await {
            Ok(status) => sandboxes.push(sandbox(status)),
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => return Err(status),
        }
    }
    sandboxes.sort_by_key(|sandbox| std::cmp::Reverse((sandbox.attempt, sandbox.created_at)));
    let filter = cri::ContainerFilter { label_selector: selector(), ..Default::default() };
    let mut instances = Vec::new();
    for listed in runtime.list_containers(filter).await? {
        match runtime.container_status(&listed.id).await {
            Ok(status) => instances.push((status.created_at, instance(status, &listed.pod_sandbox_id, scheme))),
            Err(status) if status.code() == tonic::Code::NotFound => {}
            Err(status) => return Err(status),
        }
    }
    instances.sort_by_key(|(created_at, instance)| std::cmp::Reverse((instance.attempt, *created_at)));
    Ok(Observation { sandboxes, instances: instances.into_iter().map(|(_, instance)| instance).collect() })
}

fn sandbox(status: cri::PodSandboxStatus) -> Sandbox {
    let network = status.network.unwrap_or_default();
    let more = network.additional_ips.into_iter().map(|ip| ip.ip);
    Sandbox {
        ready: status.state == cri::PodSandboxState::SandboxReady as i32,
        attempt: status.metadata.map_or(0, |metadata| metadata.attempt),
        ips: std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect(),
        created_at: from_nanos(status.created_at),
        id: status.id,
    }
}

fn instance(status: cri::ContainerStatus, sandbox_id: &str, scheme: &str) -> Instance {
    let state = state(&status);
    let count = status.annotations.get(RESTART_COUNT).and_then(|count| count.parse().ok());
    let metadata = status.metadata.unwrap_or_default();
    let name = status.labels.get(CONTAINER_NAME).cloned().unwrap_or(metadata.name);
    let image = status.image.unwrap_or_default();
    Instance {
        container_id: format!("{scheme}://{}", status.id),
        id: status.id,
        name,
        sandbox_id: sandbox_id.to_owned(),
        attempt: count.unwrap_or(metadata.attempt),
        hash: status.annotations.get(CONTAINER_HASH).cloned().unwrap_or_default(),
        state,
        image: if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image },
        image_id: status.image_ref,
        resources: status.annotations.get(CONTAINER_RESOURCES).and_then(|text| serde_json::from_str(text).ok()),
    }
}

fn state(status: &cri::ContainerStatus) -> RunState {
    match cri::ContainerState::try_from(status.state) {
        Ok(cri::ContainerState::ContainerCreated) => RunState::Created,
        Ok(cri::ContainerState::ContainerRunning) => RunState::Running { started_at: from_nanos(status.started_at) },
        Ok(cri::ContainerState::ContainerExited) => RunState::Exited {
            code: status.exit_code,
            reason: status.reason.clone(),
            message: ended_message(status),
            started_at: from_nanos(status.started_at),
            finished_at: from_nanos(status.finished_at),
        },
        _ => RunState::Unknown,
    }
}

/// What the container left to say: its termination message, or the end of its log where it failed without one.
fn ended_message(status: &cri::ContainerStatus) -> String {
    let path = status.annotations.get(TERMINATION_PATH).map(String::as_str).unwrap_or_default();
    let mount = status.mounts.iter().find(|mount| !path.is_empty() && mount.container_path == path);
    let left = mount.and_then(|mount| read_start(&mount.host_path)).unwrap_or_default();
    let falls_back = status.annotations.get(TERMINATION_POLICY).is_some_and(|policy| policy == "FallbackToLogsOnError");
    if left.is_empty() && falls_back && status.exit_code != 0 {
        return crate::logs::last_lines(&status.log_path, LOG_MESSAGE_LINES_MAX, LOG_MESSAGE_BYTES_MAX);
    }
    if left.is_empty() { status.message.clone() } else { left }
}

fn read_start(path: &str) -> Option<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(MESSAGE_BYTES_MAX as u64).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn from_nanos(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or_default()
}
