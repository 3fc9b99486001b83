//! Usage of containers and pods, read from their cgroups when asked for.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use coracle_linux::cgroup::Usage;
use coracle_proto::cri::{self, UInt64Value};
use tonic::Status;

use crate::EmbeddedRuntime;
use crate::state::{self, Container};

impl EmbeddedRuntime {
    pub async fn container_stats(&self, id: &str) -> Result<cri::ContainerStats, Status> {
        let container = self.state.lock().container(id)?.clone();
        Ok(self.stats_of(&container))
    }

    /// Of running containers only; others use nothing.
    pub async fn list_container_stats(
        &self,
        filter: Option<cri::ContainerStatsFilter>,
    ) -> Result<Vec<cri::ContainerStats>, Status> {
        let filter = filter.unwrap_or_default();
        let fits = |container: &&Container| {
            container.is_running()
                && container.record.id.starts_with(&filter.id)
                && container.record.sandbox_id.starts_with(&filter.pod_sandbox_id)
                && filter.label_selector.iter().all(|(key, value)| container.config.labels.get(key) == Some(value))
        };
        let containers: Vec<Container> = self.state.lock().containers.values().filter(fits).cloned().collect();
        Ok(containers.iter().map(|container| self.stats_of(container)).collect())
    }

    pub async fn pod_sandbox_stats(&self, id: &str) -> Result<cri::PodSandboxStats, Status> {
        let (sandbox, containers) = {
            let state = self.state.lock();
            let sandbox = state.sandbox(id)?.clone();
            let containers: Vec<Container> =
                state.containers_of(&sandbox.record.id).filter(|container| container.is_running()).cloned().collect();
            (sandbox, containers)
        };
        let usage = self.cgroups.group(&sandbox.record.cgroup).usage();
        let now = self.now();
        let process = cri::ProcessUsage { timestamp: now, process_count: value(usage.processes) };
        let linux = cri::LinuxPodSandboxStats {
            cpu: Some(cpu(now, &usage)),
            memory: Some(memory(now, &usage)),
            process: Some(process),
            containers: containers.iter().map(|container| self.stats_of(container)).collect(),
            ..Default::default()
        };
        let attributes = cri::PodSandboxAttributes {
            id: sandbox.record.id.clone(),
            metadata: sandbox.config.metadata.clone(),
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
        };
        Ok(cri::PodSandboxStats { attributes: Some(attributes), linux: Some(linux), windows: None })
    }

    pub async fn list_pod_sandbox_stats(&self) -> Result<Vec<cri::PodSandboxStats>, Status> {
        let ids: Vec<String> = self.state.lock().sandboxes.keys().cloned().collect();
        let mut all = Vec::new();
        for id in ids {
            // One that was removed meanwhile has no stats.
            all.extend(self.pod_sandbox_stats(&id).await.ok());
        }
        Ok(all)
    }

    fn stats_of(&self, container: &Container) -> cri::ContainerStats {
        let usage = self.cgroups.group(&container.record.cgroup).usage();
        let now = self.now();
        let layer = self.options.data_dir.join(state::CONTAINERS).join(&container.record.id).join("upper");
        let attributes = cri::ContainerAttributes {
            id: container.record.id.clone(),
            metadata: container.config.metadata.clone(),
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
        };
        cri::ContainerStats {
            attributes: Some(attributes),
            cpu: Some(cpu(now, &usage)),
            memory: Some(memory(now, &usage)),
            writable_layer: Some(folder_usage(now, &layer)),
            ..Default::default()
        }
    }
}

fn value(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

fn cpu(timestamp: i64, usage: &Usage) -> cri::CpuUsage {
    cri::CpuUsage { timestamp, usage_core_nano_seconds: value(usage.cpu_ns), ..Default::default() }
}

fn memory(timestamp: i64, usage: &Usage) -> cri::MemoryUsage {
    cri::MemoryUsage {
        timestamp,
        working_set_bytes: value(usage.working_set_bytes),
        usage_bytes: value(usage.memory_bytes),
        rss_bytes: value(usage.rss_bytes),
        page_faults: value(usage.page_faults),
        major_page_faults: value(usage.major_page_faults),
        ..Default::default()
    }
}

pub(crate) fn folder_usage(timestamp: i64, folder: &Path) -> cri::FilesystemUsage {
    let (mut bytes, mut files) = (0, 0);
    add_up(folder, &mut bytes, &mut files);
    cri::FilesystemUsage {
        timestamp,
        fs_id: Some(cri::FilesystemIdentifier { mountpoint: folder.to_string_lossy().into_owned() }),
        used_bytes: value(bytes),
        inodes_used: value(files),
    }
}

fn add_up(folder: &Path, bytes: &mut u64, files: &mut u64) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(found) = entry.metadata() else { continue };
        *bytes += found.blocks() * 512;
        *files += 1;
        if found.is_dir() {
            add_up(&entry.path(), bytes, files);
        }
    }
}
