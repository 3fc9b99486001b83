//! The commands that run one component each, named after what they stand in for, with flags named as there.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use coracle_config::{Config, Gates, Settings, duration, read_scheduler};
use coracle_linux::zygote::Zygote;
use coracle_node::standalone::apiserver::{self, Datastore};
use coracle_node::standalone::deciders::{self, ControllerOptions, Credentials, LeaderElection, SchedulerOptions};
use coracle_node::standalone::doors::DoorOptions;
use coracle_node::standalone::kubelet::{self, ServingFiles};
use coracle_node::standalone::network::{self, ProxyOptions};
use coracle_node::standalone::{StandaloneError, dev_pki};
use coracle_node::{EtcdOptions, preflight};

use crate::lifecycle::{absolute, hostname, runtime};

/// One component as a process of its own. Logs go to standard error.
#[derive(Subcommand)]
pub enum Component {
    /// Serve the Kubernetes API
    Apiserver(ApiServer),
    /// Assign pods to nodes
    Scheduler(Scheduler),
    /// Run every built-in controller
    ControllerManager(ControllerManager),
    /// Run the pods of this node
    Kubelet(Kubelet),
    /// Make Services reachable from this node
    Proxy(Proxy),
    /// Answer for the names of Services and pods
    Dns(Dns),
    /// Write certificates and kubeconfigs for every component, to try them on one machine
    #[command(hide = true)]
    DevPki(DevPki),
}

#[derive(Args)]
pub struct Access {
    /// How the API server is reached, and as whom
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
}

/// For components of which one of several decides.
#[derive(Args)]
pub struct Leading {
    /// Decide only while holding the component's Lease in kube-system
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    leader_elect: bool,
}

/// Where a component shows its health and metrics.
#[derive(Args)]
pub struct Showing {
    /// Where to listen
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// The HTTPS port of health and metrics, 0 for none [default: the component's own in Kubernetes, if it is free]
    #[arg(long, value_name = "N")]
    secure_port: Option<u16>,
    /// The certificate to show there [default: one that nobody has signed]
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
}

#[derive(Args)]
pub struct Scheduler {
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    showing: Showing,
    #[command(flatten)]
    leading: Leading,
    /// A KubeSchedulerConfiguration: profiles, plugins and their arguments, extenders
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    feature_gates: FeatureGates,
}

#[derive(Args)]
pub struct FeatureGates {
    /// Kubernetes' feature gates to switch on, as GenericWorkload=true,GangScheduling=true
    #[arg(long = "feature-gates", value_name = "KEY=BOOL,…", value_delimiter = ',')]
    settings: Vec<String>,
}

impl FeatureGates {
    fn read(&self) -> Result<Gates> {
        Gates::read(&self.settings).context("--feature-gates")
    }
}

#[derive(Args)]
pub struct ApiServer {
    /// Keep objects in the embedded store below this folder
    #[arg(long, value_name = "DIR", required_unless_present = "datastore", conflicts_with = "datastore")]
    data_dir: Option<PathBuf>,
    /// Keep objects in an etcd cluster: its addresses, separated by commas
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    datastore: Vec<String>,
    /// Whom to trust as etcd
    #[arg(long, value_name = "FILE", requires = "datastore")]
    datastore_ca: Option<PathBuf>,
    /// The certificate shown to etcd
    #[arg(long, value_name = "FILE", requires = "datastore_key")]
    datastore_cert: Option<PathBuf>,
    #[arg(long, value_name = "FILE", requires = "datastore_cert")]
    datastore_key: Option<PathBuf>,
    #[arg(long, value_name = "N", default_value_t = 6443)]
    port: u16,
    /// Certificates and keys: ca, apiserver, apiserver-kubelet-client, each .crt and .key, and sa.key
    #[arg(long, value_name = "DIR")]
    pki: PathBuf,
    /// Addresses of Services
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/16")]
    service_cidr: String,
    /// API versions switched on or off, as api/all=true,batch/v1=false
    #[arg(long, value_name = "SETTINGS", value_delimiter = ',')]
    runtime_config: Vec<String>,
    #[command(flatten)]
    feature_gates: FeatureGates,
    /// Time over which the use of processors is told, and the age of what is told without measuring anew
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    metric_resolution: Duration,
    /// Where the cluster reaches this server [default: this machine's address]
    #[arg(long, value_name = "IP")]
    advertise_address: Option<IpAddr>,
}

#[derive(Args)]
pub struct ControllerManager {
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    showing: Showing,
    /// The authority of the API server's certificate, published in every namespace
    #[arg(long, value_name = "FILE")]
    root_ca: PathBuf,
    /// The authority that signs certificate requests; without it nobody signs them here
    #[arg(long, value_name = "FILE", requires = "cluster_signing_key_file")]
    cluster_signing_cert_file: Option<PathBuf>,
    #[arg(long, value_name = "FILE", requires = "cluster_signing_cert_file")]
    cluster_signing_key_file: Option<PathBuf>,
    /// Signs the tokens of service accounts that Secrets ask for
    #[arg(long, value_name = "FILE")]
    service_account_private_key_file: Option<PathBuf>,
    /// Whether each controller acts under a service account of its own
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    use_service_account_credentials: bool,
    /// How often HorizontalPodAutoscalers look at what their pods use
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration)]
    horizontal_pod_autoscaler_sync_period: Duration,
    #[command(flatten)]
    leading: Leading,
    #[command(flatten)]
    feature_gates: FeatureGates,
}

#[derive(Args)]
pub struct Kubelet {
    #[command(flatten)]
    access: Access,
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Names what it makes in the kernel [default: from the data directory]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Addresses of pods
    #[arg(long, value_name = "CIDR")]
    cluster_cidr: Option<String>,
    /// Addresses of Services
    #[arg(long, value_name = "CIDR")]
    service_cidr: Option<String>,
    /// Addresses of the cluster's DNS, separated by commas
    #[arg(long, value_name = "IPS", value_delimiter = ',')]
    cluster_dns: Vec<String>,
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    cluster_domain: String,
    /// The certificate of the kubelet's own server; without it there are no logs, exec and port-forward
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file", requires = "client_ca_file")]
    tls_cert_file: Option<PathBuf>,
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Who signs the certificates of those who may call
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    client_ca_file: Option<PathBuf>,
}

#[derive(Args)]
pub struct Proxy {
    #[command(flatten)]
    access: Access,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Names the packet filter's table, as the kubelet's --name on this machine
    #[arg(long, value_name = "NAME", default_value = "coracle")]
    name: String,
    /// Addresses of pods
    #[arg(long, value_name = "CIDR")]
    cluster_cidr: String,
    /// Addresses of Services
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/16")]
    service_cidr: String,
}

#[derive(Args)]
pub struct Dns {
    #[command(flatten)]
    access: Access,
    /// Where to listen, separated by commas
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',', required = true)]
    bind: Vec<SocketAddr>,
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    cluster_domain: String,
}

#[derive(Args)]
pub struct DevPki {
    folder: PathBuf,
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    #[arg(long, value_name = "CIDR", default_value = "10.96.0.0/16")]
    service_cidr: String,
    /// The API server's URL
    #[arg(long, value_name = "URL", default_value = "https://127.0.0.1:6443")]
    server: String,
    /// Where DNS listens on this machine
    #[arg(long, value_name = "N", default_value_t = 53)]
    dns_port: u16,
    /// Further addresses of the API server
    #[arg(long, value_name = "IPS", value_delimiter = ',')]
    addresses: Vec<IpAddr>,
}

/// Runs a component until a signal ends it.
pub fn run(component: Component, zygote: Option<coracle_linux::Result<Zygote>>) -> Result<()> {
    match component {
        Component::Apiserver(arguments) => {
            let options = arguments.options()?;
            serve(|| apiserver::run(options, say))
        }
        Component::Scheduler(arguments) => {
            let options = arguments.options()?;
            serve(|| deciders::scheduler(options, say))
        }
        Component::ControllerManager(arguments) => {
            let options = arguments.options()?;
            serve(|| deciders::controllers(&options, say))
        }
        Component::Kubelet(arguments) => {
            let zygote = zygote.context("`kubelet` starts the zygote first")?.context("starting the zygote")?;
            let options = arguments.options()?;
            let missing = preflight::check_node();
            if !missing.is_empty() {
                anyhow::bail!("this machine cannot run pods yet:\n{}", preflight::listed(&missing));
            }
            serve(|| kubelet::run(options, zygote, say))
        }
        Component::Proxy(arguments) => serve(|| network::proxy(arguments.options(), say)),
        Component::Dns(Dns { access, bind, cluster_domain }) => {
            serve(|| network::dns(&access.kubeconfig, bind, cluster_domain, say))
        }
        Component::DevPki(arguments) => Ok(dev_pki::write(&arguments.options())?),
    }
}

pub fn say(line: &str) {
    eprintln!("{line}");
}

pub fn serve<F: Future<Output = Result<(), StandaloneError>>>(component: impl FnOnce() -> F) -> Result<()> {
    coracle_telemetry::start("warn");
    let runtime = runtime()?;
    let result = runtime.block_on(async { component().await });
    runtime.shutdown_background();
    Ok(result?)
}

impl Showing {
    fn doors(self) -> DoorOptions {
        let files = self.tls_cert_file.zip(self.tls_private_key_file);
        DoorOptions { address: self.bind_address, port: self.secure_port, files }
    }
}

impl Leading {
    fn election(&self) -> LeaderElection {
        if self.leader_elect { LeaderElection::On } else { LeaderElection::Off }
    }
}

impl ApiServer {
    fn options(self) -> Result<apiserver::Options> {
        let gates = self.feature_gates.read()?;
        let datastore = match self.data_dir {
            Some(folder) => Datastore::Embedded(folder),
            None => Datastore::Etcd(EtcdOptions {
                endpoints: self.datastore,
                ca_file: self.datastore_ca,
                cert_file: self.datastore_cert,
                key_file: self.datastore_key,
            }),
        };
        Ok(apiserver::Options {
            datastore,
            pki: self.pki,
            port: self.port,
            advertise: self.advertise_address,
            service_cidr: self.service_cidr,
            runtime_config: self.runtime_config,
            gates,
            metric_resolution: self.metric_resolution,
        })
    }
}

impl Scheduler {
    /// What the file says of leader election goes before the flag's default.
    fn options(self) -> Result<SchedulerOptions> {
        let gates = self.feature_gates.read()?;
        let (kubeconfig, doors) = (self.access.kubeconfig, self.showing.doors());
        let Some(path) = self.config else {
            let scheduler = deciders::default_scheduler(gates);
            return Ok(SchedulerOptions { kubeconfig, election: self.leading.election(), scheduler, doors });
        };
        let configuration = read_scheduler(&path)?;
        let election = match configuration.leader_election.leader_elect {
            Some(false) => LeaderElection::Off,
            _ => self.leading.election(),
        };
        let scheduler =
            configuration.scheduler(gates).with_context(|| format!("configuration file {}", path.display()))?;
        Ok(SchedulerOptions { kubeconfig, election, scheduler, doors })
    }
}

impl ControllerManager {
    fn options(self) -> Result<ControllerOptions> {
        let gates = self.feature_gates.read()?;
        let credentials = match self.use_service_account_credentials {
            true => Credentials::ServiceAccounts,
            false => Credentials::Shared,
        };
        let election = self.leading.election();
        let signing = self.cluster_signing_cert_file.zip(self.cluster_signing_key_file);
        Ok(ControllerOptions {
            kubeconfig: self.access.kubeconfig,
            root_ca: self.root_ca,
            signing,
            service_account_key: self.service_account_private_key_file,
            credentials,
            election,
            autoscaler_period: self.horizontal_pod_autoscaler_sync_period,
            gates,
            doors: self.showing.doors(),
        })
    }
}

impl Kubelet {
    fn options(self) -> Result<kubelet::Options> {
        let settings = Settings {
            data_dir: Some(absolute(&self.data_dir)?),
            node_name: self.node_name,
            name: self.name,
            pod_cidr: self.cluster_cidr,
            service_cidr: self.service_cidr,
            ..Settings::default()
        };
        let files = self.tls_cert_file.zip(self.tls_private_key_file).zip(self.client_ca_file);
        Ok(kubelet::Options {
            kubeconfig: self.access.kubeconfig,
            config: Config::new(settings, &hostname())?,
            cluster_dns: self.cluster_dns,
            cluster_domain: self.cluster_domain,
            serving: files.map(|((certificate, key), client_ca)| ServingFiles { certificate, key, client_ca }),
        })
    }
}

impl Proxy {
    fn options(self) -> ProxyOptions {
        ProxyOptions {
            kubeconfig: self.access.kubeconfig,
            name: self.name,
            node_name: self.node_name.unwrap_or_else(|| hostname().to_lowercase()),
            cluster_cidr: self.cluster_cidr,
            service_cidr: self.service_cidr,
        }
    }
}

impl DevPki {
    fn options(self) -> dev_pki::Options {
        dev_pki::Options {
            folder: self.folder,
            node_name: self.node_name.unwrap_or_else(|| hostname().to_lowercase()),
            service_cidr: self.service_cidr,
            server: self.server,
            dns_port: self.dns_port,
            addresses: self.addresses,
        }
    }
}
