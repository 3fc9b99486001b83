//! All cached resources of one store. A resource is followed from its first use on, and once for everybody.

use std::collections::HashMap;
use std::sync::Arc;

use coracle_meta::Resource;
use coracle_rt::Scope;
use parking_lot::RwLock;

use crate::codec::{Codec, Json};
use crate::keys::Prefix;
use crate::resource::ResourceCache;
use crate::store::Store;
use crate::view::{LocalView, PrefixOf};

pub struct Cache {
    pub store: Arc<dyn Store>,
    pub codec: Arc<dyn Codec>,
    scope: Scope,
    resources: RwLock<HashMap<Resource, Arc<ResourceCache>>>,
}

impl Cache {
    /// Over a store whose values are JSON as they rest.
    pub fn new(store: Arc<dyn Store>, scope: Scope) -> Arc<Cache> {
        Cache::with_codec(store, Arc::new(Json), scope)
    }

    pub fn with_codec(store: Arc<dyn Store>, codec: Arc<dyn Codec>, scope: Scope) -> Arc<Cache> {
        Arc::new(Cache { store, codec, scope, resources: RwLock::default() })
    }

    /// The cache of one resource, whose objects rest below `prefix`. Its first use starts to follow it; what is asked
    /// before its first list is in finds nothing, `ResourceCache::wait_synced` waits for that.
    pub fn resource(&self, resource: &Resource, prefix: &str) -> Arc<ResourceCache> {
        if let Some(known) = self.opened(resource) {
            return known;
        }
        let mut resources = self.resources.write();
        if let Some(known) = resources.get(resource) {
            return known.clone();
        }
        let made = ResourceCache::new(resource, Prefix::new(prefix), self.store.clone(), self.codec.clone());
        resources.insert(resource.clone(), made.clone());
        self.scope.spawn_until_cancelled("cache-feed", made.clone().follow());
        made
    }

    /// The cache of a resource that somebody uses already.
    pub fn opened(&self, resource: &Resource) -> Option<Arc<ResourceCache>> {
        self.resources.read().get(resource).cloned()
    }

    /// A view for controllers. `prefix_of` tells where a resource's objects rest, `None` for an unknown one.
    pub fn view(self: &Arc<Self>, prefix_of: PrefixOf) -> Arc<LocalView> {
        Arc::new(LocalView::new(self.clone(), prefix_of))
    }
}
