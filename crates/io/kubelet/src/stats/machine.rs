//! The machine as its kernel counts it: processors and memory from the root of the cgroups, the rest from `/proc`.

use std::path::Path;
use std::sync::OnceLock;

use coracle_linux::cgroup::{Layout, Usage};
use coracle_proto::cri::{self, UInt64Value};
use jiff::{SignedDuration, Timestamp};

/// Everything that is not pods is part of it too.
pub(crate) struct Machine {
    pub at: Timestamp,
    pub booted_at: Timestamp,
    pub cpu: cri::CpuUsage,
    pub memory: cri::MemoryUsage,
    pub swap: cri::SwapUsage,
    pub processes: u64,
    pub processes_max: Option<u64>,
}

/// A file system's room in bytes and in files.
pub(crate) struct Room {
    pub capacity_bytes: u64,
    pub available_bytes: u64,
    pub used_bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

impl Machine {
    pub fn read(now: Timestamp) -> Machine {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let root = layout().map(|layout| layout.group("/").usage()).unwrap_or_default();
        let memory = Memory::of(&root, &read("/proc/meminfo"));
        let at = now.as_nanosecond() as i64;
        let value = |value: u64| Some(UInt64Value { value });
        let total = read("/proc/loadavg").split(['/', ' ']).nth(4).and_then(|count| count.parse().ok());
        let limits = ["/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"];
        Machine {
            at: now,
            booted_at: booted_at(&read("/proc/uptime"), now),
            cpu: cri::CpuUsage { timestamp: at, usage_core_nano_seconds: value(root.cpu_ns), ..Default::default() },
            memory: cri::MemoryUsage {
                timestamp: at,
                working_set_bytes: value(memory.working_set_bytes),
                available_bytes: value(memory.total_bytes.saturating_sub(memory.working_set_bytes)),
                usage_bytes: value(memory.used_bytes),
                rss_bytes: value(root.rss_bytes),
                page_faults: value(root.page_faults),
                major_page_faults: value(root.major_page_faults),
                ..Default::default()
            },
            swap: cri::SwapUsage {
                timestamp: at,
                swap_available_bytes: value(memory.swap_free_bytes),
                swap_usage_bytes: value(memory.swap_used_bytes),
            },
            processes: total.unwrap_or(0),
            processes_max: limits.into_iter().filter_map(|file| read(file).trim().parse().ok()).min(),
        }
    }
}

impl Room {
    pub fn of(folder: &Path) -> Option<Room> {
        let found = rustix::fs::statvfs(folder).ok()?;
        Some(Room {
            capacity_bytes: found.f_blocks * found.f_frsize,
            available_bytes: found.f_bavail * found.f_frsize,
            used_bytes: (found.f_blocks - found.f_bfree) * found.f_frsize,
            inodes: found.f_files,
            inodes_free: found.f_ffree,
        })
    }
}

/// Where the cgroups are mounted does not change while the kubelet runs.
fn layout() -> Option<&'static Layout> {
    static LAYOUT: OnceLock<Option<Layout>> = OnceLock::new();
    LAYOUT.get_or_init(|| Layout::detect().ok()).as_ref()
}

#[derive(Debug, PartialEq)]
struct Memory {
    total_bytes: u64,
    used_bytes: u64,
    working_set_bytes: u64,
    swap_used_bytes: u64,
    swap_free_bytes: u64,
}

impl Memory {
    /// Version 2 keeps no count of memory at its root: what is not free is used.
    fn of(root: &Usage, meminfo: &str) -> Memory {
        let field = |key: &str| {
            let line = meminfo.lines().find(|line| line.split(':').next() == Some(key));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        let total_bytes = field("MemTotal");
        let (used_bytes, working_set_bytes) = match root.memory_bytes {
            0 => {
                let used = total_bytes.saturating_sub(field("MemFree"));
                (used, used.saturating_sub(field("Inactive(file)")))
            }
            used => (used, root.working_set_bytes),
        };
        let swap_free_bytes = field("SwapFree");
        let swap_used_bytes = field("SwapTotal").saturating_sub(swap_free_bytes);
        Memory { total_bytes, used_bytes, working_set_bytes, swap_used_bytes, swap_free_bytes }
    }
}

/// The machine's start, to the second: it is told as one moment, however often it is asked for.
fn booted_at(uptime: &str, now: Timestamp) -> Timestamp {
    let seconds = uptime.split_whitespace().next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    let start = now - SignedDuration::from_millis((seconds * 1000.0) as i64);
    Timestamp::from_second(start.as_second()).unwrap_or(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal: 100 kB\nMemFree: 30 kB\nInactive(file): 20 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n";

    #[test]
    fn memory_comes_from_the_root_group_where_it_counts() {
        let counted = Usage { memory_bytes: 5000, working_set_bytes: 4000, ..Usage::default() };
        for (root, used, working_set) in [(counted, 5000, 4000), (Usage::default(), 70 * 1024, 50 * 1024)] {
            let memory = Memory::of(&root, MEMINFO);
            assert_eq!((memory.used_bytes, memory.working_set_bytes), (used, working_set));
            assert_eq!((memory.swap_used_bytes, memory.swap_free_bytes), (6 * 1024, 4 * 1024));
        }
    }

    #[test]
    fn this_machine_can_be_measured() {
        let machine = Machine::read(Timestamp::now());
        assert!(machine.cpu.usage_core_nano_seconds.is_some_and(|used| used.value > 0));
        assert!(machine.memory.working_set_bytes.is_some_and(|used| used.value > 0));
        assert!(machine.processes > 0 && machine.booted_at < machine.at);
        assert!(Room::of(Path::new("/")).is_some_and(|room| room.capacity_bytes >= room.available_bytes));
    }
}
