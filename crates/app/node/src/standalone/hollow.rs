//! Simulated nodes, against any cluster that a kubeconfig reaches.

use std::path::Path;
use std::time::{Duration, Instant};

use coracle_client::Client;
use coracle_hollow::{Fleet, Hollow};
use coracle_rt::{Clock, Scope};

use super::{Remote, StandaloneError, until_signal};

/// How long the connections of a removal have to end.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// What is left of the nodes when the simulation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    Nodes,
    Nothing,
}

/// Simulates a fleet until a signal.
pub async fn run(kubeconfig: &Path, fleet: Fleet, leave: Leave, tell: impl Fn(&str)) -> Result<(), StandaloneError> {
    let began = Instant::now();
    let prefix = fleet.prefix.clone();
    let scope = Scope::root();
    let remote = Remote::open(&scope, kubeconfig)?;
    let hollow = Hollow::start(&scope.child("hollow"), remote.client, Clock::system(), fleet)?;
    let told = async {
        hollow.registered().await;
        let (nodes, seconds) = (hollow.nodes().1, began.elapsed().as_secs_f64());
        tell(&format!("✓ {nodes} hollow nodes ({seconds:.2} s)"));
        std::future::pending().await
    };
    let ended = tokio::select! { ended = told => ended, ended = until_signal(&scope) => ended };
    match leave {
        Leave::Nodes => ended,
        Leave::Nothing => remove(kubeconfig, &prefix, tell).await.and(ended),
    }
}

/// Removes what simulations under this prefix have left.
pub async fn remove(kubeconfig: &Path, prefix: &str, tell: impl Fn(&str)) -> Result<(), StandaloneError> {
    let scope = Scope::root();
    let client: Client = Remote::open(&scope, kubeconfig)?.client;
    let removed = coracle_hollow::remove(&client, prefix).await?;
    tell(&format!("removed {removed} hollow nodes"));
    scope.close(CLOSE_MAX).await;
    Ok(())
}
