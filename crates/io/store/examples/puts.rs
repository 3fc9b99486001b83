//! Durable puts a second of 1 KiB by 64 writers, and the bytes that each cost the disk:
//! `cargo run --release -p coracle-store --example puts -- [FOLDER] [SECONDS]`. The folder belongs on a real disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use coracle_cache::Store;
use coracle_cache::store::{Op, Txn};
use coracle_rt::Scope;
use coracle_store::Engine;

const WRITERS: u64 = 64;
const VALUE_BYTES: usize = 1024;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| "target/puts".into()));
    let seconds = arguments.next().map_or(Ok(5), |text| text.parse()).context("SECONDS is a number")?;
    let scope = Scope::root();
    let engine = Engine::open(&folder, scope.clone())?;
    let (before, started) = (written_bytes(), Instant::now());
    let until = started + Duration::from_secs(seconds);
    let count = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> =
        (0..WRITERS).map(|writer| tokio::spawn(write(engine.clone(), writer, until, count.clone()))).collect();
    let mut latencies = Vec::new();
    for writer in writers {
        latencies.extend(writer.await??);
    }
    let elapsed = started.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let count = count.load(Ordering::Relaxed);
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    println!("{:.0} puts/s, p50 {:?}, p99 {:?}", count as f64 / elapsed, at(0.5), at(0.99));
    println!("{:.0} bytes written per put", (written_bytes() - before) as f64 / count as f64);
    scope.close(Duration::from_secs(10)).await;
    Ok(())
}

async fn write(
    engine: Arc<Engine>,
    writer: u64,
    until: Instant,
    count: Arc<AtomicU64>,
) -> anyhow::Result<Vec<Duration>> {
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    let mut latencies = Vec::new();
    for turn in 0u64.. {
        let begun = Instant::now();
        if begun >= until {
            break;
        }
        // A few thousand keys, so that both creation and replacement are measured.
        let key = Bytes::from(format!("/registry/configmaps/default/{writer}-{}", turn % 300));
        let then = vec![Op::Put { key, value: value.clone(), lease_seconds: 0 }];
        engine.txn(Txn { then, ..Txn::default() }).await?;
        latencies.push(begun.elapsed());
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(latencies)
}

/// What this process sent towards disks, by the kernel's count.
fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}
