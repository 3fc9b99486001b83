//! Where everything of one cluster lies. The folders are the cluster's: removing them and the kernel objects that carry
//! its name leaves nothing.

use std::path::{Path, PathBuf};

/// The layout below a data directory.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    pub fn new(root: &Path) -> Paths {
        Paths { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Certificates and keys, 0600.
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// The embedded store's log and snapshots.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// What shims and sandboxes are found again by.
    pub fn runtime(&self) -> PathBuf {
        self.root.join("runtime")
    }

    /// Volumes and files of pods.
    pub fn kubelet(&self) -> PathBuf {
        self.root.join("kubelet")
    }

    pub fn network(&self) -> PathBuf {
        self.root.join("network")
    }

    /// Container logs, laid out as `/var/log/pods` is.
    pub fn pod_logs(&self) -> PathBuf {
        self.root.join("logs/pods")
    }

    /// What was chosen at the first start: name, ranges, node.
    pub fn identity(&self) -> PathBuf {
        self.root.join("cluster.json")
    }

    /// The root-only socket of the running process.
    pub fn socket(&self) -> PathBuf {
        self.root.join("coracle.sock")
    }

    /// Locked while a process runs on this data.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The administrator's kubeconfig, always kept here too.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("admin.kubeconfig")
    }
}
