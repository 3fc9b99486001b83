//! What discovery offers, kept up to date, and the view that controllers see: the cache with that knowledge added.

use std::sync::Arc;

use coracle_client::{Client, ClientError, ResourceRef};
use coracle_meta::{Object, Resource};
use coracle_reconcile::{Index, Known, Sink, View};
use parking_lot::RwLock;

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

/// A cache that also knows what discovery offers.
pub struct Informed {
    pub view: Arc<dyn View>,
    pub catalog: Arc<Catalog>,
}

impl View for Informed {
    fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.view.get(resource, namespace, name)
    }

    fn list(&self, resource: &Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.view.list(resource, namespace)
    }

    fn holds(&self, resource: &Resource, namespace: &str) -> bool {
        self.view.holds(resource, namespace)
    }

    fn by_index(&self, resource: &Resource, index: Index, value: &str) -> Vec<Arc<Object>> {
        self.view.by_index(resource, index, value)
    }

    fn revision(&self, resource: &Resource) -> u64 {
        self.view.revision(resource)
    }

    fn subscribe(&self, resource: &Resource, sink: Sink) {
        self.view.subscribe(resource, sink);
    }

    fn known(&self) -> Arc<[Known]> {
        self.catalog.known()
    }

    fn is_synced(&self, resource: &Resource) -> bool {
        self.view.is_synced(resource)
    }
}
