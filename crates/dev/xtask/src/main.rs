//! Developer commands: `cargo xtask COMMAND`.

mod bench;
mod decisions;
mod gen_schema;
mod layers;
mod licences;
mod swap;

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
    /// Runs our components beside stock ones, each way
    Swap(swap::Arguments),
    /// Compares our scheduling decisions with a kube-scheduler's; `cargo xtask same-decisions --help` tells the options
    #[command(disable_help_flag = true)]
    SameDecisions {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    match Arguments::parse().command {
        Command::Check => check(&root),
        Command::GenSchema => gen_schema::run(&root),
        Command::Bench { arguments } => bench::run(&root, &arguments),
        Command::BenchCore { numbers } => bench::core(&root, &numbers),
        Command::Swap(arguments) => swap::run(&root, &arguments),
        Command::SameDecisions { arguments } => decisions::run(&root, &arguments),
    }
}

fn check(root: &Path) -> anyhow::Result<()> {
    let mut found = layers::violations(root)?;
    found.extend(licences::violations(root)?);
    anyhow::ensure!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}
