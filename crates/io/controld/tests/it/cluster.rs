//! A cluster in memory that tells of its changes.

use std::sync::Arc;

use coracle_meta::{Object, Resource};
use coracle_reconcile::{Change, Index, Plan, Sink, View, Write};
use coracle_testkit::FakeView;
use parking_lot::Mutex;
use serde_json::Value;

/// A fake view that also tells its followers, and lags behind the writes until it is let go on.
#[derive(Default)]
pub struct Cluster {
    pub view: FakeView,
    sinks: Mutex<Vec<(Resource, Sink)>>,
}

impl Cluster {
    pub fn write(&self, resource: &Resource, write: Write) -> Option<Arc<Object>> {
        let before = self.view.names(resource);
        self.view.apply(&Plan { writes: vec![write], ..Plan::default() });
        let made = self.view.list(resource, None).into_iter().find(|object| !before.contains(&object.meta.name))?;
        self.tell(resource, &Change { old: None, new: Some(made.clone()) });
        Some(made)
    }

    /// Sets an object as it stands.
    pub fn put(&self, resource: &Resource, object: Value) {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let old = self.view.get(resource, &namespace, &name);
        self.view.put(resource, object);
        self.tell(resource, &Change { old, new: self.view.get(resource, &namespace, &name) });
    }

    fn tell(&self, resource: &Resource, change: &Change) {
        for (followed, sink) in self.sinks.lock().iter().filter(|(followed, _)| followed == resource) {
            sink(followed, change);
        }
    }
}

impl View for Cluster {
    fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.view.get(resource, namespace, name)
    }

    fn list(&self, resource: &Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.view.list(resource, namespace)
    }

    fn by_index(&self, resource: &Resource, index: Index, value: &str) -> Vec<Arc<Object>> {
        self.view.by_index(resource, index, value)
    }

    fn revision(&self, resource: &Resource) -> u64 {
        self.view.revision(resource)
    }

    fn subscribe(&self, resource: &Resource, sink: Sink) {
        for object in self.view.list(resource, None) {
            sink(resource, &Change { old: None, new: Some(object) });
        }
        self.sinks.lock().push((resource.clone(), sink));
    }
}
