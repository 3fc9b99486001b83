//! Carries out what was decided for a pod, one action at a time, and tells how it ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coracle_client::verbs::Preconditions;
use coracle_client::{ClientError, DeleteOptions, ObjectPath};
use coracle_podlife::{Action, ContainerKind, Failure, FailureKind, Outcome, PreStop, Severity, find_container};
use coracle_proto::cri;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::watch;

use crate::container::Start;
use crate::events::Recorder;
use crate::node_context::{NodeContext, name_of, namespace_of, uid_of};
use crate::resources::{cgroup_parent, linux_resources, pod_resources, remove_cgroup};
use crate::runtime::RuntimeError;
use crate::{hooks, image, prober, sandbox, security, volumes};

/// After a preStop hook a container always gets this long to end.
const GRACE_SECONDS_MIN: i64 = 2;

/// What an action is carried out with.
#[derive(Clone)]
pub(crate) struct Work {
    pub node: Arc<NodeContext>,
    pub pod: Arc<Pod>,
    pub sandbox_id: String,
    pub pod_ips: Vec<String>,
    /// The running container that an ephemeral one may look at, by name.
    pub running: Arc<Vec<(String, String)>>,
    /// Turns true when the pod is on its way out.
    pub stopping: watch::Receiver<bool>,
    pub recorder: Recorder,
}

/// How an action ended, and when the volumes want to be brought up to date.
pub(crate) struct Done {
    pub outcome: Outcome,
    pub refresh_at: Option<Timestamp>,
}

pub(crate) async fn perform(work: &Work, action: &Action) -> Done {
    let runtime = &work.node.runtime;
    let outcome = match action {
        Action::Prepare => return prepare(work).await,
        Action::CreateSandbox { attempt } => create_sandbox(work, *attempt).await,
        Action::StopSandbox { id } => of_runtime(runtime.stop_pod_sandbox(id).await),
        Action::RemoveSandbox { id } => of_runtime(runtime.remove_pod_sandbox(id).await),
        Action::RemoveContainer { id } => of_runtime(runtime.remove_container(id).await),
        Action::StartContainer { name, attempt } => match start_container(work, name, *attempt).await {
            Ok(()) => Outcome::Done,
            Err(failure) => Outcome::Failed(failure),
        },
        Action::KillContainer { .. } => kill_container(work, action).await,
        Action::ResizeContainer { id, name, .. } => resize_container(work, id, name).await,
        Action::Probe { id, name, kind } => Outcome::Probed(prober::probe(work, id, name, *kind).await),
        Action::CleanUp => clean_up(work).await,
        Action::Delete => delete(work).await,
        Action::Forget | Action::Leave => Outcome::Done,
    };
    Done { outcome, refresh_at: None }
}

async fn prepare(work: &Work) -> Done {
    let dirs = [work.node.pod_dir(uid_of(&work.pod)), work.node.log_dir(&work.pod)];
    for dir in &dirs {
        if let Err(error) = std::fs::create_dir_all(dir) {
            let message = format!("error making pod data directories: {error}");
            work.recorder.note(Severity::Warning, "FailedToMakePodDataDirectories", &message, None);
            return Done { outcome: other(message), refresh_at: None };
        }
    }
    match volumes::set_up(work).await {
        Ok(refresh_at) => Done { outcome: Outcome::Done, refresh_at },
        Err(message) => {
            work.recorder.note(Severity::Warning, "FailedMount", &message, None);
            Done { outcome: other(message), refresh_at: None }
        }
    }
}

async fn create_sandbox(work: &Work, attempt: u32) -> Outcome {
    let config = sandbox::sandbox_config(&work.node, &work.pod, attempt);
    let class = work.pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.clone());
    let runtime_handler = match class.map(|class| runtime_handler(work, &class)).transpose() {
        Ok(handler) => handler.unwrap_or_default(),
        Err(message) => return sandbox_failed(work, message),
    };
    let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler };
    match work.node.runtime.run_pod_sandbox(request).await {
        Ok(_) => Outcome::Done,
        Err(status) => sandbox_failed(work, status.message().to_owned()),
    }
}

fn runtime_handler(work: &Work, class: &str) -> Result<String, String> {
    use coracle_reconcile::ViewExt;
    let found = work.node.view.get_as::<k8s_openapi::api::node::v1::RuntimeClass>("", class);
    found.map(|class| class.handler.clone()).ok_or_else(|| format!("RuntimeClass \"{class}\" not found"))
}

fn sandbox_failed(work: &Work, cause: String) -> Outcome {
    let message = format!("Failed to create pod sandbox: {cause}");
    work.recorder.note(Severity::Warning, "FailedCreatePodSandBox", &message, None);
    other(message)
}

async fn start_container(work: &Work, name: &str, attempt: u32) -> Result<(), Failure> {
    let Some((kind, container)) = find_container(&work.pod, name) else {
        return Err(failure(FailureKind::Other, "ContainerNotFound", format!("container {name} is not in the pod")));
    };
    let images = {
        let mut stopping = work.stopping.clone();
        tokio::select! {
            images = images(work, &container) => images,
            _ = stopping.wait_for(|stopping| *stopping) => {
                Err(failure(FailureKind::Other, "ContainerCreating", String::new()))
            }
        }
    };
    let images = images.inspect_err(|failure| tell_failed(work, name, &failure.reason))?;
    let id = create(work, (kind, &container), &images, attempt).await?;
    if let Err(status) = work.node.runtime.start_container(&id).await {
        tell_failed(work, name, status.message());
        return Err(failure(FailureKind::Run, "RunContainerError", status.message().to_owned()));
    }
    work.recorder.note(Severity::Normal, "Started", "Container started", Some(name));
    post_start(work, &container, &id).await
}

/// The image of a container, and the ids of those that it mounts, by volume.
type Images = (cri::Image, BTreeMap<String, String>);

async fn images(work: &Work, container: &Container) -> Result<Images, Failure> {
    let image = image::ensure_image(&work.node, &work.pod, container, &work.recorder).await?;
    Ok((image, image::ensure_volumes(&work.node, &work.pod, container, &work.recorder).await?))
}

async fn create(
    work: &Work,
    (kind, container): (ContainerKind, &Container),
    (image, volume_images): &Images,
    attempt: u32,
) -> Result<String, Failure> {
    let config_failed = |message: String| {
        tell_failed(work, &container.name, &message);
        failure(FailureKind::Config, "CreateContainerConfigError", message)
    };
    security::check_non_root(&work.pod, container, Some(image)).map_err(config_failed)?;
    let start = Start {
        node: &work.node,
        pod: &work.pod,
        container,
        attempt,
        pod_ips: &work.pod_ips,
        image,
        volume_images,
        target_id: if kind == ContainerKind::Ephemeral { target(work, &container.name) } else { None },
    };
    let config = start.config().map_err(config_failed)?;
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: work.sandbox_id.clone(),
        config: Some(config),
        sandbox_config: Some(sandbox::sandbox_config(&work.node, &work.pod, 0)),
    };
    match work.node.runtime.create_container(request).await {
        Ok(id) => {
            work.recorder.note(Severity::Normal, "Created", "Container created", Some(&container.name));
            Ok(id)
        }
        Err(status) => {
            tell_failed(work, &container.name, status.message());
            Err(failure(FailureKind::Run, "CreateContainerError", status.message().to_owned()))
        }
    }
}

fn target(work: &Work, name: &str) -> Option<String> {
    let spec = work.pod.spec.as_ref()?;
    let ephemeral = spec.ephemeral_containers.iter().flatten().find(|container| container.name == name)?;
    let target = ephemeral.target_container_name.as_deref().filter(|target| !target.is_empty())?;
    work.running.iter().find(|(name, _)| name == target).map(|(_, id)| id.clone())
}

/// A container whose postStart hook fails is ended again.
async fn post_start(work: &Work, container: &Container, id: &str) -> Result<(), Failure> {
    let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) else {
        return Ok(());
    };
    let Err(cause) = hooks::run(work, container, id, hook).await else { return Ok(()) };
    tracing::debug!(cause, container = container.name, "postStart hook failed");
    work.recorder.note(Severity::Warning, "FailedPostStartHook", "PostStartHook failed", Some(&container.name));
    let message = "FailedPostStartHook".to_owned();
    work.recorder.note(Severity::Normal, "Killing", &message, Some(&container.name));
    let grace = work.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    if let Err(status) = work.node.runtime.stop_container(id, grace).await {
        tracing::warn!(error = status.message(), container = container.name, "stopping after a failed postStart hook");
    }
    Err(failure(FailureKind::Run, "PostStartHookError", "PostStartHookError".to_owned()))
}

/// The pod's own limits have to hold those of its containers at any moment: they grow before and shrink after.
async fn resize_container(work: &Work, id: &str, name: &str) -> Outcome {
    let Some((_, container)) = find_container(&work.pod, name) else { return Outcome::Done };
    let runtime = &work.node.runtime;
    let of_pod = || runtime.update_pod_sandbox_resources(&work.sandbox_id, pod_resources(&work.pod));
    if let Err(status) = of_pod().await {
        tracing::debug!(error = status.message(), object = name_of(&work.pod), "the pod's limits change after");
    }
    let resources = linux_resources(&work.pod, &container, work.node.memory_bytes);
    let changed = of_runtime(runtime.update_container_resources(id, resources).await);
    if let Err(status) = of_pod().await {
        tracing::debug!(error = status.message(), object = name_of(&work.pod), "another container still has more");
    }
    changed
}

async fn kill_container(work: &Work, action: &Action) -> Outcome {
    let Action::KillContainer { id, name, grace_seconds, message, pre_stop } = action else { return Outcome::Done };
    work.recorder.note(Severity::Normal, "Killing", message, Some(name));
    let begun = Instant::now();
    let found = find_container(&work.pod, name);
    let hook = found.as_ref().and_then(|(_, container)| container.lifecycle.as_ref()?.pre_stop.as_ref());
    if let (Some(hook), Some((_, container)), PreStop::Run) = (hook, &found, pre_stop) {
        let limit = Duration::from_secs(u64::try_from(*grace_seconds).unwrap_or(0));
        match tokio::time::timeout(limit, hooks::run(work, container, id, hook)).await {
            Ok(Ok(())) => {}
            Ok(Err(cause)) => {
                tracing::debug!(cause, container = name, "preStop hook failed");
                work.recorder.note(Severity::Warning, "FailedPreStopHook", "PreStopHook failed", Some(name));
            }
            Err(_) => tracing::debug!(container = name, "preStop hook did not end within the grace"),
        }
    }
    let used = i64::try_from(begun.elapsed().as_secs()).unwrap_or(i64::MAX);
    let left = if used == 0 { *grace_seconds } else { (grace_seconds - used).max(GRACE_SECONDS_MIN) };
    of_runtime(work.node.runtime.stop_container(id, left).await)
}

async fn clean_up(work: &Work) -> Outcome {
    if let Err(message) = volumes::tear_down(&work.node, uid_of(&work.pod)) {
        tracing::warn!(message, object = name_of(&work.pod), "cleaning up the volumes of a pod");
        return other(message);
    }
    remove_cgroup(&cgroup_parent(&work.node.options.cgroup_root, &work.pod));
    Outcome::Done
}

async fn delete(work: &Work) -> Outcome {
    let pod = &work.pod;
    let path = ObjectPath::of::<Pod>(namespace_of(pod), name_of(pod));
    let options = DeleteOptions {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: Some(uid_of(pod).to_owned()), resource_version: None }),
        ..DeleteOptions::default()
    };
    match work.node.client.delete(&path, &options).await {
        Ok(_) => Outcome::Done,
        Err(ClientError::Status(status)) if status.is_not_found() || status.is_conflict() => Outcome::Done,
        Err(error) => {
            tracing::warn!(%error, object = name_of(pod), "deleting a pod from the API");
            other(error.to_string())
        }
    }
}

fn tell_failed(work: &Work, container: &str, cause: &str) {
    work.recorder.note(Severity::Warning, "Failed", &format!("Error: {cause}"), Some(container));
}

/// What is not there any more is done.
fn of_runtime(result: Result<(), RuntimeError>) -> Outcome {
    match result {
        Ok(()) => Outcome::Done,
        Err(status) if status.code() == tonic::Code::NotFound => Outcome::Done,
        Err(status) => {
            tracing::warn!(error = status.message(), "the runtime refuses");
            other(status.message().to_owned())
        }
    }
}

fn failure(kind: FailureKind, reason: &str, message: String) -> Failure {
    Failure { kind, reason: reason.to_owned(), message }
}

fn other(message: String) -> Outcome {
    Outcome::Failed(failure(FailureKind::Other, "", message))
}
