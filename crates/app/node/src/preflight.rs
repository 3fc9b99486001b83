//! What a machine must have before a cluster starts, each with the way to mend it. Everything that is missing is told
//! at once, so that nobody mends one thing to meet the next.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

/// What is missing, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub what: String,
    pub mend: String,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}\n    → {}", self.what, self.mend)
    }
}

/// One line for each.
pub fn listed(missing: &[Missing]) -> String {
    missing.iter().map(|missing| format!("  ✗ {missing}")).collect::<Vec<_>>().join("\n")
}

/// Checks the machine for a node whose API server listens on `port`.
pub fn check(port: u16) -> Vec<Missing> {
    let mut missing = check_node();
    if let Err(error) = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
        missing.push(Missing {
            what: format!("port {port} is not free: {error}"),
            mend: "stop what listens there, or choose another with --port".into(),
        });
    }
    missing
}

/// Checks the machine for a node.
pub fn check_node() -> Vec<Missing> {
    let mut missing = Vec::new();
    let mut need = |met: bool, what: String, mend: &str| {
        if !met {
            missing.push(Missing { what, mend: mend.into() });
        }
    };
    need(
        rustix::process::geteuid().is_root(),
        "not running as root: containers, interfaces and cgroups cannot be made".into(),
        "run it with sudo",
    );
    need(
        lists("/proc/filesystems", "overlay"),
        "the kernel has no overlayfs, which container file systems are made of".into(),
        "modprobe overlay, or take a kernel with CONFIG_OVERLAY_FS",
    );
    need(
        has_cgroups(),
        "no cgroup hierarchy is mounted below /sys/fs/cgroup".into(),
        "mount -t cgroup2 none /sys/fs/cgroup",
    );
    need(
        Path::new("/proc/self/ns/net").exists() && Path::new("/proc/self/ns/pid").exists(),
        "the kernel has no network or pid namespaces".into(),
        "take a kernel with CONFIG_NET_NS and CONFIG_PID_NS",
    );
    missing
}

fn lists(file: &str, name: &str) -> bool {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().any(|line| line.split_whitespace().next_back() == Some(name))
}

fn has_cgroups() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| matches!(line.split(' ').nth(2), Some("cgroup" | "cgroup2")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_with_the_way_out() {
        let holder = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let missing = check(port);
        assert!(missing.iter().any(|missing| missing.what.contains(&format!("port {port}"))), "{missing:?}");
    }
}
