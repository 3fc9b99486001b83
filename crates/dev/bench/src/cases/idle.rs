//! What the whole node costs when nothing runs on it: its lease is renewed, and that is all.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::processes;
use crate::table::Row;

/// What the start left to do is done by then.
const SETTLE: Duration = Duration::from_secs(5);

/// `pids` finds the processes anew: shims come and go.
pub async fn measure(window: Duration, pids: impl Fn() -> Vec<u32>) -> Result<Vec<Row>> {
    tokio::time::sleep(SETTLE).await;
    let (began, before) = (Instant::now(), pids());
    let (cpu, written) = (processes::cpu_seconds(&before), processes::written_bytes(&before));
    tokio::time::sleep(window).await;
    let (seconds, after) = (began.elapsed().as_secs_f64(), pids());
    let cpu = (processes::cpu_seconds(&after) - cpu) / seconds * 100.0;
    let written = (processes::written_bytes(&after) - written) / seconds / 1024.0;
    Ok(vec![
        Row::new(format!("memory, idle ({} processes)", after.len()), "MB PSS", "80")
            .ours(vec![processes::pss_mb(&after)]),
        Row::new(format!("CPU, idle over {} s", window.as_secs()), "% of a core", "0.2").ours(vec![cpu]),
        Row::new(format!("disk writes, idle over {} s", window.as_secs()), "KiB/s", "1").ours(vec![written]),
    ])
}
