//! Runs our components beside stock ones: each of scheduler and controller manager of ours under a stock API server, and
//! each stock one under ours, on simulated nodes, with certificates and roles as every cluster has them. A Deployment, a
//! StatefulSet, a DaemonSet and a Job have to come up, be rolled and go; and what one controller manager made, the other
//! has to take over unchanged.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

const MANIFESTS: &str = include_str!("swap.yaml");
const SERVICES: &str = "10.96.0.0/16";
const START_MAX: Duration = Duration::from_secs(90);

#[derive(Args)]
pub struct Arguments {
    /// Where etcd, kube-apiserver, kube-controller-manager and kube-scheduler are
    #[arg(long, value_name = "DIR")]
    peers: PathBuf,
    /// Our binary; built if not given
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Ours,
    Stock,
}

use Side::{Ours, Stock};

/// What is swapped; whose API server, controller manager and scheduler run then.
const SWAPS: [(&str, Side, Side, Side); 4] = [
    ("our scheduler in a stock control plane", Stock, Stock, Ours),
    ("our controller manager in a stock control plane", Stock, Ours, Stock),
    ("kube-scheduler in our control plane", Ours, Ours, Stock),
    ("kube-controller-manager in our control plane", Ours, Stock, Ours),
];

pub fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let binary = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => build(root)?,
    };
    let binary = std::fs::canonicalize(&binary).with_context(|| format!("the binary {}", binary.display()))?;
    let peers = std::fs::canonicalize(&arguments.peers).context("the folder of stock binaries")?;
    let mut failed = Vec::new();
    for (name, server, manager, scheduler) in SWAPS {
        let began = Instant::now();
        let mut plane = Plane::new(&binary, &peers)?;
        match plane.swap((server, manager, scheduler)).map_err(|error| error.context(plane.last_words())) {
            Ok(()) => println!("works: {name} ({:.0} s)", began.elapsed().as_secs_f64()),
            Err(error) => {
                println!("FAILS: {name}: {error:#}");
                failed.push(name);
            }
        }
    }
    ensure!(failed.is_empty(), "{} of {} swaps fail", failed.len(), SWAPS.len());
    Ok(())
}

fn build(root: &Path) -> Result<PathBuf> {
    let mut build = Command::new("cargo");
    let status =
        build.current_dir(root).args(["build", "--quiet", "-p", "coracle"]).status().context("running cargo")?;
    ensure!(status.success(), "the build failed");
    Ok(root.join("target/x86_64-unknown-linux-musl/debug/coracle"))
}

/// A control plane on free ports, with its state in a folder that is removed in the end.
struct Plane {
    binary: PathBuf,
    peers: PathBuf,
    folder: PathBuf,
    processes: Vec<(&'static str, Child)>,
}

impl Plane {
    fn new(binary: &Path, peers: &Path) -> Result<Plane> {
        let folder = std::env::temp_dir().join(format!("coracle-swap-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Plane { binary: binary.into(), peers: peers.into(), folder, processes: Vec::new() })
    }

    fn swap(&mut self, (server, manager, scheduler): (Side, Side, Side)) -> Result<()> {
        self.start_server(server)?;
        self.start_manager(manager)?;
        self.start_scheduler(scheduler)?;
        self.work()?;
        self.hand_over(manager)
    }

    /// The API server, whosever, with nodes.
    fn start_server(&mut self, server: Side) -> Result<()> {
        let port = free_port()?;
        let url = format!("https://127.0.0.1:{port}");
        let mut pki = Command::new(&self.binary);
        pki.args(["dev-pki", "--service-cidr", SERVICES, "--server", &url]).arg(self.folder.join("pki"));
        ensure!(pki.stdout(Stdio::null()).status().context("making certificates")?.success(), "dev-pki failed");
        match server {
            Ours => self.ours("apiserver", &["--data-dir", "data", "--port", &port.to_string(), "--pki", "pki"])?,
            Stock => self.start_stock_server(port)?,
        }
        self.until(&["get", "--raw", "/readyz"])?;
        self.ours("sim", &["--kubeconfig", "pki/admin.kubeconfig", "--nodes", "3"])
    }

    /// The end of each log.
    fn last_words(&self) -> String {
        let mut words = String::new();
        for (name, _) in &self.processes {
            let log = std::fs::read_to_string(self.folder.join(format!("{name}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            words.push_str(&format!("\n--- {name}\n{}", lines[lines.len().saturating_sub(8)..].join("\n")));
        }
        words
    }

    fn start_stock_server(&mut self, port: u16) -> Result<()> {
        self.write_public_key()?;
        let (client, peer) = (free_port()?, free_port()?);
        let etcd = format!("http://127.0.0.1:{client}");
        let peers = format!("http://127.0.0.1:{peer}");
        let urls = ["--listen-client-urls", &etcd, "--advertise-client-urls", &etcd, "--listen-peer-urls", &peers];
        let own = ["--initial-advertise-peer-urls", &peers, "--initial-cluster", &format!("default={peers}")];
        self.stock("etcd", &[&["--data-dir", "etcd"][..], &urls, &own].concat())?;
        let arguments = [
            &format!("--etcd-servers={etcd}"),
            &format!("--secure-port={port}"),
            &format!("--service-cluster-ip-range={SERVICES}"),
            "--bind-address=127.0.0.1",
            "--tls-cert-file=pki/apiserver.crt",
            "--tls-private-key-file=pki/apiserver.key",
            "--client-ca-file=pki/ca.crt",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--service-account-key-file=pki/sa.pub",
            "--service-account-signing-key-file=pki/sa.key",
            "--authorization-mode=Node,RBAC",
        ];
        self.stock("kube-apiserver", &arguments)
    }

    /// Kube-apiserver wants the key that tokens are checked by in a file of its own.
    fn write_public_key(&self) -> Result<()> {
        let mut command = Command::new("openssl");
        command.current_dir(&self.folder).args(["pkey", "-in", "pki/sa.key", "-pubout", "-out", "pki/sa.pub"]);
        ensure!(command.status().context("running openssl")?.success(), "openssl failed");
        Ok(())
    }

    fn start_manager(&mut self, side: Side) -> Result<()> {
        let config = "pki/controller-manager.kubeconfig";
        let key = "pki/sa.key";
        match side {
            Ours => {
                let own = ["--kubeconfig", config, "--root-ca", "pki/ca.crt", "--leader-elect", "false"];
                self.ours("controller-manager", &[&own[..], &["--service-account-private-key-file", key]].concat())
            }
            Stock => {
                let root = ["--root-ca-file", "pki/ca.crt", "--service-account-private-key-file", key];
                let own = ["--kubeconfig", config, "--use-service-account-credentials", "--leader-elect=false"];
                let serving = ["--secure-port=0", "--authentication-skip-lookup"];
                self.stock("kube-controller-manager", &[&own[..], &root, &serving].concat())
            }
        }
    }

    fn start_scheduler(&mut self, side: Side) -> Result<()> {
        let own = ["--kubeconfig", "pki/scheduler.kubeconfig"];
        match side {
            Ours => self.ours("scheduler", &own),
            Stock => {
                self.stock("kube-scheduler", &[&own[..], &["--secure-port=0", "--authentication-skip-lookup"]].concat())
            }
        }
    }

    /// Everything comes up, is rolled, and goes.
    fn work(&self) -> Result<()> {
        self.come_up()?;
        self.kubectl(&["set", "image", "deployment/web", "c=registry.example/web:v2"])?;
        self.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
        self.go()
    }

    fn come_up(&self) -> Result<()> {
        let manifests = self.folder.join("manifests.yaml");
        std::fs::write(&manifests, MANIFESTS).context("writing the manifests")?;
        self.until(&["get", "serviceaccount", "default"])?;
        self.kubectl(&["apply", "-f", "manifests.yaml"])?;
        for workload in ["deployment/web", "statefulset/db", "daemonset/agent"] {
            self.kubectl(&["rollout", "status", workload, "--timeout=60s"])?;
        }
        self.kubectl(&["wait", "job/once", "--for=condition=complete", "--timeout=60s"])?;
        Ok(())
    }

    fn go(&self) -> Result<()> {
        self.kubectl(&["delete", "-f", "manifests.yaml", "--wait", "--timeout=60s"])?;
        self.kubectl(&["wait", "pods", "--all", "--for=delete", "--timeout=60s"])?;
        Ok(())
    }

    /// What one controller manager made, the other leaves as it is, though it looks at it.
    fn hand_over(&mut self, from: Side) -> Result<()> {
        self.come_up()?;
        let made = self.made()?;
        let name = if from == Ours { "controller-manager" } else { "kube-controller-manager" };
        self.stop(name);
        self.start_manager(if from == Ours { Stock } else { Ours })?;
        for workload in ["deployment/web", "statefulset/db", "daemonset/agent"] {
            self.kubectl(&["patch", workload, "--type=merge", "-p", r#"{"spec":{"minReadySeconds":1}}"#])?;
            self.kubectl(&["wait", workload, "--for=jsonpath={.status.observedGeneration}=2", "--timeout=60s"])?;
        }
        let kept = self.made()?;
        ensure!(made == kept, "what was made did not stay as it was:\n{made}\nis now\n{kept}");
        self.kubectl(&["scale", "deployment/web", "--replicas=4"])?;
        self.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"])?;
        self.go()
    }

    /// Pods, replica sets and revisions by name and identity.
    fn made(&self) -> Result<String> {
        let each = r#"-o=jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.uid}{"\n"}{end}"#;
        self.kubectl(&["get", "pods,replicasets,controllerrevisions", each])
    }

    fn ours(&mut self, component: &'static str, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.binary);
        command.arg(component).args(arguments);
        self.spawn(component, command)
    }

    fn stock(&mut self, program: &'static str, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(self.peers.join(program));
        command.args(arguments);
        self.spawn(program, command)
    }

    fn spawn(&mut self, name: &'static str, mut command: Command) -> Result<()> {
        let log = std::fs::File::create(self.folder.join(format!("{name}.log"))).context("making a log")?;
        command.current_dir(&self.folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let process = command.spawn().with_context(|| format!("starting {name}"))?;
        self.processes.push((name, process));
        Ok(())
    }

    fn stop(&mut self, name: &str) {
        let (gone, left) = std::mem::take(&mut self.processes).into_iter().partition(|(known, _)| *known == name);
        self.processes = left;
        let gone: Vec<(&'static str, Child)> = gone;
        for (_, mut process) in gone {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("kubectl");
        command.current_dir(&self.folder).args(["--kubeconfig", "pki/admin.kubeconfig", "-n", "default"]);
        let output = command.args(arguments).output().context("running kubectl")?;
        if !output.status.success() {
            bail!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn until(&self, arguments: &[&str]) -> Result<()> {
        let by = Instant::now() + START_MAX;
        loop {
            match self.kubectl(arguments) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > by => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        while let Some((_, mut process)) = self.processes.pop() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no port is free")?;
    Ok(listener.local_addr()?.port())
}
