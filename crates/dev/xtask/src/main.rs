//! Developer commands: `cargo xtask COMMAND`.

mod layers;
mod licences;

use std::path::Path;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", about = "Developer commands of Coracle")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Checks the layers and the licences, as the tests do
    Check,
}

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    match Arguments::parse().command {
        Command::Check => check(&root),
    }
}

fn check(root: &Path) -> anyhow::Result<()> {
    let mut found = layers::violations(root)?;
    found.extend(licences::violations(root)?);
    anyhow::ensure!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}
