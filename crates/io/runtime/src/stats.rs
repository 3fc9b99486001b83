//! Usage of containers and pods, read from their cgroups when asked for.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use coracle_linux::cgroup::Usage;
use coracle_proto::cri::{self, UInt64Value};
use tonic::Status;

use crate::EmbeddedRuntime;
use crate::sandbox::has_network;
use crate::state::{self, Container};

/// How long what a layer holds is told without looking again.
const LAYER_FRESH_NANOS: i64 = 60_000_000_000;
/// The interface of a pod's own network.
const DEFAULT_INTERFACE: &str = "eth0";

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
        let group = self.cgroups.group(&sandbox.record.cgroup);
        let usage = group.usage();
        let now = self.now();
        let process = cri::ProcessUsage { timestamp: now, process_count: value(group.process_count()) };
        let own_network = has_network(&sandbox.config);
        let pid = containers.first().map(|container| container.status.pid).filter(|pid| own_network && *pid > 0);
        let linux = cri::LinuxPodSandboxStats {
            cpu: Some(cpu(now, &usage)),
            memory: Some(memory(now, &usage)),
            network: pid.and_then(|pid| network(now, pid)),
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
        let attributes = cri::ContainerAttributes {
            id: container.record.id.clone(),
            metadata: container.config.metadata.clone(),
            labels: container.config.labels.clone(),
            annotations: container.config.annotations.clone(),
        };
        cri::ContainerStats {
            attributes: Some(attributes),
            cpu: Some(cpu(now, &usage)),
            memory: Some(cri::MemoryUsage { available_bytes: available(container, &usage), ..memory(now, &usage) }),
            swap: Some(cri::SwapUsage {
                timestamp: now,
                swap_usage_bytes: value(usage.swap_bytes),
                ..Default::default()
            }),
            writable_layer: Some(self.layer_usage(&container.record.id)),
            ..Default::default()
        }
    }

    /// What the container has written. A layer may be large, so it is walked once a minute at most.
    fn layer_usage(&self, id: &str) -> cri::FilesystemUsage {
        let now = self.now();
        if let Some(known) = self.layers.lock().get(id).filter(|known| now - known.timestamp < LAYER_FRESH_NANOS) {
            return known.clone();
        }
        let usage = folder_usage(now, &self.options.data_dir.join(state::CONTAINERS).join(id).join("upper"));
        let state = self.state.lock();
        let mut layers = self.layers.lock();
        layers.retain(|known, _| state.containers.contains_key(known));
        layers.insert(id.to_owned(), usage.clone());
        usage
    }
}

/// What a limit leaves; nothing is said without one.
fn available(container: &Container, usage: &Usage) -> Option<UInt64Value> {
    let limit = container.config.linux.as_ref()?.resources.as_ref()?.memory_limit_in_bytes;
    let limit = u64::try_from(limit).ok().filter(|limit| *limit > 0)?;
    value(limit.saturating_sub(usage.working_set_bytes))
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

/// What passed the interfaces of the network that a process is in; `None` where it has ended.
fn network(timestamp: i64, pid: i32) -> Option<cri::NetworkUsage> {
    let interfaces = interfaces(&fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?);
    let default_interface = interfaces.iter().find(|one| one.name == DEFAULT_INTERFACE).cloned();
    Some(cri::NetworkUsage { timestamp, default_interface, interfaces })
}

/// Reads `/proc/net/dev`: a name, eight numbers of what was received, eight of what was sent. Loopback is no traffic.
fn interfaces(table: &str) -> Vec<cri::NetworkInterfaceUsage> {
    let read = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let at = |index: usize| numbers.get(index).copied().and_then(value);
        let name = name.trim().to_owned();
        Some(cri::NetworkInterfaceUsage { name, rx_bytes: at(0), rx_errors: at(2), tx_bytes: at(8), tx_errors: at(10) })
    };
    table.lines().filter_map(read).filter(|one| one.name != "lo").collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_read_by_interface_and_loopback_is_none() {
        let table = "Inter-|   Receive                            |  Transmit\n \
                     face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n    \
                     lo:     100       1    0    0    0     0          0         0      100       1    0    0    0\n  \
                     eth0: 1300      10    2    0    0     0          0         0      700       7    3    0    0\n";
        let found = interfaces(table);
        assert_eq!(found.len(), 1);
        let numbers = [&found[0].rx_bytes, &found[0].rx_errors, &found[0].tx_bytes, &found[0].tx_errors];
        assert_eq!(numbers.map(|number| number.as_ref().map(|number| number.value)), [1300, 2, 700, 3].map(Some));
    }
}
