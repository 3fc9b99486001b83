//! Pod sandboxes: a shim, its namespaces, the network and the cgroup.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use coracle_linux::cgroup::{self, Limits};
use coracle_linux::plan::{self, Namespace, PodPlan};
use coracle_linux::sys;
use coracle_linux::wire::{Reply, Request};
use coracle_proto::cri::{self, ContainerEventType, NamespaceMode, PodSandboxConfig, PodSandboxState};
use tonic::Status;

use crate::shim::{self, ShimConnection};
use crate::state::{self, Sandbox, SandboxRecord};
use crate::{EmbeddedRuntime, NetworkRequest, internal};

/// How long processes that were killed may take to be gone.
pub(crate) const KILL_TIMEOUT: Duration = Duration::from_secs(10);
const SHM_BYTES: u64 = 64 << 20;

pub(crate) fn namespace_options(config: &PodSandboxConfig) -> cri::NamespaceOption {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    context.and_then(|context| context.namespace_options.clone()).unwrap_or_default()
}

pub(crate) fn mode(mode: NamespaceMode) -> Namespace {
    if mode == NamespaceMode::Node { Namespace::Host } else { Namespace::Pod }
}

impl EmbeddedRuntime {
    pub async fn run_pod_sandbox(
        self: &Arc<Self>,
        request: cri::RunPodSandboxRequest,
    ) -> Result<cri::RunPodSandboxResponse, Status> {
        let config = request.config.ok_or_else(|| Status::invalid_argument("config is required"))?;
        if !request.runtime_handler.is_empty() && request.runtime_handler != "coracle" {
            return Err(Status::invalid_argument(format!(
                "no runtime for {:?} is configured",
                request.runtime_handler
            )));
        }
        let _turn = crate::turn(&self.pods_in_the_making).await;
        let id = self.new_id();
        let parent = config.linux.as_ref().map(|linux| linux.cgroup_parent.clone()).unwrap_or_default();
        let cgroup = if parent.is_empty() { format!("{}/pod-{id}", self.options.cgroup_root) } else { parent };
        let record = SandboxRecord {
            created_at: self.now(),
            owns_cgroup: !self.cgroups.group(&cgroup).exists() || self.owns_cgroup(&cgroup),
            cgroup,
            runtime_handler: request.runtime_handler,
            id: id.clone(),
            ..SandboxRecord::default()
        };
        let dir = self.options.state_dir.join(state::PODS).join(&id);
        let mut sandbox = Sandbox { record, config: Box::new(config), dir };
        match self.bring_up(&mut sandbox).await {
            Ok(connection) => {
                self.state.lock().sandboxes.insert(id.clone(), sandbox);
                self.follow(id.clone(), connection);
                self.announce(&id, ContainerEventType::ContainerStartedEvent);
                Ok(cri::RunPodSandboxResponse { pod_sandbox_id: id })
            }
            Err(error) => {
                if let Err(second) = self.take_down(&sandbox).await {
                    tracing::warn!(object = %id, error = %second, "a failed pod sandbox is not cleaned up yet");
                }
                let _ = fs::remove_dir_all(&sandbox.dir);
                Err(error)
            }
        }
    }

    async fn bring_up(&self, sandbox: &mut Sandbox) -> Result<ShimConnection, Status> {
        let made = fs::create_dir_all(sandbox.dir.join(plan::CONTAINERS));
        made.map_err(|error| Status::internal(format!("making {}: {error}", sandbox.dir.display())))?;
        sandbox.save()?;
        // It may wait for the kernel, which is no reason for other tasks of this thread to wait.
        tokio::task::block_in_place(|| self.prepare_cgroups(sandbox))?;
        write_files(sandbox)?;
        plan::write(&sandbox.dir.join(plan::POD_PLAN), &self.pod_plan(sandbox)).map_err(internal)?;
        let stream = self.zygote.spawn_shim().map_err(internal)?;
        let mut connection = ShimConnection::new(stream).map_err(shim::lost)?;
        let dir = sandbox.dir.to_string_lossy().into_owned();
        match connection.call(&Request::Open { dir }).await? {
            Reply::Ready { .. } => {}
            other => return Err(shim::unexpected(&other)),
        }
        if has_network(&sandbox.config) {
            let attached = self.options.network.attach(&network_request(sandbox)).await;
            sandbox.record.ips = attached.map_err(|error| {
                Status::unknown(format!("failed to setup network for sandbox {:?}: {error}", sandbox.record.id))
            })?;
        }
        sandbox.record.ready = true;
        sandbox.save_record()?;
        Ok(connection)
    }

    /// Whether a sandbox made this group, an earlier one of the same pod.
    fn owns_cgroup(&self, cgroup: &str) -> bool {
        let state = self.state.lock();
        state.sandboxes.values().any(|sandbox| sandbox.record.owns_cgroup && sandbox.record.cgroup == cgroup)
    }

    fn prepare_cgroups(&self, sandbox: &Sandbox) -> Result<(), Status> {
        self.cgroups.group(&sandbox.shim_cgroup()).create().map_err(internal)?;
        let linux = sandbox.config.linux.as_ref();
        if let Some(resources) = linux.and_then(|linux| linux.resources.as_ref()).filter(|_| sandbox.record.owns_cgroup)
        {
            self.cgroups.group(&sandbox.record.cgroup).apply(&limits(resources)).map_err(internal)?;
        }
        Ok(())
    }

    fn pod_plan(&self, sandbox: &Sandbox) -> PodPlan {
        let namespaces = namespace_options(&sandbox.config);
        let sysctls = sandbox.config.linux.iter().flat_map(|linux| linux.sysctls.clone()).collect();
        PodPlan {
            id: sandbox.record.id.clone(),
            hostname: sandbox.config.hostname.clone(),
            net: mode(namespaces.network()),
            ipc: mode(namespaces.ipc()),
            pid: if namespaces.pid() == NamespaceMode::Pod { Namespace::Pod } else { Namespace::Own },
            sysctls,
            cgroup_procs: self.cgroups.group(&sandbox.shim_cgroup()).procs_files(),
            // As near to never as the machine lets it be: a shim is the pod's last hold.
            oom_score_adj: -998,
            shm_bytes: SHM_BYTES,
        }
    }

    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<(), Status> {
        let sandbox = match self.state.lock().sandbox(id) {
            Ok(sandbox) => sandbox.clone(),
            Err(_) => return Ok(()),
        };
        let id = sandbox.record.id.clone();
        self.take_down(&sandbox).await?;
        let was_ready = {
            let mut state = self.state.lock();
            let Some(known) = state.sandboxes.get_mut(&id) else { return Ok(()) };
            let was_ready = std::mem::replace(&mut known.record.ready, false);
            known.save_record()?;
            was_ready
        };
        if was_ready {
            self.announce(&id, ContainerEventType::ContainerStoppedEvent);
        }
        Ok(())
    }

    /// Ends the shim with all it started and lets go of everything the kernel holds for the pod.
    async fn take_down(&self, sandbox: &Sandbox) -> Result<(), Status> {
        let id = &sandbox.record.id;
        if let Ok(mut connection) = ShimConnection::connect(&sandbox.dir) {
            let ended = async {
                connection.send(&Request::Shutdown).await?;
                while connection.receive().await.is_ok() {}
                Ok::<(), std::io::Error>(())
            };
            let _ = tokio::time::timeout(KILL_TIMEOUT, ended).await;
        }
        if has_network(&sandbox.config) {
            let detached = self.options.network.detach(&network_request(sandbox)).await;
            detached
                .map_err(|error| Status::unknown(format!("failed to destroy network for sandbox {id:?}: {error}")))?;
        }
        unmount(&sandbox.dir);
        let mut groups = vec![sandbox.shim_cgroup()];
        groups.extend(self.state.lock().containers_of(id).map(|container| container.record.cgroup.clone()));
        // Another sandbox of the same pod may be in the pod's group already.
        let shared = sandbox.record.owns_cgroup.then(|| self.cgroups.group(&sandbox.record.cgroup));
        let groups: Vec<_> = groups.iter().map(|path| self.cgroups.group(path)).collect();
        let removed = tokio::task::spawn_blocking(move || {
            let removed = groups.iter().try_for_each(|group| group.kill(KILL_TIMEOUT).and_then(|()| group.remove()));
            shared.iter().for_each(cgroup::Group::remove_if_empty);
            removed
        });
        removed.await.map_err(internal)?.map_err(internal)
    }

    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<(), Status> {
        let sandbox = match self.state.lock().sandbox(id) {
            Ok(sandbox) => sandbox.clone(),
            Err(_) => return Ok(()),
        };
        let id = sandbox.record.id.clone();
        self.stop_pod_sandbox(&id).await?;
        let containers: Vec<String> =
            self.state.lock().containers_of(&id).map(|container| container.record.id.clone()).collect();
        for container in containers {
            self.remove_container(&container).await?;
        }
        self.remove_folder(&sandbox.dir)?;
        self.announce(&id, ContainerEventType::ContainerDeletedEvent);
        self.state.lock().sandboxes.remove(&id);
        Ok(())
    }

    /// Removes a folder of the state folder. What is written to such folders is written under the lock, so that nothing
    /// comes into one while it is emptied.
    pub(crate) fn remove_folder(&self, dir: &Path) -> Result<(), Status> {
        let _state = self.state.lock();
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Status::internal(format!("removing {}: {error}", dir.display())))
            }
            _ => Ok(()),
        }
    }

    /// Changes what all containers of the pod may use together.
    pub async fn update_pod_sandbox_resources(
        &self,
        id: &str,
        resources: &cri::LinuxContainerResources,
    ) -> Result<(), Status> {
        let sandbox = self.state.lock().sandbox(id)?.clone();
        if !sandbox.record.owns_cgroup {
            return Ok(());
        }
        self.cgroups.group(&sandbox.record.cgroup).apply(&limits(resources)).map_err(internal)?;
        let mut state = self.state.lock();
        let Some(known) = state.sandboxes.get_mut(&sandbox.record.id) else { return Ok(()) };
        known.config.linux.get_or_insert_default().resources = Some(resources.clone());
        known.save()
    }

    pub async fn pod_sandbox_status(&self, id: &str) -> Result<cri::PodSandboxStatusResponse, Status> {
        let state = self.state.lock();
        let sandbox = state.sandbox(id)?;
        Ok(cri::PodSandboxStatusResponse {
            status: Some(status_of(sandbox)),
            containers_statuses: state.containers_of(&sandbox.record.id).map(|c| self.status_of(c)).collect(),
            timestamp: self.now(),
            ..Default::default()
        })
    }

    pub async fn list_pod_sandbox(
        &self,
        filter: Option<cri::PodSandboxFilter>,
    ) -> Result<Vec<cri::PodSandbox>, Status> {
        let filter = filter.unwrap_or_default();
        let fits = |sandbox: &&Sandbox| {
            sandbox.record.id.starts_with(&filter.id)
                && filter.state.as_ref().is_none_or(|wanted| wanted.state == state_of(sandbox) as i32)
                && filter.label_selector.iter().all(|(key, value)| sandbox.config.labels.get(key) == Some(value))
        };
        let state = self.state.lock();
        Ok(state.sandboxes.values().filter(fits).map(listed).collect())
    }

    /// The pin of a pod's network namespace; `None` when it is on the machine's network.
    pub fn netns_path(&self, id: &str) -> Result<Option<std::path::PathBuf>, Status> {
        let state = self.state.lock();
        let sandbox = state.sandbox(id)?;
        Ok(has_network(&sandbox.config).then(|| sandbox.dir.join(plan::NETNS_PIN)))
    }
}

pub(crate) fn has_network(config: &PodSandboxConfig) -> bool {
    namespace_options(config).network() != NamespaceMode::Node
}

/// Lets go of what a pod has mounted in its state folder; what is not mounted is fine.
pub(crate) fn unmount(dir: &Path) {
    for name in [plan::NETNS_PIN, plan::SHM_MOUNT] {
        while sys::umount_detach(&dir.join(name)).is_ok() {}
    }
}

pub(crate) fn network_request(sandbox: &Sandbox) -> NetworkRequest {
    let metadata = sandbox.config.metadata.clone().unwrap_or_default();
    NetworkRequest {
        netns: sandbox.dir.join(plan::NETNS_PIN),
        sandbox_id: sandbox.record.id.clone(),
        pod_namespace: metadata.namespace,
        pod_name: metadata.name,
        pod_uid: metadata.uid,
        port_mappings: sandbox.config.port_mappings.clone(),
        annotations: sandbox.config.annotations.clone().into_iter().collect(),
    }
}

/// The files that every container of the pod finds in /etc.
fn write_files(sandbox: &Sandbox) -> Result<(), Status> {
    let write = |name: &str, text: String| {
        let path = sandbox.dir.join(name);
        fs::write(&path, text).map_err(|error| Status::internal(format!("writing {}: {error}", path.display())))
    };
    let host = || fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let hostname = if has_network(&sandbox.config) { sandbox.config.hostname.clone() } else { host() };
    write("hostname", format!("{hostname}\n"))?;
    let resolv_conf = match &sandbox.config.dns_config {
        Some(dns) => resolv_conf(dns),
        None => fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
    };
    write("resolv.conf", resolv_conf)
}

fn resolv_conf(dns: &cri::DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

/// What the CRI says of resources, as cgroups take it.
pub(crate) fn limits(resources: &cri::LinuxContainerResources) -> Limits {
    let set = |number: i64| (number != 0).then_some(number);
    Limits {
        cpu_shares: set(resources.cpu_shares).map(|shares| shares.max(2) as u64),
        cpu_quota: set(resources.cpu_quota),
        cpu_period: set(resources.cpu_period).map(|period| period.max(0) as u64),
        memory_bytes: set(resources.memory_limit_in_bytes),
        pids_max: None,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        unified: resources.unified.clone().into_iter().collect(),
    }
}

fn state_of(sandbox: &Sandbox) -> PodSandboxState {
    if sandbox.record.ready { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready }
}

fn listed(sandbox: &Sandbox) -> cri::PodSandbox {
    cri::PodSandbox {
        id: sandbox.record.id.clone(),
        metadata: sandbox.config.metadata.clone(),
        state: state_of(sandbox) as i32,
        created_at: sandbox.record.created_at,
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: sandbox.record.runtime_handler.clone(),
    }
}

pub(crate) fn status_of(sandbox: &Sandbox) -> cri::PodSandboxStatus {
    let mut ips = sandbox.record.ips.iter().map(ToString::to_string);
    let network = cri::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
    };
    let options = namespace_options(&sandbox.config);
    cri::PodSandboxStatus {
        id: sandbox.record.id.clone(),
        metadata: sandbox.config.metadata.clone(),
        state: state_of(sandbox) as i32,
        created_at: sandbox.record.created_at,
        network: Some(network),
        linux: Some(cri::LinuxPodSandboxStatus { namespaces: Some(cri::Namespace { options: Some(options) }) }),
        labels: sandbox.config.labels.clone(),
        annotations: sandbox.config.annotations.clone(),
        runtime_handler: sandbox.record.runtime_handler.clone(),
    }
}
