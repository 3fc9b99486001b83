//! The kubelet alone, with the embedded runtime and pod network below it.

use std::path::PathBuf;
use std::sync::Arc;

use coracle_config::Config;
use coracle_kubelet::{Connections, Kubelet};
use coracle_linux::zygote::Zygote;
use coracle_podnet::PodNetwork;
use coracle_rt::{Clock, Scope};

use super::node_view::NodeView;
use super::{Remote, StandaloneError, read, until_signal};
use crate::embedded::Embedded;
use crate::files::private_dir;
use crate::identity::Identity;
use crate::images;
use crate::lock::Lock;
use crate::paths::Paths;
use crate::pki::KeyPairPem;
use crate::up::StartError;
use crate::worker::{self, WorkerError};

pub struct Options {
    pub kubeconfig: PathBuf,
    /// Names, places and ranges, as for a whole cluster: `coracle down --data-dir` clears what the kubelet made.
    pub config: Config,
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    pub serving: Option<ServingFiles>,
}

/// PEM files of the kubelet's own server. Without them there is none, and neither logs nor exec.
pub struct ServingFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Who signs the certificates of clients.
    pub client_ca: PathBuf,
}

/// Runs this node's pods until a signal, and leaves them running then.
pub async fn run(options: Options, zygote: Zygote, tell: impl Fn(&str)) -> Result<(), StandaloneError> {
    let paths = Paths::new(&options.config.data_dir);
    private_dir(paths.root()).map_err(|source| StandaloneError::File { path: paths.root().into(), source })?;
    let _lock = Lock::take(&paths.lock())?.ok_or_else(|| StartError::InUse(paths.root().into()))?;
    let identity = Identity::claim(&options.config, &paths)?;
    let scope = Scope::root();
    let remote = Remote::open(&scope, &options.kubeconfig)?;
    let images = Arc::new(images::open(&paths)?);
    let program =
        std::env::current_exe().map_err(|source| StandaloneError::File { path: "/proc/self/exe".into(), source })?;
    images::add_demo(&images, &program)?;
    let network = PodNetwork::open(worker::network_options(&identity, &paths)).map_err(WorkerError::from)?;
    let runtime = worker::open_runtime(&scope, &identity, &paths, images, Arc::new(network), zygote).await?;
    let connections = Connections {
        view: Arc::new(NodeView::new(&scope.child("view"), &remote, &identity.node_name)),
        client: remote.client.clone(),
        runtime: Arc::new(Embedded { runtime, scope: scope.child("runtime") }),
        clock: Clock::system(),
    };
    let settings = coracle_kubelet::Options {
        cluster_dns: options.cluster_dns,
        cluster_domain: options.cluster_domain,
        tls: options.serving.as_ref().map(serving).transpose()?,
        ..worker::kubelet_options(&identity, &paths)
    };
    let kubelet = Kubelet::start(&scope, settings, connections).await.map_err(WorkerError::from)?;
    let status = kubelet.status();
    tell(&match status.serving {
        Some(address) => format!("✓ kubelet of node {} on {address}", status.node),
        None => format!("✓ kubelet of node {}, without a server of its own", status.node),
    });
    until_signal(&scope).await
}

fn serving(files: &ServingFiles) -> Result<Arc<rustls::ServerConfig>, StandaloneError> {
    let identity = KeyPairPem { certificate: read(&files.certificate)?, key: read(&files.key)? };
    Ok(worker::kubelet_tls(&identity, &read(&files.client_ca)?)?)
}
