//! Containers: from a CRI configuration and an image to a running process and back.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use coracle_image::Image;
use coracle_linux::plan::{self, ContainerPlan, ContainerStatus, LogPlan, Namespace, RootPlan};
use coracle_linux::wire::{Reply, Request};
use coracle_proto::cri::{self, ContainerEventType, ContainerState, NamespaceMode};
use tonic::Status;

use crate::sandbox::{KILL_TIMEOUT, limits};
use crate::state::{self, Container, ContainerRecord, Sandbox};
use crate::{EmbeddedRuntime, internal, mounts, process, shim};

/// Exit code of a container that could not be started.
/// A log is begun anew when it would grow past this, and so many files of it are kept: the kubelet's defaults.
const LOG_BYTES_MAX: u64 = 10 << 20;
const LOG_FILES_MAX: u32 = 5;
const START_ERROR_CODE: i32 = 128;

impl EmbeddedRuntime {
    pub async fn create_container(
        &self,
        request: cri::CreateContainerRequest,
    ) -> Result<cri::CreateContainerResponse, Status> {
        let config = request.config.ok_or_else(|| Status::invalid_argument("config is required"))?;
        let _turn = crate::turn(&self.starts).await;
        let sandbox = self.state.lock().sandbox(&request.pod_sandbox_id)?.clone();
        if !sandbox.record.ready {
            return Err(Status::failed_precondition(format!("sandbox {} is not running", sandbox.record.id)));
        }
        let spec = config.image.clone().unwrap_or_default();
        let image = self.options.images.get(&spec.image).map_err(internal)?;
        let image = image.ok_or_else(|| Status::not_found(format!("image {:?} not found", spec.image)))?;
        let id = self.new_id();
        let dir = sandbox.dir.join(plan::CONTAINERS).join(&id);
        let cgroup = format!("{}/{id}", sandbox.record.cgroup);
        let mut record = ContainerRecord {
            created_at: self.now(),
            sandbox_id: sandbox.record.id.clone(),
            image_id: image.id.clone(),
            cgroup,
            stop_signal: process::stop_signal(&config, &image),
            id: id.clone(),
            ..ContainerRecord::default()
        };
        let plan = self.container_plan(&sandbox, &config, &image, &record.id)?;
        (record.uid, record.gid, record.groups) = (plan.process.uid, plan.process.gid, plan.process.groups.clone());
        record.log_path = plan.log.as_ref().map(|log| log.path.to_string_lossy().into_owned()).unwrap_or_default();
        let status = ContainerStatus { id: id.clone(), ..ContainerStatus::default() };
        let container = Container { record, config: Box::new(config), status, dir };
        if let Err(error) = tokio::task::block_in_place(|| self.lay_out(&container, &plan)) {
            self.clear_away(&container);
            return Err(error);
        }
        self.state.lock().containers.insert(id.clone(), container);
        self.announce(&id, ContainerEventType::ContainerCreatedEvent);
        Ok(cri::CreateContainerResponse { container_id: id })
    }

    fn layer_dir(&self, id: &str) -> PathBuf {
        self.options.data_dir.join(state::CONTAINERS).join(id)
    }

    fn container_plan(
        &self,
        sandbox: &Sandbox,
        config: &cri::ContainerConfig,
        image: &Image,
        id: &str,
    ) -> Result<ContainerPlan, Status> {
        let layer = self.layer_dir(id);
        let linux = config.linux.clone().unwrap_or_default();
        let context = linux.security_context.unwrap_or_default();
        let namespaces = context.namespace_options.clone().unwrap_or_default();
        let group = self.cgroups.group(&format!("{}/{id}", sandbox.record.cgroup));
        let devices = mounts::devices(config, context.privileged)?;
        let log = (!config.log_path.is_empty()).then(|| LogPlan {
            path: PathBuf::from(&sandbox.config.log_directory).join(&config.log_path),
            bytes_max: LOG_BYTES_MAX,
            files_max: LOG_FILES_MAX,
        });
        Ok(ContainerPlan {
            id: id.to_owned(),
            root: RootPlan {
                lower: self.options.images.layers(image),
                upper: layer.join("upper"),
                work: layer.join("work"),
                target: sandbox.dir.join(plan::CONTAINERS).join(id).join(plan::ROOTFS),
                readonly: context.readonly_rootfs,
            },
            mounts: mounts::plan(self, sandbox, config)?,
            masked_paths: if context.privileged { Vec::new() } else { context.masked_paths.clone() },
            readonly_paths: if context.privileged { Vec::new() } else { context.readonly_paths.clone() },
            devices,
            process: process::plan(self, sandbox, config, image)?,
            pid: match namespaces.pid() {
                NamespaceMode::Pod => Namespace::Pod,
                NamespaceMode::Container => Namespace::Own,
                NamespaceMode::Node => Namespace::Host,
                NamespaceMode::Target => Namespace::Target(namespaces.target_id.clone()),
            },
            privileged: context.privileged,
            cgroup_procs: group.procs_files(),
            oom_file: group.oom_file(),
            log,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
        })
    }

    /// Everything on disk and in the cgroups that the start will need.
    fn lay_out(&self, container: &Container, plan: &ContainerPlan) -> Result<(), Status> {
        for folder in [&plan.root.target, &plan.root.upper, &plan.root.work] {
            let made = fs::create_dir_all(folder);
            made.map_err(|error| Status::internal(format!("making {}: {error}", folder.display())))?;
        }
        plan::write(&container.dir.join(plan::CONTAINER_PLAN), plan).map_err(internal)?;
        container.save()?;
        let group = self.cgroups.group(&container.record.cgroup);
        group.create().map_err(internal)?;
        let linux = container.config.linux.as_ref();
        if let Some(resources) = linux.and_then(|linux| linux.resources.as_ref()) {
            group.apply(&limits(resources)).map_err(internal)?;
        }
        group.restrict_devices(&mounts::device_access(plan)).map_err(internal)
    }

    fn clear_away(&self, container: &Container) {
        let removed = self.cgroups.group(&container.record.cgroup).remove();
        if let Err(error) = removed {
            tracing::warn!(object = %container.record.id, %error, "a container's cgroup stays");
        }
        let _ = fs::remove_dir_all(self.layer_dir(&container.record.id));
        if let Err(error) = self.remove_folder(&container.dir) {
            tracing::warn!(object = %container.record.id, %error, "a container's folder stays");
        }
    }

    pub async fn start_container(&self, id: &str) -> Result<(), Status> {
        let (container, dir) = self.container_and_dir(id)?;
        let id = container.record.id.clone();
        if container.status.started_at != 0 || container.status.finished_at != 0 {
            return Err(Status::failed_precondition(format!("container {id} is not in created state")));
        }
        let _turn = crate::turn(&self.starts).await;
        match shim::call(&dir, &Request::Start { container: id.clone() }).await {
            Ok(Reply::Started { status }) => {
                self.take_status(&status);
                Ok(())
            }
            Ok(other) => Err(shim::unexpected(&other)),
            Err(error) => {
                self.enter_start_error(&id, error.message());
                Err(Status::unknown(format!("failed to start container {id:?}: {}", error.message())))
            }
        }
    }

    fn enter_start_error(&self, id: &str, message: &str) {
        let now = self.now();
        if let Some(container) = self.state.lock().containers.get_mut(id) {
            container.record.start_error = message.to_owned();
            container.status.finished_at = now;
            container.status.exit_code = START_ERROR_CODE;
            let _ = container.save_record();
            let _ = container.save_status();
        }
        self.announce(id, ContainerEventType::ContainerStoppedEvent);
    }

    /// A container and the folder of its pod.
    pub(crate) fn container_and_dir(&self, id: &str) -> Result<(Container, PathBuf), Status> {
        let state = self.state.lock();
        let container = state.container(id)?.clone();
        let sandbox = state.sandbox(&container.record.sandbox_id)?;
        Ok((container, sandbox.dir.clone()))
    }

    /// Asks it to end, and after `timeout` ends it.
    pub async fn stop_container(&self, id: &str, timeout: Duration) -> Result<(), Status> {
        let Ok((container, dir)) = self.container_and_dir(id) else { return Ok(()) };
        let id = container.record.id.clone();
        if !container.is_running() {
            return Ok(());
        }
        if !timeout.is_zero() {
            let signal = container.record.stop_signal;
            match shim::call(&dir, &Request::Signal { container: id.clone(), signal, everyone: false }).await {
                Err(error) if error.code() != tonic::Code::NotFound => {
                    tracing::debug!(object = %id, %error, "stop signal")
                }
                _ => {}
            }
            if self.wait_for_end(&id, timeout).await {
                return Ok(());
            }
        }
        let _ =
            shim::call(&dir, &Request::Signal { container: id.clone(), signal: libc::SIGKILL, everyone: true }).await;
        if self.wait_for_end(&id, KILL_TIMEOUT).await {
            return Ok(());
        }
        Err(Status::deadline_exceeded(format!("container {id} does not end")))
    }

    /// Whether the container is not running, now or before the time is over.
    async fn wait_for_end(&self, id: &str, timeout: Duration) -> bool {
        let mut changes = self.changes.subscribe();
        let ended = async {
            loop {
                changes.borrow_and_update();
                if !self.state.lock().containers.get(id).is_some_and(Container::is_running) {
                    return;
                }
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(timeout, ended).await.is_ok()
    }

    pub async fn remove_container(&self, id: &str) -> Result<(), Status> {
        let Ok((container, dir)) = self.container_and_dir(id) else { return Ok(()) };
        let id = container.record.id.clone();
        self.stop_container(&id, Duration::ZERO).await?;
        let group = self.cgroups.group(&container.record.cgroup);
        let removed = tokio::task::spawn_blocking(move || group.kill(KILL_TIMEOUT).and_then(|()| group.remove()));
        removed.await.map_err(internal)?.map_err(internal)?;
        let _ = shim::call(&dir, &Request::Forget { container: id.clone() }).await;
        self.clear_away(&container);
        self.announce(&id, ContainerEventType::ContainerDeletedEvent);
        self.state.lock().containers.remove(&id);
        Ok(())
    }

    pub async fn list_containers(&self, filter: Option<cri::ContainerFilter>) -> Result<Vec<cri::Container>, Status> {
        let filter = filter.unwrap_or_default();
        let fits = |container: &&Container| {
            container.record.id.starts_with(&filter.id)
                && container.record.sandbox_id.starts_with(&filter.pod_sandbox_id)
                && filter.state.as_ref().is_none_or(|wanted| wanted.state == state_of(container) as i32)
                && filter.label_selector.iter().all(|(key, value)| container.config.labels.get(key) == Some(value))
        };
        let state = self.state.lock();
        Ok(state.containers.values().filter(fits).map(listed).collect())
    }

    pub async fn container_status(&self, id: &str) -> Result<cri::ContainerStatusResponse, Status> {
        let state = self.state.lock();
        let container = state.container(id)?;
        let info = [("pid".to_owned(), container.status.pid.to_string())].into();
        Ok(cri::ContainerStatusResponse { status: Some(self.status_of(container)), info })
    }

    pub async fn update_container_resources(
        &self,
        id: &str,
        resources: &cri::LinuxContainerResources,
    ) -> Result<(), Status> {
        let container = self.state.lock().container(id)?.clone();
        self.cgroups.group(&container.record.cgroup).apply(&limits(resources)).map_err(internal)?;
        let mut state = self.state.lock();
        let Some(known) = state.containers.get_mut(&container.record.id) else { return Ok(()) };
        let linux = known.config.linux.get_or_insert_default();
        let merged = linux.resources.get_or_insert_default();
        let keep = |new: i64, old: i64| if new == 0 { old } else { new };
        merged.cpu_period = keep(resources.cpu_period, merged.cpu_period);
        merged.cpu_quota = keep(resources.cpu_quota, merged.cpu_quota);
        merged.cpu_shares = keep(resources.cpu_shares, merged.cpu_shares);
        merged.memory_limit_in_bytes = keep(resources.memory_limit_in_bytes, merged.memory_limit_in_bytes);
        known.save()
    }

    pub async fn reopen_container_log(&self, id: &str) -> Result<(), Status> {
        let (container, dir) = self.container_and_dir(id)?;
        shim::call(&dir, &Request::ReopenLog { container: container.record.id }).await.map(drop)
    }

    pub(crate) fn status_of(&self, container: &Container) -> cri::ContainerStatus {
        let (record, config, status) = (&container.record, &container.config, &container.status);
        let user = cri::LinuxContainerUser {
            uid: record.uid.into(),
            gid: record.gid.into(),
            supplemental_groups: record.groups.iter().map(|group| i64::from(*group)).collect(),
        };
        cri::ContainerStatus {
            id: record.id.clone(),
            metadata: config.metadata.clone(),
            state: state_of(container) as i32,
            created_at: record.created_at,
            started_at: status.started_at,
            finished_at: status.finished_at,
            exit_code: status.exit_code,
            image: config.image.clone(),
            image_ref: record.image_id.clone(),
            image_id: record.image_id.clone(),
            reason: reason(container).to_owned(),
            message: record.start_error.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path: record.log_path.clone(),
            resources: Some(cri::ContainerResources {
                linux: config.linux.as_ref().and_then(|linux| linux.resources.clone()),
                windows: None,
            }),
            user: Some(cri::ContainerUser { linux: Some(user) }),
            stop_signal: config.stop_signal,
        }
    }
}

fn reason(container: &Container) -> &'static str {
    let (record, status) = (&container.record, &container.status);
    match status.finished_at {
        0 => "",
        _ if !record.start_error.is_empty() => "StartError",
        _ if record.lost => "Unknown",
        _ if status.oom_killed => "OOMKilled",
        _ if status.exit_code == 0 => "Completed",
        _ => "Error",
    }
}

fn state_of(container: &Container) -> ContainerState {
    match (container.status.started_at, container.status.finished_at) {
        (0, 0) => ContainerState::ContainerCreated,
        (_, 0) => ContainerState::ContainerRunning,
        _ => ContainerState::ContainerExited,
    }
}

fn listed(container: &Container) -> cri::Container {
    cri::Container {
        id: container.record.id.clone(),
        pod_sandbox_id: container.record.sandbox_id.clone(),
        metadata: container.config.metadata.clone(),
        image: container.config.image.clone(),
        image_ref: container.record.image_id.clone(),
        image_id: container.record.image_id.clone(),
        state: state_of(container) as i32,
        created_at: container.record.created_at,
        labels: container.config.labels.clone(),
        annotations: container.config.annotations.clone(),
    }
}
