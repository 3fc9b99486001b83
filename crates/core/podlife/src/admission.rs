//! Whether a node takes a pod that it has never seen: the scheduler may not have been asked, or may have known less.
//! Source: Kubernetes `pkg/kubelet/lifecycle/predicate.go`.

use std::collections::BTreeMap;

use coracle_meta::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod};

/// Why a pod is not taken. It then ends as failed, with this in its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reason: &'static str,
    pub message: String,
}

/// `taken` is the number of pods that the node has taken and that have not ended, `others` looks at them, and
/// `allocatable` is the node's. Most pods want nothing that could be gone: then the others are not looked at.
pub fn reject<P: AsRef<Pod>>(
    pod: &Pod,
    taken: usize,
    others: impl FnOnce() -> Vec<P>,
    allocatable: &BTreeMap<String, String>,
) -> Option<Rejection> {
    let rejection = forbidden_sysctl(pod).or_else(|| foreign_system(pod)).or_else(|| out_of_pods(taken, allocatable));
    if rejection.is_some() || wants_nothing(pod) {
        return rejection;
    }
    let others = others();
    out_of_resources(pod, &others, allocatable).or_else(|| taken_ports(pod, &others))
}

fn wants_nothing(pod: &Pod) -> bool {
    RESOURCES.iter().all(|(name, ..)| request(pod, name) == 0) && host_ports(pod).is_empty()
}

fn rejection(reason: &'static str, message: &str) -> Rejection {
    Rejection { reason, message: format!("Pod was rejected: {message}") }
}

/// What a pod may set for itself alone without harm to others: kubelet's `sysctl/safe_sysctls.go`.
const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

fn forbidden_sysctl(pod: &Pod) -> Option<Rejection> {
    let spec = pod.spec.as_ref()?;
    let asked = spec.security_context.as_ref()?.sysctls.iter().flatten();
    let why = asked.map(|sysctl| sysctl.name.replace('/', ".")).find_map(|name| {
        let shared = match name.split('.').next() {
            Some("kernel") if spec.host_ipc == Some(true) => Some("ipc"),
            Some("net") if spec.host_network == Some(true) => Some("net"),
            _ => None,
        };
        match shared {
            _ if !SYSCTLS.contains(&name.as_str()) => Some(format!("\"{name}\" not allowlisted")),
            Some(namespace) => Some(format!("\"{name}\" not allowed with host {namespace} enabled")),
            None => None,
        }
    })?;
    Some(rejection("SysctlForbidden", &format!("forbidden sysctl: {why}")))
}

fn foreign_system(pod: &Pod) -> Option<Rejection> {
    const OS: &str = "linux";
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/os"));
    if label.is_some_and(|label| label != OS) {
        let why = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Some(rejection("PodOSSelectorNodeLabelDoesNotMatch", why));
    }
    let system = pod.spec.as_ref()?.os.as_ref()?;
    let why = "Failed to admit pod as the OS field doesn't match node OS";
    (system.name != OS).then(|| rejection("PodOSNotSupported", why))
}

fn amount(text: Option<&str>) -> i128 {
    text.and_then(|text| text.parse::<Quantity>().ok()).map_or(0, |quantity| quantity.nanos())
}

fn out_of_pods(others: usize, allocatable: &BTreeMap<String, String>) -> Option<Rejection> {
    let bound = allocatable.get("pods")?.parse::<usize>().ok()?;
    let message = format!("Node didn't have enough resource: pods, requested: 1, used: {others}, capacity: {bound}");
    (others >= bound).then(|| rejection("OutOfpods", &message))
}

/// Resources by name, the reason to give, and the unit in which amounts are told, in billionths.
const RESOURCES: [(&str, &str, i128); 3] = [
    ("cpu", "OutOfcpu", 1_000_000),
    ("memory", "OutOfmemory", 1_000_000_000),
    ("ephemeral-storage", "OutOfephemeral-storage", 1_000_000_000),
];

fn out_of_resources(
    pod: &Pod,
    others: &[impl AsRef<Pod>],
    allocatable: &BTreeMap<String, String>,
) -> Option<Rejection> {
    for (name, reason, unit) in RESOURCES {
        let (wanted, bound) = (request(pod, name), amount(allocatable.get(name).map(String::as_str)));
        if wanted == 0 {
            continue;
        }
        let used: i128 = others.iter().map(|other| request(other.as_ref(), name)).sum();
        if used + wanted > bound {
            let [wanted, used, bound] = [wanted, used, bound].map(|nanos| nanos / unit);
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {bound}"
            );
            return Some(rejection(reason, &message));
        }
    }
    None
}

/// The most a pod asks for at any moment, in billionths.
pub fn request(pod: &Pod, resource: &str) -> i128 {
    let Some(spec) = &pod.spec else { return 0 };
    let own = |container: &Container| {
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        amount(requests.and_then(|requests| requests.get(resource)).map(|quantity| quantity.0.as_str()))
    };
    let (mut sidecars, mut initial) = (0, 0);
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars += own(container);
            initial = initial.max(sidecars);
        } else {
            initial = initial.max(sidecars + own(container));
        }
    }
    let running: i128 = spec.containers.iter().map(own).sum();
    let overhead = spec.overhead.as_ref().and_then(|overhead| overhead.get(resource));
    initial.max(running + sidecars) + amount(overhead.map(|quantity| quantity.0.as_str()))
}

/// Protocol, address and number of each port that a pod takes on the node.
fn host_ports(pod: &Pod) -> Vec<(&str, &str, i32)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten();
    let containers = spec.containers.iter().chain(sidecars.filter(|one| one.restart_policy.is_some()));
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let taken = ports.filter_map(|port| {
        let address = port.host_ip.as_deref().filter(|address| !address.is_empty()).unwrap_or("0.0.0.0");
        Some((port.protocol.as_deref().unwrap_or("TCP"), address, port.host_port.filter(|number| *number > 0)?))
    });
    taken.collect()
}

fn taken_ports(pod: &Pod, others: &[impl AsRef<Pod>]) -> Option<Rejection> {
    let wanted = host_ports(pod);
    let clashes = |a: &(&str, &str, i32), b: &(&str, &str, i32)| {
        a.0 == b.0 && a.2 == b.2 && (a.1 == b.1 || a.1 == "0.0.0.0" || b.1 == "0.0.0.0")
    };
    let clash = others
        .iter()
        .any(|other| host_ports(other.as_ref()).iter().any(|taken| wanted.iter().any(|wanted| clashes(wanted, taken))));
    let why = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    clash.then(|| rejection("NodePorts", why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn pod(container: serde_json::Value) -> Arc<Pod> {
        Arc::new(serde_json::from_value(json!({"metadata": {}, "spec": {"containers": [container]}})).unwrap())
    }

    #[test]
    fn a_pod_of_another_system_or_with_sysctls_of_the_whole_node_is_rejected() {
        let reason = |pod: serde_json::Value| {
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let nobody: [Arc<Pod>; 0] = [];
            let found = reject(&pod, 0, || nobody.to_vec(), &BTreeMap::new());
            found.map_or(String::new(), |found| format!("{}: {}", found.reason, found.message))
        };
        let of = |name: &str, host: bool| {
            json!({"metadata": {}, "spec": {"containers": [], "hostNetwork": host,
                "securityContext": {"sysctls": [{"name": name, "value": "1"}]}}})
        };
        let sysctl = "SysctlForbidden: Pod was rejected: forbidden sysctl:";
        assert_eq!(reason(of("kernel.shm_rmid_forced", false)), "");
        assert_eq!(reason(of("kernel/shm_rmid_forced", false)), "");
        assert_eq!(reason(of("kernel.msgmax", false)), format!("{sysctl} \"kernel.msgmax\" not allowlisted"));
        let shared = format!("{sysctl} \"net.ipv4.tcp_rmem\" not allowed with host net enabled");
        assert_eq!(reason(of("net.ipv4.tcp_rmem", true)), shared);
        let windows = json!({"metadata": {}, "spec": {"containers": [], "os": {"name": "windows"}}});
        assert!(reason(windows).starts_with("PodOSNotSupported: "));
        let label = json!({"metadata": {"labels": {"kubernetes.io/os": "windows"}}, "spec": {"containers": []}});
        assert!(reason(label).starts_with("PodOSSelectorNodeLabelDoesNotMatch: "));
    }

    #[test]
    fn a_pod_is_rejected_for_what_others_have() {
        let allocatable = BTreeMap::from(
            [("cpu", "1"), ("memory", "1Gi"), ("pods", "2")].map(|(name, amount)| (name.to_owned(), amount.to_owned())),
        );
        let port = |address: &str, number| {
            pod(json!({"name": "c", "ports": [{"containerPort": 1, "hostPort": number, "hostIP": address}]}))
        };
        let asks = |cpu: &str| pod(json!({"name": "c", "resources": {"requests": {"cpu": cpu}}}));
        let cases = [
            (port("", 80), vec![port("", 80)], "NodePorts"),
            (port("10.0.0.1", 80), vec![port("", 80)], "NodePorts"),
            (port("10.0.0.1", 80), vec![port("10.0.0.2", 80)], ""),
            (port("", 80), vec![port("", 81)], ""),
            (asks("600m"), vec![asks("500m")], "OutOfcpu"),
            (asks("500m"), vec![asks("500m")], ""),
            (asks("0"), vec![asks("0"), asks("0")], "OutOfpods"),
        ];
        for (new, others, expected) in cases {
            let found = reject(&new, others.len(), || others.clone(), &allocatable);
            let found = found.map_or("", |rejection| rejection.reason);
            assert_eq!(found, expected, "{new:?}");
        }
    }
}
