//! Starting, stopping and asking after a cluster.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use coracle_config::{Config, DEFAULT_DATA_DIR, Settings};
use coracle_linux::zygote::Zygote;
use coracle_node::control::{Answer, Ask, ask};
use coracle_node::paths::Paths;
use coracle_node::{preflight, teardown, up};

/// Which cluster a command is about.
#[derive(clap::Args)]
pub struct Place {
    /// Where the cluster keeps everything
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// A cluster that is to end, and how.
#[derive(clap::Args)]
pub struct End {
    #[command(flatten)]
    place: Place,
    /// How long pods have to end by themselves at most; one that allows itself less has less
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    grace: u64,
}

#[derive(clap::Args)]
pub struct GuardArguments {
    #[arg(long)]
    data_dir: PathBuf,
}

/// What is left after a cluster was stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    Data,
    Nothing,
}

/// Runs a cluster until a signal ends it.
pub fn up(file: Option<PathBuf>, settings: Settings, zygote: Option<coracle_linux::Result<Zygote>>) -> Result<()> {
    let zygote = zygote.context("`up` starts the zygote first")?.context("starting the zygote")?;
    let mut settings = settings.or(Settings::read(file.as_deref())?);
    let temporary = settings.ephemeral.then(Temporary::make).transpose()?;
    if let Some(temporary) = &temporary {
        settings.data_dir = Some(temporary.path.clone());
    }
    let config = Config::new(settings, &hostname())?;
    let missing = preflight::check(config.port);
    if !missing.is_empty() {
        bail!("this machine cannot run a cluster yet:\n{}", preflight::listed(&missing));
    }
    coracle_telemetry::start("warn");
    let runtime = runtime()?;
    let result = runtime.block_on(up::run(config, zygote, |line| eprintln!("{line}")));
    runtime.shutdown_background();
    drop(temporary);
    Ok(result?)
}

/// What everything of a long-lived process runs on.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |cores| cores.get().min(8)))
        .enable_all()
        .build()
        .context("starting the runtime")
}

/// Ends the running process, or does without one, and clears the kernel.
pub fn down(end: &End, keep: Keep) -> Result<()> {
    let place = &end.place;
    let paths = Paths::new(&absolute(&place.data_dir)?);
    if keep == Keep::Nothing && !place.yes {
        confirm(&format!("Remove the cluster in {} with all its data?", paths.root().display()))?;
    }
    // A cluster that runs ends its pods itself; those of one that does not are left to us.
    if let Some(answer) = wait(ask(&paths.socket(), &Ask::Down { grace_seconds: end.grace }))? {
        expect_done(answer)?;
    }
    teardown::clear_kernel(&paths, Duration::from_secs(end.grace))?;
    match keep {
        Keep::Data => println!("The cluster is down; its data stay in {}.", paths.root().display()),
        Keep::Nothing => {
            teardown::remove_data(&paths)?;
            println!("The cluster and its data are gone.");
        }
    }
    Ok(())
}

pub fn status(place: &Place) -> Result<()> {
    let paths = Paths::new(&absolute(&place.data_dir)?);
    let Some(answer) = wait(ask(&paths.socket(), &Ask::Status))? else {
        bail!("no cluster runs on {}; start one with `coracle up`", paths.root().display());
    };
    let Answer::Status { components } = answer else { return expect_done(answer) };
    let mut healthy = true;
    for component in components {
        healthy &= component.healthy;
        let mark = if component.healthy { "✓" } else { "✗" };
        println!("{mark} {:<22} {}", component.name, component.detail);
    }
    if healthy { Ok(()) } else { bail!("a component is not healthy") }
}

/// Waits for the end of its standard input, which the process that started it holds, and then removes everything: what
/// makes an ephemeral cluster vanish even after `kill -9`.
pub fn guard(arguments: &GuardArguments) -> Result<()> {
    let mut nothing = Vec::new();
    std::io::Read::read_to_end(&mut std::io::stdin(), &mut nothing).context("waiting for the cluster to end")?;
    let paths = Paths::new(&arguments.data_dir);
    // Whoever made the cluster has gone: nobody waits for what its pods have still to say.
    teardown::clear_kernel(&paths, Duration::ZERO)?;
    Ok(teardown::remove_data(&paths)?)
}

pub fn expect_done(answer: Answer) -> Result<()> {
    match answer {
        Answer::Done => Ok(()),
        Answer::Failed { why } => bail!("{why}"),
        other => bail!("unexpected answer: {other:?}"),
    }
}

/// Runs a short exchange to its end.
pub fn wait<T, E: std::error::Error + Send + Sync + 'static>(
    exchange: impl Future<Output = Result<T, E>>,
) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")?;
    Ok(runtime.block_on(exchange)?)
}

pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("data directory {}", path.display()))
}

fn confirm(question: &str) -> Result<()> {
    eprint!("{question} [y/N] ");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context("reading the answer")?;
    match line.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => bail!("nothing was changed; --yes answers for you"),
    }
}

pub fn hostname() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    text.trim().to_owned()
}

/// A folder for one run, with a process that outlives this one and clears up.
struct Temporary {
    path: PathBuf,
    guard: Child,
}

impl Temporary {
    fn make() -> Result<Temporary> {
        let path = std::env::temp_dir().join(format!("coracle-{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("guard").arg("--data-dir").arg(&path);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Its own group: a Ctrl-C meant for the cluster does not end it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let guard = command.spawn().context("starting the guard of an ephemeral cluster")?;
        Ok(Temporary { path, guard })
    }
}

impl Drop for Temporary {
    /// Lets the guard do its work and waits for it.
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}
