//! What processes cost, as /proc tells it.

use std::path::Path;
use std::process::{Command, Stdio};

/// Of the values in /proc/PID/stat; fixed for user space.
const TICKS_PER_SECOND: f64 = 100.0;

/// All processes that run this program: server, zygote and shims. Containers run programs of their own.
pub fn of_program(program: &Path) -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program)).collect()
}

/// Proportional set size in MB (10^6 bytes): shared pages are counted once over all that share them.
pub fn pss_mb(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| proc_value(*pid, "smaps_rollup", "Pss:") * 1024.0 / 1e6).sum()
}

/// Bytes that were sent to the disk so far.
pub fn written_bytes(pids: &[u32]) -> f64 {
    pids.iter().map(|pid| proc_value(*pid, "io", "write_bytes:")).sum()
}

/// Seconds of CPU that were used so far.
pub fn cpu_seconds(pids: &[u32]) -> f64 {
    let stats = pids.iter().filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    stats.filter_map(|stat| cpu_ticks(&stat)).sum::<f64>() / TICKS_PER_SECOND
}

/// Processes that stand still as long as this lives, so that they take nothing from another that is measured.
pub struct Stopped<'a>(&'a [u32]);

impl Stopped<'_> {
    pub fn new(pids: &[u32]) -> Stopped<'_> {
        signal("-STOP", pids);
        Stopped(pids)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        signal("-CONT", self.0);
    }
}

/// One that has ended takes nothing either.
fn signal(name: &str, pids: &[u32]) {
    for pid in pids {
        let mut kill = Command::new("kill");
        let _ = kill.args([name, &pid.to_string()]).stderr(Stdio::null()).status();
    }
}

/// utime and stime: the 14th and 15th field. The second, the name, may hold spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

fn proc_value(pid: u32, file: &str, key: &str) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let rest = text.lines().find_map(|line| line.strip_prefix(key));
    rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 0 100 0 0 0 30 12 0 0 20 0 1 0 5 0 0";
        assert_eq!(cpu_ticks(stat), Some(42.0));
    }

    #[test]
    fn this_process_has_memory() {
        let program = std::fs::read_link("/proc/self/exe").unwrap();
        assert!(of_program(&program).contains(&std::process::id()));
        assert!(pss_mb(&[std::process::id()]) > 0.1);
    }
}
