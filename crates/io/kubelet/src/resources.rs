//! Requests and limits in the kernel's terms, and where a pod's cgroup lies.

use k8s_openapi::api::core::v1::{Container, Pod};

use coracle_proto::cri;

use crate::fields::quantity;

const NANOS: i128 = 1_000_000_000;
const SHARES_MIN: i64 = 2;
const SHARES_MAX: i64 = 262_144;
const QUOTA_PERIOD_MICROS: i64 = 100_000;
const QUOTA_MICROS_MIN: i64 = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    /// As the API server has determined it when the pod was made.
    pub fn of(pod: &Pod) -> QosClass {
        match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
            Some("Guaranteed") => QosClass::Guaranteed,
            Some("Burstable") => QosClass::Burstable,
            _ => QosClass::BestEffort,
        }
    }
}

/// `ROOT/kubepods/burstable/podUID`, in every hierarchy.
pub(crate) fn cgroup_parent(root: &str, pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    match QosClass::of(pod) {
        QosClass::Guaranteed => format!("{root}/kubepods/pod{uid}"),
        QosClass::Burstable => format!("{root}/kubepods/burstable/pod{uid}"),
        QosClass::BestEffort => format!("{root}/kubepods/besteffort/pod{uid}"),
    }
}

/// Removes the cgroup of a pod where it is left over and empty.
pub(crate) fn remove_cgroup(parent: &str) {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let roots = hierarchies.map(|entry| entry.path()).chain([std::path::PathBuf::from("/sys/fs/cgroup")]);
    for root in roots {
        let path = root.join(parent.trim_start_matches('/'));
        if let Err(error) = std::fs::remove_dir(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::debug!(%error, path = %path.display(), "a cgroup of a pod stays");
        }
    }
}

pub(crate) fn linux_resources(pod: &Pod, container: &Container, memory_bytes: u64) -> cri::LinuxContainerResources {
    let resources = container.resources.clone().unwrap_or_default();
    let amount = |list: &Option<std::collections::BTreeMap<String, _>>, name: &str| {
        list.as_ref()
            .and_then(|list| list.get(name))
            .map(|value: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| quantity(&value.0))
    };
    let cpu_limit = amount(&resources.limits, "cpu").unwrap_or(0);
    let cpu_request = amount(&resources.requests, "cpu").unwrap_or(cpu_limit);
    let memory_limit = amount(&resources.limits, "memory").unwrap_or(0);
    let memory_request = amount(&resources.requests, "memory").unwrap_or(memory_limit);
    cri::LinuxContainerResources {
        cpu_shares: shares(cpu_request),
        cpu_period: if cpu_limit > 0 { QUOTA_PERIOD_MICROS } else { 0 },
        cpu_quota: quota(cpu_limit),
        memory_limit_in_bytes: whole(memory_limit),
        oom_score_adj: oom_score(pod, memory_request, memory_bytes),
        ..Default::default()
    }
}

/// What all containers of the pod may use together; 0 where one of them has no limit.
pub(crate) fn pod_resources(pod: &Pod) -> cri::LinuxContainerResources {
    let Some(spec) = &pod.spec else { return Default::default() };
    let all: Vec<cri::LinuxContainerResources> =
        spec.containers.iter().map(|container| linux_resources(pod, container, 0)).collect();
    let sum = |value: fn(&cri::LinuxContainerResources) -> i64| all.iter().map(value).sum::<i64>();
    let bounded = |value: fn(&cri::LinuxContainerResources) -> i64| match all.iter().all(|one| value(one) > 0) {
        true => sum(value),
        false => 0,
    };
    let cpu_quota = bounded(|one| one.cpu_quota);
    cri::LinuxContainerResources {
        cpu_shares: sum(|one| one.cpu_shares).clamp(SHARES_MIN, SHARES_MAX),
        cpu_quota,
        cpu_period: if cpu_quota > 0 { QUOTA_PERIOD_MICROS } else { 0 },
        memory_limit_in_bytes: bounded(|one| one.memory_limit_in_bytes),
        ..Default::default()
    }
}

fn shares(cpu_nanos: i128) -> i64 {
    let shares = cpu_nanos * 1024 / NANOS;
    i64::try_from(shares).unwrap_or(SHARES_MAX).clamp(SHARES_MIN, SHARES_MAX)
}

fn quota(cpu_nanos: i128) -> i64 {
    if cpu_nanos == 0 {
        return 0;
    }
    i64::try_from(cpu_nanos * i128::from(QUOTA_PERIOD_MICROS) / NANOS).unwrap_or(0).max(QUOTA_MICROS_MIN)
}

fn whole(nanos: i128) -> i64 {
    i64::try_from(nanos / NANOS).unwrap_or(i64::MAX)
}

/// The more memory a pod has asked for, the later the kernel's choice falls on it.
fn oom_score(pod: &Pod, memory_request: i128, memory_bytes: u64) -> i64 {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
    match QosClass::of(pod) {
        _ if priority >= 2_000_000_000 => -997,
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let part = 1000 * i128::from(whole(memory_request)) / i128::from(memory_bytes.max(1));
            i64::try_from(1000 - part).unwrap_or(3).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_becomes_shares_and_quota() {
        assert_eq!(shares(quantity("500m")), 512);
        assert_eq!(shares(0), 2);
        assert_eq!(quota(quantity("250m")), 25_000);
        assert_eq!(quota(quantity("1m")), 1_000);
    }
}
