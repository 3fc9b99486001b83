//! How a kubelet is set up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;

/// Everything a kubelet needs to know; the caller has checked it.
#[derive(Clone)]
pub struct Options {
    pub node_name: String,
    pub node_ip: String,
    /// Pods' volumes and files; absolute, on a disk.
    pub root_dir: PathBuf,
    /// Where containers' logs go, `/var/log/pods` elsewhere.
    pub log_dir: PathBuf,
    /// Where Localhost seccomp profiles are looked up.
    pub seccomp_dir: PathBuf,
    /// The address of the cluster's DNS; empty where there is none.
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    /// The host's resolver configuration, for pods with dnsPolicy Default.
    pub resolv_conf: PathBuf,
    pub listen: SocketAddr,
    /// The serving certificate, and the CA of clients' certificates, which need not be shown. Without, there is no
    /// server.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Common names of client certificates that may do everything. Of all others the API server is asked.
    pub clients: Vec<String>,
    pub pods_max: u32,
    /// Below it lies `kubepods`; absolute within each cgroup hierarchy, without a slash at its end.
    pub cgroup_root: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    /// Kept from pods, `cpu` and `memory`.
    pub reserved: BTreeMap<String, String>,
    /// The scheme of container ids, `coracle` or `containerd`.
    pub runtime_name: String,
    pub version: String,
}

impl Options {
    /// Options with the usual values of everything but names and places.
    pub fn new(node_name: &str, node_ip: &str, root_dir: impl Into<PathBuf>) -> Options {
        let root_dir = root_dir.into();
        Options {
            node_name: node_name.to_owned(),
            node_ip: node_ip.to_owned(),
            log_dir: root_dir.join("logs"),
            seccomp_dir: root_dir.join("seccomp"),
            root_dir,
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            listen: SocketAddr::from(([0, 0, 0, 0], 10250)),
            tls: None,
            clients: Vec::new(),
            pods_max: 110,
            cgroup_root: "/coracle".to_owned(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            reserved: BTreeMap::new(),
            runtime_name: "coracle".to_owned(),
            version: "v1.36.2".to_owned(),
        }
    }
}
