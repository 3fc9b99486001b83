//! Every component as a process of its own over an etcd: what `up` does in one process also works over HTTPS, under
//! the roles that every Kubernetes has for its components.

use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::{BINARY, free_port, text, traces};

const HELLO: &str = include_str!("../../../../../examples/hello.yaml");
const NAME: &str = "apart";
const POD_RANGE: &str = "10.214.0.0/16";
const SERVICE_RANGE: &str = "10.215.0.0/16";
const DNS_SERVICE: &str = "10.215.0.10";
const WAIT_MAX: Duration = Duration::from_secs(60);

#[test]
fn components_run_apart_over_https_on_an_etcd() {
    let mut parts = Parts::start();
    parts.until("the node to be Ready", "wait node/node-1 --for=condition=Ready --timeout=5s");
    parts.apply(HELLO);
    parts.kubectl("rollout status deployment/hello --timeout=60s");
    let pod = parts.kubectl("get pods -l app=hello -o jsonpath={.items[0].metadata.name}");
    assert!(parts.kubectl(&format!("logs {pod}")).contains("listening on port 8080"));
    for url in ["http://hello/", "http://hello.default.svc.cluster.local/"] {
        let answer = parts.until("an answer by name", &format!("exec {pod} -- /coracle demo fetch {url}"));
        assert!(answer.starts_with("Hello from pod hello-"), "{answer}");
    }
    for account in ["deployment-controller", "replicaset-controller", "endpointslice-controller"] {
        parts.kubectl(&format!("-n kube-system get serviceaccount {account}"));
    }
    for lease in ["kube-scheduler", "kube-controller-manager"] {
        parts.kubectl(&format!("-n kube-system get lease {lease}"));
    }
    parts.stop();
    assert_eq!(traces(NAME, &parts.folder), Vec::<String>::new(), "left in the kernel");
}

/// The processes of one cluster, in the order they were started.
struct Parts {
    folder: PathBuf,
    processes: Vec<(&'static str, Child)>,
}

impl Parts {
    fn start() -> Parts {
        let folder = std::env::temp_dir().join(format!("coracle-test-{NAME}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut parts = Parts { folder, processes: Vec::new() };
        let (api, etcd, peer, dns) = (free_port(), free_port(), free_port(), free_port());
        let etcd = format!("http://127.0.0.1:{etcd}");
        let peer = format!("http://127.0.0.1:{peer}");
        let data = parts.file("etcd");
        let mut command = Command::new("etcd");
        command.args(["--data-dir", &data, "--listen-client-urls", &etcd, "--advertise-client-urls", &etcd]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        parts.spawn("etcd", command);
        let server = format!("https://127.0.0.1:{api}");
        let (api, dns) = (api.to_string(), dns.to_string());
        let pki = parts.file("pki");
        let made = ["dev-pki", &pki, "--node-name", "node-1", "--service-cidr", SERVICE_RANGE, "--server", &server];
        let output = Command::new(BINARY).args(made).args(["--dns-port", &dns]).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        parts.component(
            "apiserver",
            &["--datastore", &etcd, "--port", &api, "--pki", &pki, "--service-cidr", SERVICE_RANGE],
        );
        parts.until("the API server to be ready", "get --raw /readyz");
        parts.apply(&std::fs::read_to_string(parts.folder.join("pki/dns.yaml")).unwrap());
        parts.start_clients(&dns);
        parts
    }

    /// Everything that reaches the API by a kubeconfig.
    fn start_clients(&mut self, dns_port: &str) {
        let file = |name: &str| self.file(&format!("pki/{name}"));
        let (ca, certificate, key) = (file("ca.crt"), file("kubelet.crt"), file("kubelet.key"));
        let [scheduler, manager, kubelet, proxy, dns] = ["scheduler", "controller-manager", "kubelet", "proxy", "dns"]
            .map(|name| file(&format!("{name}.kubeconfig")));
        let data = self.file("data");
        self.component("scheduler", &["--kubeconfig", &scheduler]);
        self.component("controller-manager", &["--kubeconfig", &manager, "--root-ca", &ca]);
        let node = ["--node-name", "node-1", "--name", NAME];
        let ranges = ["--cluster-cidr", POD_RANGE, "--service-cidr", SERVICE_RANGE];
        let serving = ["--tls-cert-file", &certificate, "--tls-private-key-file", &key, "--client-ca-file", &ca];
        let own = ["--kubeconfig", &kubelet, "--data-dir", &data, "--cluster-dns", DNS_SERVICE];
        self.component("kubelet", &[&own[..], &node, &ranges, &serving].concat());
        self.component("proxy", &[&["--kubeconfig", &proxy][..], &node, &ranges].concat());
        let bind = format!("{}:{dns_port}", node_ip());
        self.component("dns", &["--kubeconfig", &dns, "--bind", &bind]);
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn component(&mut self, name: &'static str, arguments: &[&str]) {
        let mut command = Command::new(BINARY);
        command.arg(name).args(arguments).env("CORACLE_LOG", "debug");
        self.spawn(name, command);
    }

    fn spawn(&mut self, name: &'static str, mut command: Command) {
        let log = std::fs::File::create(self.log_of(name)).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let process = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        self.processes.push((name, process));
    }

    fn log_of(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    fn apply(&self, manifests: &str) {
        let path = self.folder.join("manifests.yaml");
        std::fs::write(&path, manifests).unwrap();
        self.kubectl(&format!("apply -f {}", path.display()));
    }

    fn kubectl(&self, arguments: &str) -> String {
        self.try_kubectl(arguments).unwrap_or_else(|said| panic!("kubectl {arguments}:\n{said}\n{}", self.troubles()))
    }

    fn try_kubectl(&self, arguments: &str) -> Result<String, String> {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.file("pki/admin.kubeconfig")).args(arguments.split(' '));
        let output = command.output().expect("kubectl is on the PATH");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(said) } else { Err(text(&output)) }
    }

    /// Asks again until kubectl succeeds.
    fn until(&self, what: &str, arguments: &str) -> String {
        let began = Instant::now();
        loop {
            match self.try_kubectl(arguments) {
                Ok(said) => return said,
                Err(said) => assert!(began.elapsed() < WAIT_MAX, "no {what}:\n{said}\n{}", self.troubles()),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends every process by SIGTERM, the youngest first, and clears what the kubelet left running.
    fn stop(&mut self) {
        let mut failed = Vec::new();
        while let Some((name, mut process)) = self.processes.pop() {
            let pid = rustix::process::Pid::from_child(&process);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let status = process.wait().unwrap();
            // etcd ends itself by the signal it was sent.
            if name != "etcd" && !status.success() {
                failed.push(format!("{name}: {status}\n{}", tail(&self.log_of(name))));
            }
        }
        let data = self.file("data");
        let reset =
            Command::new(BINARY).args(["reset", "--yes", "--grace", "0", "--data-dir", &data]).output().unwrap();
        assert!(failed.is_empty(), "did not end well: {failed:#?}");
        assert!(reset.status.success(), "{}", text(&reset));
    }

    fn troubles(&self) -> String {
        let look = |arguments: &str| self.try_kubectl(arguments).unwrap_or_else(|said| said);
        let mut told = format!("{}\n{}\n", look("get pods,nodes -A -o wide"), look("get events -A"));
        for (name, _) in &self.processes {
            told.push_str(&format!("--- {name}\n{}\n", tail(&self.log_of(name))));
        }
        told
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        for (_, process) in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
        let data = self.file("data");
        let _ = Command::new(BINARY).args(["reset", "--yes", "--grace", "0", "--data-dir", &data]).output();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The last lines of a log.
fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// The address that traffic to the outside leaves from, where the kubelet's node is too.
fn node_ip() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").map(|()| socket.local_addr().unwrap().ip()).unwrap_or([127, 0, 0, 1].into())
}
