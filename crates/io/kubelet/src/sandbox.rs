//! The sandbox of a pod as the runtime is asked for it.

use std::collections::HashMap;

use coracle_proto::cri;
use k8s_openapi::api::core::v1::Pod;

use crate::names::{dns_config, hostname};
use crate::node_context::{NodeContext, name_of, namespace_of, uid_of};
use crate::observe::{POD_NAME, POD_NAMESPACE, POD_UID};
use crate::resources::{cgroup_parent, pod_resources};
use crate::security::{pod_context, sandbox_security};

pub(crate) fn sandbox_config(node: &NodeContext, pod: &Pod, attempt: u32) -> cri::PodSandboxConfig {
    let sysctls = pod_context(pod).sysctls.unwrap_or_default();
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name_of(pod).to_owned(),
            uid: uid_of(pod).to_owned(),
            namespace: namespace_of(pod).to_owned(),
            attempt,
        }),
        hostname: hostname(pod, &node.options),
        log_directory: node.log_dir(pod).to_string_lossy().into_owned(),
        dns_config: Some(dns_config(pod, &node.options)),
        port_mappings: port_mappings(pod),
        labels: labels(pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: cgroup_parent(&node.options.cgroup_root, pod),
            security_context: Some(sandbox_security(pod, &node.options.seccomp_dir)),
            sysctls: sysctls.into_iter().map(|sysctl| (sysctl.name, sysctl.value)).collect(),
            overhead: None,
            resources: Some(pod_resources(pod)),
        }),
        windows: None,
    }
}

/// The pod's own labels, and those by which it is found again.
fn labels(pod: &Pod) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = pod.metadata.labels.clone().unwrap_or_default().into_iter().collect();
    labels.extend(identity(pod));
    labels
}

pub(crate) fn identity(pod: &Pod) -> [(String, String); 3] {
    [
        (POD_NAME.to_owned(), name_of(pod).to_owned()),
        (POD_NAMESPACE.to_owned(), namespace_of(pod).to_owned()),
        (POD_UID.to_owned(), uid_of(pod).to_owned()),
    ]
}

/// Ports of the host that lead into the pod; a pod in the host's network needs none.
fn port_mappings(pod: &Pod) -> Vec<cri::PortMapping> {
    let Some(spec) = pod.spec.as_ref().filter(|spec| spec.host_network != Some(true)) else { return Vec::new() };
    let sidecars =
        spec.init_containers.iter().flatten().filter(|init| init.restart_policy.as_deref() == Some("Always"));
    let ports = sidecars.chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter(|port| port.host_port.is_some_and(|host_port| host_port > 0))
        .map(|port| cri::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => cri::Protocol::Udp as i32,
                Some("SCTP") => cri::Protocol::Sctp as i32,
                _ => cri::Protocol::Tcp as i32,
            },
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}
