//! Capabilities by name and as bit masks, and the set a container has when its pod says nothing.

const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// One past the highest capability this crate knows.
pub const COUNT: u8 = NAMES.len() as u8;
pub const ALL: u64 = (1 << COUNT) - 1;

/// What containerd and Docker give by default.
pub const DEFAULT: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The bit of a capability, with or without `CAP_`, in any case.
pub fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == bare).map(|index| 1 << index)
}

/// A base set with names added and dropped; `ALL` stands for every one. What is named wins over `ALL`, as the
/// Kubernetes API documents for capabilities. Unknown names come back as the error.
pub fn adjust(base: u64, add: &[String], drop: &[String]) -> Result<u64, String> {
    let all = |list: &[String]| list.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let bits = |list: &[String]| {
        let mut mask = 0;
        for name in list.iter().filter(|name| !name.eq_ignore_ascii_case("ALL")) {
            mask |= bit(name).ok_or_else(|| format!("unknown capability {name:?}"))?;
        }
        Ok::<u64, String>(mask)
    };
    let mut mask = base;
    if all(drop) {
        mask = 0;
    }
    if all(add) {
        mask = ALL;
    }
    mask |= bits(add)?;
    Ok(mask & !bits(drop)?)
}

pub fn default_mask() -> u64 {
    DEFAULT.iter().filter_map(|name| bit(name)).sum()
}

/// The capabilities this process may hand on: its bounding set.
pub fn available() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(ALL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_all_and_adding_one_leaves_one() {
        let only = adjust(default_mask(), &["NET_ADMIN".into()], &["ALL".into()]).unwrap();
        assert_eq!(only, bit("CAP_NET_ADMIN").unwrap());
    }

    #[test]
    fn adding_all_and_dropping_one_lacks_one() {
        let mask = adjust(default_mask(), &["all".into()], &["sys_admin".into()]).unwrap();
        assert_eq!(mask, ALL & !bit("SYS_ADMIN").unwrap());
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(adjust(0, &["FLY".into()], &[]).is_err());
    }
}
