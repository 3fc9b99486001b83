//! A cluster that is started to be measured: the release binary on a folder and a port of its own, removed at the end.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use coracle_client::kubeconfig::{Cluster as Server, Context as Choice, NamedCluster, NamedContext, NamedUser};
use coracle_client::{Kubeconfig, kubeconfig::User};

pub const NODE: &str = "bench-1";
/// The server's core; the client takes the other one.
pub const SERVER_CORE: &str = "0";
pub const CLIENT_CORE: &str = "1";

/// Whether server and client keep to a core each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cores {
    Any,
    OneEach,
}

impl Cores {
    /// A program to be run on the server's core, or on any.
    pub fn command(self, program: &Path) -> Command {
        self.on(SERVER_CORE, program)
    }

    /// A program to be run on the client's core, or on any.
    pub fn client_command(self, program: &Path) -> Command {
        self.on(CLIENT_CORE, program)
    }

    fn on(self, core: &str, program: &Path) -> Command {
        match self {
            Cores::Any => Command::new(program),
            Cores::OneEach => {
                let mut command = Command::new("taskset");
                command.args(["-c", core]).arg(program);
                command
            }
        }
    }
}

/// What of a cluster runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Parts {
    All,
    /// The API server on the same data: nobody schedules.
    ApiServer,
}

pub struct Cluster {
    binary: PathBuf,
    folder: PathBuf,
    port: u16,
    cores: Cores,
    process: Child,
    pub began: Instant,
}

impl Cluster {
    /// Starts the binary and returns at once. The store is durable, as it is in use.
    pub fn start(binary: &Path, cores: Cores) -> Result<Cluster> {
        let port = free_port()?;
        let folder = std::env::temp_dir().join(format!("coracle-bench-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let began = Instant::now();
        let process = spawn(binary, &folder, port, (cores, Parts::All))?;
        Ok(Cluster { binary: binary.into(), folder, port, cores, process, began })
    }

    /// Ends what runs and starts other parts on the same data and port.
    pub fn change(&mut self, parts: Parts) -> Result<()> {
        terminate(&mut self.process)?;
        self.process = spawn(&self.binary, &self.folder, self.port, (self.cores, parts))?;
        Ok(())
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// The file of the administrator's kubeconfig.
    pub fn kubeconfig_file(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// The administrator's, once it is written.
    pub fn kubeconfig(&self) -> Option<Kubeconfig> {
        let config = Kubeconfig::read(self.kubeconfig_file()).ok()?;
        config.current().is_ok().then_some(config)
    }

    /// As nobody, trusting any certificate: for the wait until it is ready.
    pub fn anonymous(&self) -> Kubeconfig {
        let server = format!("https://127.0.0.1:{}", self.port);
        let cluster = Server { server, insecure_skip_tls_verify: true, ..Server::default() };
        let context = Choice { cluster: "c".into(), user: "u".into(), namespace: None };
        Kubeconfig {
            clusters: vec![NamedCluster { name: "c".into(), cluster }],
            users: vec![NamedUser { name: "u".into(), user: User::default() }],
            contexts: vec![NamedContext { name: "x".into(), context }],
            current_context: "x".into(),
            folder: PathBuf::new(),
        }
    }

    /// An error that tells what the server said, if it has ended.
    pub fn check(&mut self) -> Result<()> {
        let ended = self.process.try_wait()?;
        let said = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        ended.map_or(Ok(()), |status| Err(anyhow::anyhow!("coracle ended with {status}:\n{}", said())))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut reset = Command::new(&self.binary);
        reset.args(["reset", "--yes", "--grace", "0", "--data-dir"]).arg(self.folder.join("data"));
        let _ = reset.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn spawn(binary: &Path, folder: &Path, port: u16, (cores, parts): (Cores, Parts)) -> Result<Child> {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).context("making the log")?;
    let (data, number) = (folder.join("data"), port.to_string());
    let mut command = cores.command(binary);
    match parts {
        Parts::All => {
            command.args(["up", "--node-name", NODE, "--port", &number, "--name", &format!("b{number}")]);
            command.arg("--data-dir").arg(&data).arg("--kubeconfig").arg(folder.join("kubeconfig"));
        }
        Parts::ApiServer => {
            command.args(["apiserver", "--port", &number]).arg("--data-dir").arg(&data);
            command.arg("--pki").arg(data.join("pki"));
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().with_context(|| format!("starting {}", binary.display()))
}

/// Asks a process to end and waits until it has.
pub fn terminate(process: &mut Child) -> Result<()> {
    let status = Command::new("kill").arg(process.id().to_string()).status().context("running kill")?;
    anyhow::ensure!(status.success(), "kill ended with {status}");
    process.wait().context("waiting for a process to end")?;
    Ok(())
}

/// Below the range that the kernel gives out, so that no other process gets it in between.
fn free_port() -> Result<u16> {
    let start = 25000 + (std::process::id() % 2000) as u16;
    let mut ports = start..start + 2000;
    ports.find(|port| std::net::TcpListener::bind(("0.0.0.0", *port)).is_ok()).context("no port is free")
}
