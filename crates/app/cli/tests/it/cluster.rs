//! A cluster of a test: started from the binary in a folder of its own, removed when it is dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub const BINARY: &str = env!("CARGO_BIN_EXE_coracle");
const START_MAX: Duration = Duration::from_secs(60);

pub struct Cluster {
    pub name: String,
    pub folder: PathBuf,
    pub port: u16,
    process: Option<Child>,
}

impl Cluster {
    /// Starts a cluster and waits until its node is Ready.
    pub fn start(name: &str, flags: &[&str]) -> Cluster {
        let mut cluster = Cluster::launch(name, flags);
        cluster.wait_until_up();
        cluster
    }

    /// Starts a cluster and waits for nothing.
    pub fn launch(name: &str, flags: &[&str]) -> Cluster {
        let folder = std::env::temp_dir().join(format!("coracle-test-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut cluster = Cluster { name: name.into(), folder, port: free_port(), process: None };
        cluster.spawn(flags);
        cluster
    }

    /// Starts the process (again) on the same data.
    pub fn up(&mut self, flags: &[&str]) {
        self.spawn(flags);
        self.wait_until_up();
    }

    fn spawn(&mut self, flags: &[&str]) {
        let log = std::fs::File::create(self.folder.join("log")).unwrap();
        let mut command = Command::new(BINARY);
        command.args(["up", "--name", &self.name, "--node-name", "node-1", "--port", &self.port.to_string()]);
        command.arg("--data-dir").arg(self.folder.join("data")).arg("--kubeconfig").arg(self.kubeconfig());
        command.args(flags).env("CORACLE_LOG", "info").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn().unwrap());
    }

    pub fn wait_until_up(&mut self) {
        let began = Instant::now();
        while !self.log().contains("✓ up in") {
            let exited = self.process.as_mut().and_then(|process| process.try_wait().unwrap());
            assert!(exited.is_none(), "coracle ended at its start:\n{}", self.log());
            assert!(began.elapsed() < START_MAX, "coracle is not up:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Runs kubectl; the arguments are split at spaces. Panics with what it said unless it succeeds.
    pub fn kubectl(&self, arguments: &str) -> String {
        self.kubectl_with(&arguments.split(' ').collect::<Vec<_>>(), "")
    }

    /// Runs kubectl with text on its standard input.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> String {
        let output = self.try_kubectl(arguments, input);
        let text = text(&output);
        assert!(output.status.success(), "kubectl {arguments:?} failed:\n{text}\n{}", self.troubles());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs kubectl, which is expected to fail, and returns what it says.
    pub fn refused(&self, arguments: &[&str], input: &str) -> String {
        let output = self.try_kubectl(arguments, input);
        assert!(!output.status.success(), "kubectl {arguments:?} succeeded:\n{}", text(&output));
        text(&output)
    }

    pub fn try_kubectl(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl is on the PATH");
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Applies manifests from text.
    pub fn apply(&self, manifests: &str) {
        self.kubectl_with(&["apply", "-f", "-"], manifests);
    }

    /// Looks again until `found` answers something.
    pub fn until<T>(&self, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = found() {
                return found;
            }
            assert!(began.elapsed() < START_MAX, "{what} did not happen\n{}", self.troubles());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the process without a word, as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Runs a coracle command on this cluster's data.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(arguments).arg("--data-dir").arg(self.folder.join("data"));
        command.output().unwrap()
    }

    /// `coracle down`, and the wait for the process to end.
    pub fn down(&mut self) {
        self.end(&["down"]);
    }

    /// A command that ends the cluster, and the wait for the process to end.
    pub fn end(&mut self, command: &[&str]) {
        let output = self.command(command);
        assert!(output.status.success(), "{}", text(&output));
        if let Some(mut process) = self.process.take() {
            process.wait().unwrap();
        }
    }

    /// What may explain a failure.
    fn troubles(&self) -> String {
        let look = |arguments: &[&str]| text(&self.try_kubectl(arguments, ""));
        let pods = look(&["get", "pods", "-A", "-o", "wide"]);
        let events = look(&["get", "events", "-A"]);
        format!("--- pods\n{pods}\n--- events\n{events}\n--- log\n{}", self.log())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill();
        let _ = self.command(&["reset", "--yes", "--grace", "0"]);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What answers a URL when the machine itself asks; empty where nothing does.
pub fn fetch_from_host(url: &str) -> String {
    let output = Command::new("curl").args(["-sS", "-m", "5", url]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Processes whose command line or binary names this text.
pub fn processes_naming(text: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let lines = pids.filter_map(|pid| Some((pid, std::fs::read(format!("/proc/{pid}/cmdline")).ok()?)));
    lines
        .map(|(pid, line)| format!("{pid} {}", String::from_utf8_lossy(&line).replace('\0', " ")))
        .filter(|line| line.contains(text))
        .collect()
}

/// What of a cluster can be seen in the kernel.
pub fn traces(name: &str, folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(&*folder.to_string_lossy())).map(str::to_owned));
    let links = Command::new("ip").args(["-o", "link"]).output().unwrap();
    let bridge = format!("cor-{name}");
    found.extend(text(&links).lines().filter(|line| line.contains(&bridge)).map(str::to_owned));
    let tables = Command::new("nft").args(["list", "tables"]).output().unwrap();
    found.extend(text(&tables).lines().filter(|line| line.contains(&format!("coracle-{name}"))).map(str::to_owned));
    for controller in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let group = controller.path().join(format!("coracle-{name}"));
        found.extend(group.exists().then(|| group.display().to_string()));
    }
    found
}

/// Ports from below the range that the kernel gives out, so that no other process gets one in between.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20000 + (std::process::id() % 5000) as u16;
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::SeqCst);
        if std::net::TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}
