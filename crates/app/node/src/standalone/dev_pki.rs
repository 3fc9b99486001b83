//! Certificates and kubeconfigs for a cluster of separate processes on one machine: one folder holds an identity for
//! each component, as kubeadm would name them. Meant for trying and testing; a real cluster brings its own.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::StandaloneError;
use crate::files::write_private;
use crate::identity::{Cidr, node_ip};
use crate::kubeconfig::{self, Access};
use crate::pki::{Names, Pki};

pub struct Options {
    pub folder: PathBuf,
    pub node_name: String,
    pub service_cidr: String,
    /// The API server's URL, `https://127.0.0.1:6443`.
    pub server: String,
    /// Where DNS listens on this machine.
    pub dns_port: u16,
    /// Further addresses of the API server.
    pub addresses: Vec<IpAddr>,
}

/// Makes what is missing. Calling it again changes nothing that is still good.
pub fn write(options: &Options) -> Result<(), StandaloneError> {
    let cidr = Cidr::try_from(options.service_cidr.clone())
        .map_err(|_| StandaloneError::Range { setting: "service-cidr", value: options.service_cidr.clone() })?;
    let mut addresses = vec![IpAddr::from([127, 0, 0, 1]), cidr.nth(1).into(), node_ip()];
    addresses.extend(&options.addresses);
    addresses.sort();
    addresses.dedup();
    let pki = Pki::ensure(&options.folder, &Names { node_name: &options.node_name, addresses })?;
    let node = format!("system:node:{}", options.node_name);
    let clients = [
        ("scheduler", "system:kube-scheduler", None),
        ("controller-manager", "system:kube-controller-manager", None),
        ("kubelet-client", node.as_str(), Some("system:nodes")),
        ("proxy", "system:kube-proxy", None),
        ("dns", "system:coredns", None),
    ];
    for (name, user, group) in clients {
        let identity = pki.client(&options.folder, name, user, group)?;
        let access = Access { context: name, server: options.server.clone(), ca: &pki.ca, user: &identity };
        kubeconfig::write(&kubeconfig_of(&options.folder, name.trim_end_matches("-client")), &access)?;
    }
    let access = Access { context: "admin", server: options.server.clone(), ca: &pki.ca, user: &pki.admin };
    kubeconfig::write(&kubeconfig_of(&options.folder, "admin"), &access)?;
    let path = options.folder.join("dns.yaml");
    let text = dns_manifest(cidr, node_ip(), options.dns_port);
    write_private(&path, text.as_bytes()).map_err(|source| StandaloneError::File { path, source })
}

fn kubeconfig_of(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.kubeconfig"))
}

/// What DNS may read, and the Service by which pods find it.
fn dns_manifest(services: Cidr, node: IpAddr, port: u16) -> String {
    let address = services.nth(10);
    format!(
        r#"apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: system:coredns}}
rules:
- {{apiGroups: [""], resources: [endpoints, services, pods, namespaces], verbs: [list, watch]}}
- {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: system:coredns}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: system:coredns}}
subjects:
- {{apiGroup: rbac.authorization.k8s.io, kind: User, name: system:coredns}}
---
apiVersion: v1
kind: Service
metadata:
  name: kube-dns
  namespace: kube-system
  labels: {{k8s-app: kube-dns, kubernetes.io/name: CoreDNS, kubernetes.io/cluster-service: "true"}}
spec:
  clusterIP: {address}
  ports:
  - {{name: dns, port: 53, protocol: UDP}}
  - {{name: dns-tcp, port: 53, protocol: TCP}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
addressType: IPv4
metadata:
  name: kube-dns
  namespace: kube-system
  labels: {{kubernetes.io/service-name: kube-dns, endpointslice.kubernetes.io/managed-by: coracle}}
endpoints:
- {{addresses: [{node}], conditions: {{ready: true}}}}
ports:
- {{name: dns, port: {port}, protocol: UDP}}
- {{name: dns-tcp, port: {port}, protocol: TCP}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_gets_an_identity_and_keeps_it() {
        let folder = std::env::temp_dir().join(format!("coracle-dev-pki-{}", std::process::id()));
        let options = Options {
            folder: folder.clone(),
            node_name: "n1".into(),
            service_cidr: "10.96.0.0/16".into(),
            server: "https://127.0.0.1:1".into(),
            dns_port: 53,
            addresses: Vec::new(),
        };
        let all = || {
            ["admin", "scheduler", "controller-manager", "kubelet", "proxy", "dns"]
                .map(|name| std::fs::read_to_string(kubeconfig_of(&folder, name)).unwrap())
        };
        write(&options).unwrap();
        let first = all();
        write(&options).unwrap();
        let again = all();
        Pki::read(&folder).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(first, again);
    }
}
