//! Developer commands: `cargo xtask COMMAND`.

mod bench;
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
    /// Measures the release binary, alone or beside a peer; `cargo xtask bench --help` tells the options
    #[command(disable_help_flag = true)]
    Bench {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measures the scheduler's core alone: `cargo xtask bench-core [NODES [PODS]]`
    BenchCore { numbers: Vec<u32> },
}

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    match Arguments::parse().command {
        Command::Check => check(&root),
        Command::GenSchema => gen_schema::run(&root),
        Command::Bench { arguments } => bench::run(&root, &arguments),
        Command::BenchCore { numbers } => bench::core(&root, &numbers),
    }
}

fn check(root: &Path) -> anyhow::Result<()> {
    let mut found = layers::violations(root)?;
    found.extend(licences::violations(root)?);
    anyhow::ensure!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}
