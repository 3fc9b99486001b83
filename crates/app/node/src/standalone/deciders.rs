//! The scheduler and the controllers, each alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_client::Client;
use coracle_controld::Clients;
use coracle_controllers::Settings;
use coracle_meta::Resource;
use coracle_rt::{Clock, Scope};

use super::account::Accounts;
use super::{Remote, StandaloneError, read, until_signal};

/// What scheduling looks at first: a pod is not judged before every node was seen.
const SCHEDULER_READS: [Resource; 3] =
    [Resource::new("", "namespaces"), Resource::new("", "nodes"), Resource::new("", "pods")];

/// Schedules until a signal, as `system:kube-scheduler` or whom else the kubeconfig says.
pub async fn scheduler(kubeconfig: &Path, tell: impl Fn(&str)) -> Result<(), StandaloneError> {
    let scope = Scope::root();
    let remote = Remote::open(&scope, kubeconfig)?;
    let start = async {
        remote.view.synced(&SCHEDULER_READS).await;
        let scope = scope.child("scheduler");
        coracle_controld::run_scheduler(&scope, remote.view.clone(), remote.client.clone(), Clock::system());
        tell("✓ scheduler");
        std::future::pending().await
    };
    tokio::select! { () = start => Ok(()), ended = until_signal(&scope) => ended }
}

/// Under whom controllers write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Each under the service account of its name.
    ServiceAccounts,
    /// All as whom the kubeconfig says.
    Shared,
}

pub struct ControllerOptions {
    pub kubeconfig: PathBuf,
    /// PEM of the authority of the API server's certificate, published in every namespace.
    pub root_ca: PathBuf,
    pub credentials: Credentials,
}

/// Runs every controller until a signal.
pub async fn controllers(options: &ControllerOptions, tell: impl Fn(&str)) -> Result<(), StandaloneError> {
    let settings = Settings { root_ca: read(&options.root_ca)? };
    let scope = Scope::root();
    let remote = Remote::open(&scope, &options.kubeconfig)?;
    let clients: Clients = match options.credentials {
        Credentials::Shared => {
            let client: Client = remote.client.clone();
            Arc::new(move |_| client.clone())
        }
        Credentials::ServiceAccounts => {
            let accounts = Accounts::new(&scope.child("accounts"), &remote.kubeconfig, remote.client.clone());
            let accounts =
                accounts.map_err(|source| StandaloneError::Access { path: options.kubeconfig.clone(), source })?;
            Arc::new(move |name| accounts.client(name))
        }
    };
    let controllers = coracle_controllers::all(&settings);
    tell(&format!("✓ {} controllers", controllers.len()));
    coracle_controld::run_controllers(&scope.child("controller-manager"), remote.view.clone(), clients, controllers);
    until_signal(&scope).await
}
