//! What discovery offers, kept up to date, and what else controllers see beside the cache.

use std::sync::Arc;
use std::time::Duration;

use coracle_client::{Client, ClientError, ResourceRef};
use coracle_meta::Resource;
use coracle_reconcile::{Known, Surroundings};
use parking_lot::RwLock;
use tokio::time::Instant;

/// The resources on offer.
#[derive(Default)]
pub struct Catalog {
    known: RwLock<Arc<[Known]>>,
}

impl Catalog {
    /// Asks discovery anew. What a group that is silent offered before is kept.
    pub async fn refresh(&self, client: &Client) -> Result<(), ClientError> {
        let (found, silent) = client.discover().await?;
        let usable = found.into_iter().filter(|entry| ["list", "watch", "delete"].iter().all(|verb| entry.can(verb)));
        let mut known: Vec<Known> = usable
            .map(|entry| Known { resource: entry.resource.resource, kind: entry.kind, namespaced: entry.namespaced })
            .collect();
        let before = self.known();
        known.extend(before.iter().filter(|entry| silent.contains(&entry.kind.api_version())).cloned());
        *self.known.write() = known.into();
        Ok(())
    }

    pub fn known(&self) -> Arc<[Known]> {
        self.known.read().clone()
    }

    /// The version to speak of a resource: discovery's, or what Kubernetes prefers of a built-in group.
    pub fn version(&self, resource: &Resource) -> ResourceRef {
        let known = self.known.read();
        match known.iter().find(|entry| entry.resource == *resource) {
            Some(entry) => ResourceRef::with_version(resource, &entry.kind.version),
            None => resource.into(),
        }
    }
}

/// What controllers see beside a cache.
pub struct Around {
    pub catalog: Arc<Catalog>,
    pub started: Instant,
}

impl Surroundings for Around {
    fn known(&self) -> Arc<[Known]> {
        self.catalog.known()
    }

    fn steady(&self) -> Duration {
        self.started.elapsed()
    }
}
