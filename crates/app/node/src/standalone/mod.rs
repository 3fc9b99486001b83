//! Each component as a process of its own: it reaches the API server over HTTPS as whom its kubeconfig says, under the
//! roles that every Kubernetes has for it, and runs until a signal ends it. What a component does is the same code as
//! in `up`; only its view and its client differ.

pub mod apiserver;
pub mod deciders;
pub mod dev_pki;
pub mod doors;
pub mod hollow;
pub mod kubelet;
pub mod network;

mod account;
mod node_view;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coracle_client::{Client, HttpsTransport, Kubeconfig, RemoteView};
use coracle_rt::{Closed, Scope};
use tokio::signal::unix::{SignalKind, signal};

use crate::identity::IdentityError;
use crate::kubeconfig::KubeconfigError;
use crate::pki::PkiError;
use crate::tls::TlsError;
use crate::up::StartError;
use crate::worker::WorkerError;

/// How long a component has to finish what is in hand.
const DRAIN_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum StandaloneError {
    #[error("{}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("reaching the API server by {}", path.display())]
    Access {
        path: PathBuf,
        #[source]
        source: coracle_client::KubeconfigError,
    },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("setting up certificates")]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("writing a kubeconfig")]
    Kubeconfig(#[from] KubeconfigError),
    #[error("opening the images")]
    Images(#[from] coracle_image::Error),
    #[error("an extender of the scheduler's configuration cannot be called")]
    Extender(#[source] coracle_client::KubeconfigError),
    #[error("starting the node")]
    Worker(#[from] WorkerError),
    #[error("{setting}: {value:?} is not a range such as 10.42.0.0/16")]
    Range { setting: &'static str, value: String },
    #[error("simulating nodes")]
    Hollow(#[from] coracle_hollow::HollowError),
    #[error("a component failed; run with CORACLE_LOG=info to see which")]
    Component,
    #[error("the Lease kube-system/{0} was lost to another process")]
    LostLead(&'static str),
    #[error("some work did not finish in time")]
    Late,
}

/// The API server as one identity sees it.
struct Remote {
    kubeconfig: Kubeconfig,
    client: Client,
    view: Arc<RemoteView>,
}

impl Remote {
    fn open(scope: &Scope, path: &Path) -> Result<Remote, StandaloneError> {
        let failed = |source| StandaloneError::Access { path: path.into(), source };
        let kubeconfig = Kubeconfig::read(path).map_err(failed)?;
        let transport = HttpsTransport::from_kubeconfig(&scope.child("client"), &kubeconfig).map_err(failed)?;
        let client = Client::new(Arc::new(transport));
        let view = RemoteView::new(&scope.child("view"), client.clone());
        Ok(Remote { kubeconfig, client, view })
    }
}

/// Stays until a signal, then lets everything of `scope` end in order.
async fn until_signal(scope: &Scope) -> Result<(), StandaloneError> {
    let signals = || -> std::io::Result<_> { Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)) };
    let (mut interrupt, mut terminate) = signals().map_err(StartError::Signals)?;
    let broken = tokio::select! {
        _ = interrupt.recv() => false,
        _ = terminate.recv() => false,
        () = scope.cancelled() => true,
    };
    match scope.close(DRAIN_MAX).await {
        _ if broken => Err(StandaloneError::Component),
        Closed::Late => Err(StandaloneError::Late),
        Closed::Clean => Ok(()),
    }
}

fn read(path: &Path) -> Result<String, StandaloneError> {
    std::fs::read_to_string(path).map_err(|source| StandaloneError::File { path: path.into(), source })
}
