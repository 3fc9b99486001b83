//! Hollow nodes: nodes without machines, whose pods run, become Ready and end as they are told. To a cluster's control
//! plane they are like any others, so that it can be tried with thousands of them on one machine.
//!
//! What a kubelet would write is decided by `node` and `pods` from plain data; the two loops that write it, one for
//! nodes and one for pods, need nothing but a client of the API.

mod fleet;
mod identity;
mod keeper;
mod node;
mod pods;
mod range;
mod removal;
mod wheel;

use std::sync::Arc;

use coracle_client::{Client, ClientError};
use coracle_rt::{Clock, Scope};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

pub use fleet::{Capacity, Fleet, LABEL, Taint};
pub use pods::ledger::Census;
pub use range::Range;

use keeper::Keeper;
use pods::follow::Follower;
use pods::runner::{Runner, WAITING_MAX};

#[derive(Debug, thiserror::Error)]
pub enum HollowError {
    #[error("{setting}: {why}")]
    Setting { setting: &'static str, why: String },
    #[error("listing the nodes of the fleet")]
    List(#[source] ClientError),
    #[error("removing node {name}")]
    Remove {
        name: String,
        #[source]
        source: ClientError,
    },
}

/// A fleet at work.
pub struct Hollow {
    nodes: u32,
    registered: watch::Receiver<u32>,
    census: watch::Receiver<Census>,
}

impl Hollow {
    /// Registers the fleet's nodes and takes up their pods; goes on until `scope` ends. The nodes stay then.
    pub fn start(scope: &Scope, client: Client, clock: Clock, fleet: Fleet) -> Result<Hollow, HollowError> {
        fleet.check()?;
        let fleet = Arc::new(fleet);
        let (registered, nodes_told) = watch::channel(0);
        let (census, pods_told) = watch::channel(Census::default());
        let (sightings, seen) = mpsc::channel(WAITING_MAX);
        let keeper = Keeper::new(client.clone(), clock.clone(), fleet.clone(), registered);
        let runner = Runner::new(client.clone(), clock, fleet.clone(), seen, census);
        let nodes = fleet.nodes;
        scope.spawn_until_cancelled("hollow-nodes", keeper.run());
        scope.spawn_until_cancelled("hollow-pods", runner.run());
        scope.spawn_until_cancelled("hollow-follow", Follower::new(client, fleet, sightings).run());
        Ok(Hollow { nodes, registered: nodes_told, census: pods_told })
    }

    /// Resolves when every node is registered; not at all when the fleet ended before.
    pub async fn registered(&self) {
        let mut registered = self.registered.clone();
        if registered.wait_for(|count| *count >= self.nodes).await.is_err() {
            std::future::pending().await
        }
    }

    /// How many nodes are registered, of how many.
    pub fn nodes(&self) -> (u32, u32) {
        (*self.registered.borrow(), self.nodes)
    }

    pub fn census(&self) -> Census {
        *self.census.borrow()
    }
}

/// Removes all nodes whose fleet has this prefix, with their leases, and tells how many there were. Pods on them are
/// left to the cluster, as those of any node that is removed.
pub async fn remove(client: &Client, prefix: &str) -> Result<usize, HollowError> {
    let fleet = Fleet { prefix: prefix.into(), ..Fleet::default() };
    fleet.check()?;
    let names = removal::names(client, fleet.label()).await?;
    let count = names.len();
    removal::remove_nodes(client, names).await?;
    Ok(count)
}

/// Waits for a moment; for ever where there is none.
async fn due(clock: &Clock, at: Option<Timestamp>) {
    match at {
        Some(at) => {
            let left = at.duration_since(clock.now());
            tokio::time::sleep(left.try_into().unwrap_or_default()).await;
        }
        None => std::future::pending().await,
    }
}
