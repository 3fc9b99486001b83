//! The watch cache as controllers see it when they run beside it.

use std::sync::Arc;

use coracle_meta::{Object, Resource};
use coracle_reconcile::{Index, Sink, View};

use crate::cache::Cache;
use crate::resource::ResourceCache;

/// Where a resource's objects rest in the store; `None` for a resource that is not served.
pub type PrefixOf = Arc<dyn Fn(&Resource) -> Option<String> + Send + Sync>;

/// A view of a cache in the same process.
pub struct LocalView {
    cache: Arc<Cache>,
    prefix_of: PrefixOf,
}

impl LocalView {
    pub(crate) fn new(cache: Arc<Cache>, prefix_of: PrefixOf) -> LocalView {
        LocalView { cache, prefix_of }
    }

    /// The cache of a resource, followed from now on; `None` for a resource that is not served.
    pub fn resource(&self, resource: &Resource) -> Option<Arc<ResourceCache>> {
        match self.cache.opened(resource) {
            Some(known) => Some(known),
            None => Some(self.cache.resource(resource, &(self.prefix_of)(resource)?)),
        }
    }
}

impl View for LocalView {
    fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.resource(resource)?.get(namespace, name)
    }

    fn list(&self, resource: &Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let Some(cache) = self.resource(resource) else { return Vec::new() };
        let (mut objects, _) = cache.list(namespace);
        // Keys order `a-b/…` before `a/…`; views promise the order of names.
        if namespace.is_none_or(str::is_empty) {
            objects.sort_by(|left, right| {
                (&left.meta.namespace, &left.meta.name).cmp(&(&right.meta.namespace, &right.meta.name))
            });
        }
        objects
    }

    fn count(&self, resource: &Resource) -> usize {
        self.resource(resource).map_or(0, |cache| cache.state.read().objects.len())
    }

    fn holds(&self, resource: &Resource, namespace: &str) -> bool {
        self.resource(resource).is_some_and(|cache| cache.state.read().holds(namespace))
    }

    fn by_index(&self, resource: &Resource, index: Index, value: &str) -> Vec<Arc<Object>> {
        self.resource(resource).map_or_else(Vec::new, |cache| cache.state.read().by_index(index, value))
    }

    fn revision(&self, resource: &Resource) -> u64 {
        self.resource(resource).map_or(0, |cache| cache.revision())
    }

    fn subscribe(&self, resource: &Resource, sink: Sink) {
        match self.resource(resource) {
            Some(cache) => cache.subscribe(sink),
            None => tracing::warn!(kind = %resource, "a resource that is not served cannot be followed"),
        }
    }
}
