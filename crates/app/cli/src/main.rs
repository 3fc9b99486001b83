//! The `coracle` command: reads what is asked, calls the parts, prints what came of it.

mod demo;
mod image;
mod lifecycle;
mod sim;
mod standalone;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use coracle_config::Settings;
use coracle_linux::frugal::Frugal;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: Frugal<MiMalloc> = Frugal(MiMalloc);

/// Kubernetes in one binary.
#[derive(Parser)]
#[command(name = "coracle", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster on this machine and stay in the foreground
    Up {
        /// Read settings from this file [default: /etc/coracle/config.yaml if it exists]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Stop the pods and remove every trace from the kernel; the data stay
    Down(lifecycle::End),
    /// As down, and remove the data too
    Reset(lifecycle::End),
    /// Say how each component is
    Status(lifecycle::Place),
    /// Images of this node
    #[command(subcommand)]
    Image(image::ImageCommand),
    #[command(flatten)]
    Component(standalone::Component),
    /// Add simulated nodes to a cluster, whose pods run without a machine
    Sim(sim::Sim),
    /// A workload that needs no registry
    #[command(subcommand)]
    Demo(demo::Demo),
    /// Print the version
    Version,
    #[command(hide = true)]
    Guard(lifecycle::GuardArguments),
}

/// Whether this run may fork shims: `up` and `kubelet` do, and so does the zygote itself when it is started again by name.
fn wants_zygote() -> bool {
    std::env::args_os().nth(1).is_none_or(|command| command == "up" || command == "kubelet")
}

fn main() -> std::process::ExitCode {
    // Before anything else: the zygote is forked while there is one thread and next to no memory.
    let zygote = wants_zygote().then(coracle_linux::zygote::start);
    let result = match Arguments::parse().command {
        Command::Up { config, settings } => lifecycle::up(config, settings, zygote),
        Command::Down(end) => lifecycle::down(&end, lifecycle::Keep::Data),
        Command::Reset(end) => lifecycle::down(&end, lifecycle::Keep::Nothing),
        Command::Status(place) => lifecycle::status(&place),
        Command::Image(command) => image::run(command),
        Command::Component(component) => standalone::run(component, zygote),
        Command::Sim(sim) => sim::run(sim),
        Command::Demo(demo) => demo::run(demo),
        Command::Guard(arguments) => lifecycle::guard(&arguments),
        Command::Version => {
            println!("coracle {} (Kubernetes v1.36.2)", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
