//! `coracle up`: starts everything in order, tells how it goes, waits until the node is Ready and the manifests are
//! rolled out, and stays until a signal or a command ends it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use coracle_apiserver::{Identity as Caller, Server};
use coracle_client::Client;
use coracle_config::Config;
use coracle_hollow::{Fleet, Hollow};
use coracle_image::Store as Images;
use coracle_linux::zygote::Zygote;
use coracle_reconcile::{View, ViewExt};
use coracle_rt::{Clock, Closed, Scope};
use coracle_store::EtcdOptions;
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use crate::control::{self, Answer, Ask, Component, ControlError, Steward};
use crate::control_plane::{ControlPlane, Keeping, Serving};
use crate::files::private_dir;
use crate::identity::{Identity, IdentityError};
use crate::images;
use crate::kubeconfig::{self, Access, KubeconfigError};
use crate::lock::Lock;
use crate::manifests::{self, ManifestError};
use crate::paths::Paths;
use crate::pki::{Names, Pki, PkiError};
use crate::tls::TlsError;
use crate::worker::{Worker, WorkerError};

/// How long components have to finish what is in hand.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// When the start with all that follows from it is over.
const SETTLE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("another coracle runs on the data in {}; end it with `coracle down --data-dir {}`", .0.display(), .0.display())]
    InUse(PathBuf),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("setting up certificates")]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("opening the store")]
    Store(#[from] coracle_store::OpenError),
    #[error("connecting to the datastore")]
    Etcd(#[from] coracle_store::EtcdError),
    #[error("starting the API server")]
    Server(#[from] coracle_apiserver::ServerError),
    #[error("listening on port {port}; `--port` takes another")]
    Listen {
        port: u16,
        #[source]
        source: std::io::Error,
    },
    #[error("opening the images")]
    Images(#[from] coracle_image::Error),
    #[error("starting the node")]
    Worker(#[from] WorkerError),
    #[error("writing the kubeconfig")]
    Kubeconfig(#[from] KubeconfigError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("simulating nodes")]
    Hollow(#[from] coracle_hollow::HollowError),
    #[error("starting the zygote")]
    Zygote(#[source] coracle_linux::Error),
    #[error("setting up signal handlers")]
    Signals(#[source] std::io::Error),
    #[error("a component failed; run with CORACLE_LOG=info to see which")]
    Component,
}

/// Starts the cluster and returns when it has ended. `tell` shows progress, a line at a time.
pub async fn run(config: Config, zygote: Zygote, tell: impl Fn(&str)) -> Result<(), StartError> {
    let began = Instant::now();
    let paths = Paths::new(&config.data_dir);
    private_dir(paths.root()).map_err(|source| StartError::File { path: paths.root().into(), source })?;
    let _lock = Lock::take(&paths.lock())?.ok_or_else(|| StartError::InUse(paths.root().into()))?;
    let identity = Identity::claim(&config, &paths)?;
    let names = Names { node_name: &identity.node_name, addresses: server_addresses(&identity) };
    let pki = Pki::ensure(&paths.pki(), &names)?;
    tell(&format!("coracle: cluster {:?}, data in {}", identity.name, paths.root().display()));

    let scope = Scope::root();
    let cluster = Cluster::start(&scope, &config, identity, paths, pki, zygote, &tell, began).await?;
    cluster.apply_manifests(&config, &tell).await?;
    tell(&format!("✓ up in {:.2} s", began.elapsed().as_secs_f64()));
    scope.spawn_until_cancelled("settle", settle());
    let ending = cluster.wait_for_end(&scope).await?;
    cluster.end(&scope, &config, ending, &tell).await
}

/// Most of the code that a start runs through is not run again.
async fn settle() {
    tokio::time::sleep(SETTLE).await;
    if let Err(error) = coracle_linux::sys::forget_code() {
        tracing::debug!(%error, "the code of the start stays in memory");
    }
}

fn server_addresses(identity: &Identity) -> Vec<std::net::IpAddr> {
    let mut addresses = vec![std::net::Ipv4Addr::LOCALHOST.into(), identity.api_service_ip().into()];
    if !addresses.contains(&identity.node_ip) {
        addresses.push(identity.node_ip);
    }
    addresses
}

fn serving(config: &Config, identity: &Identity) -> Serving {
    let service_cidr = identity.service_cidr.to_string();
    let runtime_config = config.runtime_config.clone();
    Serving {
        advertise: identity.node_ip,
        port: identity.api_port,
        service_cidr,
        runtime_config,
        gates: config.gates,
        metric_resolution: config.metric_resolution,
    }
}

fn keeping(config: &Config, paths: &Paths) -> Keeping {
    match (&config.datastore, config.ephemeral) {
        (None, false) => Keeping::Durable(paths.store()),
        (None, true) => Keeping::Ephemeral(paths.root().into()),
        (Some(etcd), _) => Keeping::Etcd(EtcdOptions {
            endpoints: etcd.endpoints.clone(),
            ca_file: etcd.ca_file.clone(),
            cert_file: etcd.cert_file.clone(),
            key_file: etcd.key_file.clone(),
        }),
    }
}

/// What ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// SIGINT or SIGTERM: the pods go on.
    Signal,
    /// `coracle down` asked: the pods have ended.
    Down,
    /// A component panicked.
    Broken,
}

/// A running cluster.
struct Cluster {
    identity: Identity,
    paths: Paths,
    control_plane: ControlPlane,
    down: Arc<Notify>,
}

impl Cluster {
    #[expect(clippy::too_many_arguments, reason = "each is made once, here, and nothing groups them")]
    async fn start(
        scope: &Scope,
        config: &Config,
        identity: Identity,
        paths: Paths,
        pki: Pki,
        zygote: Zygote,
        tell: &impl Fn(&str),
        began: Instant,
    ) -> Result<Cluster, StartError> {
        let step = |what: &str| tell(&format!("✓ {what} ({:.0} ms)", began.elapsed().as_secs_f64() * 1e3));
        let control_plane =
            ControlPlane::start(scope, serving(config, &identity), &pki, keeping(config, &paths)).await?;
        let context = write_kubeconfig(config, &identity, &paths, &pki)?;
        step(&format!("API server on https://127.0.0.1:{}, {context}", identity.api_port));
        control_plane.start_deciders(scope, &pki, config.autoscaler_period, config.gates);
        step("scheduler and controllers");
        let images = Arc::new(images::open(&paths)?);
        let program =
            std::env::current_exe().map_err(|source| StartError::File { path: "/proc/self/exe".into(), source })?;
        images::add_demo(&images, &program)?;
        let worker = Worker::start(scope, &identity, &paths, &pki, &control_plane, images.clone(), zygote).await?;
        let worker = Arc::new(worker);
        step("runtime, network, proxy, DNS and kubelet");
        let hollow = simulate(scope, config, &control_plane)?;
        let down = Arc::new(Notify::new());
        let steward = Butler {
            images,
            worker: worker.clone(),
            hollow: hollow.clone(),
            server: control_plane.server.clone(),
            down: down.clone(),
            node: identity.node_name.clone(),
            port: identity.api_port,
        };
        control::listen(&scope.child("control"), &paths.socket(), Arc::new(steward))?;
        wait_for_node(control_plane.view().as_ref(), &identity.node_name).await;
        worker.services_tried().await;
        step(&format!("node {} is Ready", identity.node_name));
        if let Some(hollow) = hollow {
            hollow.registered().await;
            step(&format!("{} hollow nodes", config.hollow_nodes));
        }
        Ok(Cluster { identity, paths, control_plane, down })
    }

    fn client(&self) -> Client {
        self.control_plane.client(Caller::admin())
    }

    async fn apply_manifests(&self, config: &Config, tell: &impl Fn(&str)) -> Result<(), StartError> {
        let client = self.client();
        for object in manifests::apply(&client, &config.manifests).await? {
            let show = |progress: &str| tell(&format!("  {} {}: {progress}", object.kind, object.name));
            manifests::rolled_out(&client, &object, show).await?;
        }
        Ok(())
    }

    async fn wait_for_end(&self, scope: &Scope) -> Result<Ending, StartError> {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
        Ok(tokio::select! {
            _ = interrupt.recv() => Ending::Signal,
            _ = terminate.recv() => Ending::Signal,
            () = self.down.notified() => Ending::Down,
            () = scope.cancelled() => Ending::Broken,
        })
    }

    async fn end(self, scope: &Scope, config: &Config, ending: Ending, tell: &impl Fn(&str)) -> Result<(), StartError> {
        let closed = scope.close(DRAIN_MAX).await;
        let _ = std::fs::remove_file(self.paths.socket());
        if config.ephemeral && config.kubeconfig.is_none() {
            kubeconfig::forget(&kubeconfig::of_caller(), &self.identity.name)?;
        }
        if closed == Closed::Late {
            tell("some component did not finish in time");
        }
        match ending {
            Ending::Broken => return Err(StartError::Component),
            Ending::Signal if !config.ephemeral => tell(&format!(
                "ended; the pods go on running. `coracle up` takes them over again, `coracle down --data-dir {}` ends them",
                self.paths.root().display()
            )),
            Ending::Signal | Ending::Down => tell("ended"),
        }
        Ok(())
    }
}

/// Writes the administrator's kubeconfig and says where.
fn write_kubeconfig(config: &Config, identity: &Identity, paths: &Paths, pki: &Pki) -> Result<String, StartError> {
    let access = Access {
        context: &identity.name,
        server: format!("https://127.0.0.1:{}", identity.api_port),
        ca: &pki.ca,
        user: &pki.admin,
    };
    kubeconfig::write(&paths.kubeconfig(), &access)?;
    Ok(match &config.kubeconfig {
        Some(path) => {
            kubeconfig::write(path, &access)?;
            format!("kubeconfig in {}", path.display())
        }
        None => {
            let path = kubeconfig::of_caller();
            kubeconfig::merge(&path, &access)?;
            format!("context {:?} in {}", identity.name, path.display())
        }
    })
}

fn simulate(scope: &Scope, config: &Config, control_plane: &ControlPlane) -> Result<Option<Arc<Hollow>>, StartError> {
    if config.hollow_nodes == 0 {
        return Ok(None);
    }
    let fleet = Fleet { nodes: config.hollow_nodes, ..Fleet::default() };
    let client = control_plane.client(Caller::admin());
    Ok(Some(Arc::new(Hollow::start(&scope.child("hollow"), client, Clock::system(), fleet)?)))
}

async fn wait_for_node(view: &dyn View, name: &str) {
    let ready = || {
        let node = view.get_as::<Node>("", name)?;
        let conditions = node.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True").then_some(())
    };
    while ready().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Answers on the control socket.
struct Butler {
    images: Arc<Images>,
    worker: Arc<Worker>,
    hollow: Option<Arc<Hollow>>,
    server: Arc<Server>,
    down: Arc<Notify>,
    node: String,
    port: u16,
}

#[async_trait]
impl Steward for Butler {
    async fn answer(&self, ask: Ask) -> Answer {
        match ask {
            Ask::Status => Answer::Status { components: self.components().await },
            Ask::Down { grace_seconds } => {
                if grace_seconds > 0 {
                    self.worker.end_pods(Duration::from_secs(grace_seconds)).await;
                }
                self.down.notify_one();
                Answer::Done
            }
            images => {
                let store = self.images.clone();
                let answer = tokio::task::spawn_blocking(move || images::answer(&store, &images)).await;
                answer.unwrap_or_else(|error| Answer::Failed { why: error.to_string() })
            }
        }
    }
}

fn hollow_nodes(hollow: &Hollow) -> Component {
    let ((registered, wanted), census) = (hollow.nodes(), hollow.census());
    let detail = format!("{registered} of {wanted} nodes, {} pods, {} running", census.pods, census.running);
    Component { name: "hollow nodes".into(), healthy: registered == wanted, detail }
}

impl Butler {
    async fn components(&self) -> Vec<Component> {
        let mut components = vec![self.api_server(), self.store().await];
        components.extend(self.deciders());
        components.extend(self.worker.components());
        components.extend(self.hollow.as_deref().map(hollow_nodes));
        components.push(self.node());
        components
    }

    fn api_server(&self) -> Component {
        Component {
            name: "apiserver".into(),
            healthy: self.server.is_ready(),
            detail: format!("https://127.0.0.1:{}", self.port),
        }
    }

    async fn store(&self) -> Component {
        let (healthy, detail) = match self.server.cache.store.revision().await {
            Ok(revision) => (true, format!("revision {revision}")),
            Err(error) => (false, error.to_string()),
        };
        Component { name: "store".into(), healthy, detail }
    }

    /// A scheduler or controller that fails ends the whole process, so one that can be asked after is well.
    fn deciders(&self) -> [Component; 2] {
        let pods = self.server.view().list_as::<Pod>(None);
        let waiting = pods.iter().filter(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none())).count();
        let well = |name: &str, detail| Component { name: name.into(), healthy: true, detail };
        [well("scheduler", format!("{waiting} pods to place")), well("controller-manager", String::new())]
    }

    fn node(&self) -> Component {
        let node = self.server.view().get_as::<Node>("", &self.node);
        let conditions = node.as_ref().and_then(|node| node.status.as_ref()?.conditions.as_ref());
        let ready = conditions.and_then(|conditions| conditions.iter().find(|condition| condition.type_ == "Ready"));
        Component {
            name: format!("node {}", self.node),
            healthy: ready.is_some_and(|ready| ready.status == "True"),
            detail: ready.and_then(|ready| ready.message.clone()).unwrap_or_default(),
        }
    }
}
