//! Developer commands: `cargo xtask COMMAND`.

mod gen_schema;
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
    /// Writes the schema table again from its pinned inputs
    GenSchema,
}

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    match Arguments::parse().command {
        Command::Check => check(&root),
        Command::GenSchema => gen_schema::run(&root),
    }
}

fn check(root: &Path) -> anyhow::Result<()> {
    let mut found = layers::violations(root)?;
    found.extend(licences::violations(root)?);
    anyhow::ensure!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}
