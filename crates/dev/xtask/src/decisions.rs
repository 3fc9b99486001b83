//! Builds and runs the comparison of scheduling decisions, a crate of its own that uses the scheduler's core.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// `arguments` go to the comparison as they are; `--help` tells them.
pub fn run(root: &Path, arguments: &[String]) -> Result<()> {
    let mut run = Command::new("cargo");
    run.args(["run", "--quiet", "-p", "coracle-decisions", "--manifest-path"]).arg(root.join("Cargo.toml")).arg("--");
    let status = run.args(arguments).status().context("running cargo")?;
    ensure!(status.success(), "the comparison failed");
    Ok(())
}
