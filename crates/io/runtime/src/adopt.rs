//! Taking over what an earlier daemon left, and following every shim for as long as it lives.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Weak};

use coracle_linux::plan::{self, ContainerStatus};
use coracle_linux::wire::Reply;
use coracle_proto::cri::{ContainerEventResponse, ContainerEventType};
use tonic::Status;

use crate::EmbeddedRuntime;
use crate::shim::{self, ShimConnection};
use crate::state::{self, Container, Sandbox};

/// What is reported for a container whose end nobody saw.
const LOST_EXIT_CODE: i32 = 255;

impl EmbeddedRuntime {
    pub(crate) async fn adopt(self: &Arc<Self>) {
        let pods = self.options.state_dir.join(state::PODS);
        for entry in fs::read_dir(&pods).into_iter().flatten().flatten() {
            if let Err(error) = self.adopt_pod(&entry.path()).await {
                tracing::warn!(object = %entry.path().display(), %error, "a pod's state cannot be read");
            }
        }
    }

    async fn adopt_pod(self: &Arc<Self>, dir: &Path) -> Result<(), Status> {
        let sandbox = match Sandbox::load(dir) {
            Ok(sandbox) => sandbox,
            // A daemon that died before the first write left an empty folder.
            Err(_) if !dir.join(state::SANDBOX_RECORD).exists() => {
                return fs::remove_dir_all(dir).map_err(|error| Status::internal(error.to_string()));
            }
            Err(error) => return Err(error),
        };
        let id = sandbox.record.id.clone();
        let was_ready = sandbox.record.ready;
        self.load_containers(dir);
        self.state.lock().sandboxes.insert(id.clone(), sandbox);
        if was_ready
            && let Ok(mut connection) = ShimConnection::connect(dir)
            && let Ok(statuses) = shim::subscribe(&mut connection).await
        {
            for status in statuses {
                self.take_status(&status);
            }
            self.follow(id, connection);
            return Ok(());
        }
        self.lose(&id);
        Ok(())
    }

    fn load_containers(&self, dir: &Path) {
        for entry in fs::read_dir(dir.join(plan::CONTAINERS)).into_iter().flatten().flatten() {
            match Container::load(&entry.path()) {
                Ok(container) => {
                    self.state.lock().containers.insert(container.record.id.clone(), container);
                }
                Err(error) => {
                    tracing::warn!(object = %entry.path().display(), %error, "a container's state cannot be read");
                }
            }
        }
    }

    /// Hears a shim's events until it ends.
    pub(crate) fn follow(self: &Arc<Self>, sandbox_id: String, mut connection: ShimConnection) {
        let runtime: Weak<EmbeddedRuntime> = Arc::downgrade(self);
        self.options.scope.spawn_until_cancelled("follow shim", async move {
            loop {
                let heard = connection.receive().await;
                let Some(runtime) = runtime.upgrade() else { return };
                match heard {
                    Ok(Reply::Event { status }) => runtime.take_status(&status),
                    Ok(_) => {}
                    Err(_) => return runtime.lose(&sandbox_id),
                }
            }
        });
    }

    /// Enters what a shim says; older news than what is known is ignored.
    pub(crate) fn take_status(&self, status: &ContainerStatus) {
        let event = {
            let mut state = self.state.lock();
            let Some(container) = state.containers.get_mut(&status.id) else { return };
            if container.status.finished_at != 0 || container.status == *status {
                return;
            }
            container.status = status.clone();
            if status.finished_at == 0 {
                ContainerEventType::ContainerStartedEvent
            } else {
                ContainerEventType::ContainerStoppedEvent
            }
        };
        self.announce(&status.id, event);
    }

    pub(crate) fn announce(&self, container_id: &str, kind: ContainerEventType) {
        self.changes.send_modify(|count| *count += 1);
        let event = {
            let state = self.state.lock();
            let sandbox_id = match state.containers.get(container_id) {
                Some(container) => container.record.sandbox_id.clone(),
                None => container_id.to_owned(),
            };
            let Some(sandbox) = state.sandboxes.get(&sandbox_id) else { return };
            ContainerEventResponse {
                container_id: container_id.to_owned(),
                container_event_type: kind as i32,
                created_at: self.now(),
                pod_sandbox_status: Some(crate::sandbox::status_of(sandbox)),
                containers_statuses: state
                    .containers_of(&sandbox_id)
                    .map(|container| self.status_of(container))
                    .collect(),
            }
        };
        // Nobody listening is fine: whoever comes later lists first.
        let _ = self.events.send(event);
    }

    /// The shim is gone, and with it every container: their first processes die with their parent.
    fn lose(&self, sandbox_id: &str) {
        let (lost, cgroup) = {
            let mut state = self.state.lock();
            let Some(sandbox) = state.sandboxes.get_mut(sandbox_id) else { return };
            let was_ready = std::mem::replace(&mut sandbox.record.ready, false);
            let _ = sandbox.save_record();
            let cgroup = sandbox.record.cgroup.clone();
            let mut lost = Vec::new();
            let now = self.now();
            let running =
                |container: &&mut Container| container.record.sandbox_id == sandbox_id && container.is_running();
            for container in state.containers.values_mut().filter(running) {
                // The shim's last word may be on disk only.
                match plan::read::<ContainerStatus>(&container.dir.join(plan::CONTAINER_STATUS)) {
                    Ok(last) if last.finished_at != 0 => container.status = last,
                    _ => {
                        container.status.finished_at = now;
                        container.status.exit_code = LOST_EXIT_CODE;
                        container.record.lost = true;
                        let _ = container.save_record();
                        let _ = container.save_status();
                    }
                }
                lost.push(container.record.id.clone());
            }
            if was_ready {
                lost.push(sandbox_id.to_owned());
            }
            (lost, cgroup)
        };
        if !lost.is_empty() {
            // A pod that is stopped loses its shim too, after its containers; that is nothing to act on.
            match lost.iter().any(|id| id != sandbox_id) {
                true => tracing::warn!(object = sandbox_id, "the pod's shim is gone, and running containers with it"),
                false => tracing::debug!(object = sandbox_id, "the pod's shim is gone"),
            }
            for pid in self.cgroups.group(&format!("{cgroup}/{sandbox_id}")).processes() {
                let _ = coracle_linux::sys::kill(pid, libc::SIGKILL);
            }
        }
        for id in lost {
            self.announce(&id, ContainerEventType::ContainerStoppedEvent);
        }
    }
}
