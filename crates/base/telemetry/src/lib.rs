//! How the process speaks of itself to its operator: log lines on standard error. The level comes from the
//! environment variable `CORACLE_LOG` (`info`, `debug`, or filters as `coracle_kubelet=debug`).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging. Called once, by the binary.
pub fn start(default_level: &str) {
    let filter = EnvFilter::try_from_env("CORACLE_LOG").unwrap_or_else(|_| EnvFilter::new(default_level));
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .with_target(false)
        .init();
}
