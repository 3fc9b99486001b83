//! Builds the release binary and what measures it, and measures. The measuring is a crate of its own: it needs a TLS
//! client, and this command should stay quick to build.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// `arguments` go to the bench as they are; `--help` tells them.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let mut build = Command::new("cargo");
    build.current_dir(root).args(["build", "--quiet", "--release", "-p", "coracle", "-p", "coracle-bench"]);
    let status = build.status().context("running cargo")?;
    ensure!(status.success(), "the release build failed");
    let folder = root.join("target/x86_64-unknown-linux-musl/release");
    let mut bench = Command::new(folder.join("coracle-bench"));
    let status = bench.arg("--binary").arg(folder.join("coracle")).args(arguments).status();
    ensure!(status.context("running the bench")?.success(), "the bench failed");
    Ok(())
}

/// The scheduler's decisions on a snapshot, without a cluster.
pub fn core(root: &Path, numbers: &[u32]) -> Result<()> {
    let mut run = Command::new("cargo");
    run.current_dir(root).args([
        "run",
        "--quiet",
        "--release",
        "-p",
        "coracle-scheduler",
        "--example",
        "core_bench",
        "--",
    ]);
    let status = run.args(numbers.iter().map(u32::to_string)).status().context("running cargo")?;
    ensure!(status.success(), "the bench failed");
    Ok(())
}
