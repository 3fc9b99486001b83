//! What a decision may look at: the objects of the cluster as a cache holds them, type-erased. The API server's watch
//! cache is a view, and so is a cache fed over HTTPS.

use std::sync::Arc;
use std::time::Duration;

use coracle_meta::{GroupVersionKind, Object, Resource};
use k8s_openapi::Resource as TypedResource;
use serde::de::DeserializeOwned;

/// A change as a cache applied it. `old` is absent when the object is new, `new` when it is gone.
#[derive(Clone, Debug)]
pub struct Change {
    pub old: Option<Arc<Object>>,
    pub new: Option<Arc<Object>>,
}

impl Change {
    /// Whether the object was there before and belongs to its owners, and waits for its end, as it did.
    pub fn leaves_belonging(&self) -> bool {
        let both = self.old.as_ref().zip(self.new.as_ref());
        both.is_some_and(|(old, new)| old.meta.belongs_alike(&new.meta))
    }
}

/// Receives changes in order. It runs on the cache's own task: it takes notes and returns, it never blocks.
pub type Sink = Arc<dyn Fn(&Resource, &Change) + Send + Sync>;

/// Look-ups that caches answer without a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// By the uid of any owner reference.
    Owner,
    /// Pods by `spec.nodeName`.
    Node,
    /// Of what controllers adopt, pods and the like, those that no owner controls, by namespace.
    Uncontrolled,
}

/// Whether controllers adopt objects of this resource by their labels.
pub fn is_adopted(resource: &Resource) -> bool {
    let adopted = [("", "pods"), ("apps", "replicasets"), ("apps", "controllerrevisions")];
    adopted.contains(&(&*resource.group, &*resource.plural))
}

/// A resource that discovery offers, in its preferred version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub resource: Resource,
    pub kind: GroupVersionKind,
    pub namespaced: bool,
}

/// A cache of objects. Lists are ordered by namespace, then name.
pub trait View: Send + Sync {
    /// `namespace` is empty for cluster-scoped resources.
    fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>>;

    /// All of a resource, or those of one namespace.
    fn list(&self, resource: &Resource, namespace: Option<&str>) -> Vec<Arc<Object>>;

    /// How many there are of a resource.
    fn count(&self, resource: &Resource) -> usize {
        self.list(resource, None).len()
    }

    /// Whether there is any of a resource in a namespace.
    fn holds(&self, resource: &Resource, namespace: &str) -> bool {
        !self.list(resource, Some(namespace)).is_empty()
    }

    fn by_index(&self, resource: &Resource, index: Index, value: &str) -> Vec<Arc<Object>>;

    /// The revision up to which this view has seen the resource; 0 before the first list came.
    fn revision(&self, resource: &Resource) -> u64;

    /// Starts following `resource`. What is there already is told first, as additions.
    fn subscribe(&self, resource: &Resource, sink: Sink);

    /// The resources that discovery offered last and that can be listed, watched and deleted. Only the views that the
    /// driver hands to controllers know them.
    fn known(&self) -> Arc<[Known]> {
        Arc::new([])
    }

    /// Whether the first list of the resource is in.
    fn is_synced(&self, resource: &Resource) -> bool {
        self.revision(resource) > 0
    }

    /// Time since some start, by a clock that nobody sets: what a controller saw itself is timed by it, since the time
    /// of day may jump. Only the views that the driver hands to controllers have one.
    fn steady(&self) -> Duration {
        Duration::ZERO
    }
}

/// What is around a cache and not in it.
pub trait Surroundings: Send + Sync {
    fn known(&self) -> Arc<[Known]>;

    fn steady(&self) -> Duration;
}

/// A cache and its surroundings: the view that controllers see.
pub struct Informed<S> {
    pub view: Arc<dyn View>,
    pub around: S,
}

impl<S: Surroundings> View for Informed<S> {
    fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.view.get(resource, namespace, name)
    }

    fn list(&self, resource: &Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.view.list(resource, namespace)
    }

    fn count(&self, resource: &Resource) -> usize {
        self.view.count(resource)
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
        self.around.known()
    }

    fn is_synced(&self, resource: &Resource) -> bool {
        self.view.is_synced(resource)
    }

    fn steady(&self) -> Duration {
        self.around.steady()
    }
}

/// Typed look-ups. An object that does not decode as its own type is a bug of the server and is left out.
pub trait ViewExt: View {
    fn get_as<T: Typed>(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.get(&resource_of::<T>(), namespace, name)?.decode().ok()
    }

    fn list_as<T: Typed>(&self, namespace: Option<&str>) -> Vec<Arc<T>> {
        decode_all(self.list(&resource_of::<T>(), namespace))
    }

    fn owned_by<T: Typed>(&self, uid: &str) -> Vec<Arc<T>> {
        decode_all(self.by_index(&resource_of::<T>(), Index::Owner, uid))
    }
}

impl<V: View + ?Sized> ViewExt for V {}

/// A k8s-openapi type that is a resource.
pub trait Typed: TypedResource + DeserializeOwned + Send + Sync + 'static {}

impl<T: TypedResource + DeserializeOwned + Send + Sync + 'static> Typed for T {}

/// The resource of a k8s-openapi type.
pub fn resource_of<T: TypedResource>() -> Resource {
    Resource::new(T::GROUP, T::URL_PATH_SEGMENT)
}

fn decode_all<T: Typed>(objects: Vec<Arc<Object>>) -> Vec<Arc<T>> {
    objects.iter().filter_map(|object| object.decode().ok()).collect()
}
