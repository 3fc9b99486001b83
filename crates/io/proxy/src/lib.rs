//! The service proxy: follows Services and their endpoints and keeps one nftables table per cluster as
//! `coracle_netplan::rules` wants it. It decides nothing about packets; it knows when to look and how to carry the
//! difference to the kernel.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use coracle_meta::Object;
pub use coracle_netplan::Cidr;
use coracle_netplan::conntrack::Targets;
use coracle_netplan::nft::{Family, Table};
use coracle_netplan::rules::{Input, service_table, udp_targets};
use coracle_reconcile::{Sink, View};
use coracle_rt::Scope;
use parking_lot::Mutex;
use tokio::sync::Notify;

mod kernel;
mod tracker;

use tracker::{Followed, ObjectKey, Tracker};

/// Changes that come close together become one batch.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a view may take to tell its first list before the proxy asks again whether it has.
const SYNC_PAUSE: Duration = Duration::from_millis(100);
const RETRY_PAUSE_FIRST: Duration = Duration::from_millis(500);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct Options {
    /// Names the table: `coracle-CLUSTER`.
    pub cluster: String,
    /// This node, as endpoints name it.
    pub node: String,
    /// The pods of all nodes, at most one range per family.
    pub pod_ranges: Vec<Cidr>,
    /// The Services' addresses, at most one range per family.
    pub service_ranges: Vec<Cidr>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("removing the table of services of cluster {cluster}")]
    Remove { cluster: String, source: io::Error },
}

/// How the proxy is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether the kernel has what is wanted.
    pub synced: bool,
    pub service_ports: usize,
    pub endpoints: usize,
    /// Batches carried to the kernel so far.
    pub batches: u64,
    /// Why the last batch failed, if it did.
    pub error: Option<String>,
}

/// A running proxy. Cancelling its scope stops it and leaves the table, so that Services work on.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// The newest version of every object not yet looked at: at most as many as there are.
    changed: Mutex<BTreeMap<ObjectKey, Option<Arc<Object>>>>,
    wake: Notify,
    status: Mutex<Status>,
    tried: Notify,
}

impl Proxy {
    /// Starts following the view. The first batch replaces whatever the table was, in one step.
    pub fn start(scope: &Scope, view: Arc<dyn View>, options: Options) -> Proxy {
        let shared = Arc::new(Shared::default());
        for followed in Followed::ALL {
            view.subscribe(&followed.resource(), sink(followed, shared.clone()));
        }
        let work =
            Work { options, view, shared: shared.clone(), tracker: Tracker::default(), applied: BTreeMap::new() };
        let own = scope.clone();
        scope.spawn("proxy", async move { work.run(own).await });
        Proxy { shared }
    }

    pub fn status(&self) -> Status {
        self.shared.status.lock().clone()
    }

    /// Resolves once the first whole table was carried to the kernel, or refused by it, and tells which.
    pub async fn tried(&self) -> Status {
        loop {
            let told = self.shared.tried.notified();
            let status = self.status();
            if status.synced || status.error.is_some() {
                return status;
            }
            told.await;
        }
    }
}

/// Removes a cluster's table, whether or not a proxy runs. None is no error.
pub fn remove_all(cluster: &str) -> Result<(), Error> {
    kernel::remove(&table_name(cluster)).map_err(|source| Error::Remove { cluster: cluster.into(), source })
}

fn table_name(cluster: &str) -> String {
    format!("coracle-{cluster}")
}

fn sink(followed: Followed, shared: Arc<Shared>) -> Sink {
    Arc::new(move |_, change| {
        let Some(object) = change.new.as_ref().or(change.old.as_ref()) else { return };
        let key = (followed, object.meta.namespace.clone(), object.meta.name.clone());
        shared.changed.lock().insert(key, change.new.clone());
        shared.wake.notify_one();
    })
}

/// The loop's own state.
struct Work {
    options: Options,
    view: Arc<dyn View>,
    shared: Arc<Shared>,
    tracker: Tracker,
    /// What the kernel has, by family, and the flows that were right with it.
    applied: BTreeMap<Family, (Table, Targets)>,
}

impl Work {
    async fn run(mut self, scope: Scope) {
        // The first look needs no change: a cluster may have no Services yet.
        let mut retry = Some(Duration::ZERO);
        loop {
            tokio::select! {
                () = scope.cancelled() => return,
                () = self.shared.wake.notified() => tokio::time::sleep(PAUSE).await,
                () = after(retry) => {}
            }
            if !Followed::ALL.iter().all(|followed| self.view.is_synced(&followed.resource())) {
                // An incomplete list must not take working Services away.
                retry = Some(SYNC_PAUSE);
                continue;
            }
            retry = match self.sync().await {
                Ok(()) => None,
                Err(error) => {
                    self.shared.status.lock().synced = false;
                    tracing::error!(%error, cause = ?std::error::Error::source(&error), "services cannot be programmed");
                    self.shared.status.lock().error = Some(error.to_string());
                    let longer = retry.map_or(RETRY_PAUSE_FIRST, |pause| pause * 2);
                    Some(longer.min(RETRY_PAUSE_MAX))
                }
            };
            self.shared.tried.notify_waiters();
        }
    }

    async fn sync(&mut self) -> io::Result<()> {
        let changes = std::mem::take(&mut *self.shared.changed.lock());
        self.tracker.apply(changes);
        for family in [Family::Ipv4, Family::Ipv6] {
            self.sync_family(family).await?;
        }
        let mut status = self.shared.status.lock();
        status.synced = true;
        status.error = None;
        status.service_ports = self.tracker.services.len();
        status.endpoints = self.tracker.endpoints.values().map(Vec::len).sum();
        Ok(())
    }

    async fn sync_family(&mut self, family: Family) -> io::Result<()> {
        let of_family = |ranges: &[Cidr]| ranges.iter().find(|range| Family::of(range.network()) == family).copied();
        let name = table_name(&self.options.cluster);
        let input = Input {
            table: &name,
            family,
            node: &self.options.node,
            pod_range: of_family(&self.options.pod_ranges),
            service_range: of_family(&self.options.service_ranges),
            services: &self.tracker.services,
            endpoints: &self.tracker.endpoints,
        };
        let is_wanted = family == Family::Ipv4 || has_addresses(&input);
        if !is_wanted && !self.applied.contains_key(&family) {
            return Ok(());
        }
        let (table, targets) = (service_table(&input), udp_targets(&input));
        let old = self.applied.remove(&family);
        let (table, targets, commands) = blocking(move || carry_out(old, table, targets)).await?;
        if commands > 0 {
            self.shared.status.lock().batches += 1;
            tracing::debug!(table = name, ?family, commands, "services programmed");
        }
        self.applied.insert(family, (table, targets));
        Ok(())
    }
}

fn has_addresses(input: &Input<'_>) -> bool {
    let mut addresses = input.services.values().flat_map(|service| &service.cluster_ips);
    addresses.any(|address| Family::of(*address) == input.family)
}

/// After a failure nothing is given back, so that the next attempt starts from the whole table.
fn carry_out(old: Option<(Table, Targets)>, table: Table, targets: Targets) -> io::Result<(Table, Targets, usize)> {
    let commands = kernel::apply(old.as_ref().map(|(table, _)| table), &table)?;
    let changed = targets
        .iter()
        .filter(|(target, right)| old.as_ref().is_none_or(|(_, before)| before.get(target) != Some(right)));
    let changed: Targets = changed.map(|(target, right)| (*target, right.clone())).collect();
    if let Err(error) = kernel::forget_stale_flows(table.family, &changed) {
        tracing::warn!(%error, "flows to endpoints that are gone may go on until they time out");
    }
    Ok((table, targets, commands))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

async fn after(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}
