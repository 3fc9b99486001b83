//! What a node may see over HTTPS: its own pods, its own Node, Services and runtime classes as lists; everything that
//! pods refer to one by one, by name, because the node's role allows no more (kubernetes/kubernetes, node authorizer).
//! A pod is told of once what it refers to was listed, so that it does not fail on what is only on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coracle_client::{Client, Follow, RemoteView};
use coracle_meta::{Object, Resource};
use coracle_reconcile::{Change, Index, Sink, View, ViewExt};
use coracle_rt::Scope;
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::Remote;

const PODS: Resource = Resource::new("", "pods");
const NODES: Resource = Resource::new("", "nodes");
const SERVICES: Resource = Resource::new("", "services");
const CONFIG_MAPS: Resource = Resource::new("", "configmaps");
const SECRETS: Resource = Resource::new("", "secrets");
const CLAIMS: Resource = Resource::new("", "persistentvolumeclaims");
const VOLUMES: Resource = Resource::new("", "persistentvolumes");
const BY_NAME: [Resource; 4] = [CONFIG_MAPS, SECRETS, CLAIMS, VOLUMES];

/// How long a pod waits for what it refers to; then it is told of and its own retries find out.
const REFERENCES_WAIT_MAX: Duration = Duration::from_secs(2);

pub struct NodeView {
    lists: Arc<RemoteView>,
    named: Arc<Named>,
}

impl NodeView {
    pub fn new(scope: &Scope, remote: &Remote, node: &str) -> NodeView {
        let lists = remote.view.clone();
        let only = |field_selector: String| Follow { field_selector, ..Follow::default() };
        lists.follow(&PODS, only(format!("spec.nodeName={node}")));
        lists.follow(&NODES, only(format!("metadata.name={node}")));
        let named = Named { client: remote.client.clone(), scope: scope.clone(), state: Mutex::default() };
        NodeView { lists, named: Arc::new(named) }
    }

    fn subscribe_pods(&self, sink: Sink) {
        // Unbounded because a cache must never wait for its readers.
        let (sender, mut changes) = mpsc::unbounded_channel::<Change>();
        let pass = move |_: &Resource, change: &Change| {
            let _ = sender.send(change.clone());
        };
        self.lists.subscribe(&PODS, Arc::new(pass));
        let (lists, named) = (self.lists.clone(), self.named.clone());
        self.named.scope.spawn_until_cancelled("references", async move {
            lists.synced(&[SERVICES]).await;
            while let Some(change) = changes.recv().await {
                match change.new.as_ref().and_then(|pod| pod.decode::<Pod>().ok()) {
                    Some(pod) => named.hold(references(&pod)).await,
                    None => named.release(lists.as_ref()),
                }
                sink(&PODS, &change);
            }
        });
    }
}

impl View for NodeView {
    fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        if !BY_NAME.contains(resource) {
            return self.lists.get(resource, namespace, name);
        }
        let reference = (resource.clone(), namespace.to_owned(), name.to_owned());
        self.named.follow(reference).0.get(resource, namespace, name)
    }

    fn list(&self, resource: &Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.lists.list(resource, namespace)
    }

    fn by_index(&self, resource: &Resource, index: Index, value: &str) -> Vec<Arc<Object>> {
        self.lists.by_index(resource, index, value)
    }

    fn revision(&self, resource: &Resource) -> u64 {
        let listed = if BY_NAME.contains(resource) { &PODS } else { resource };
        self.lists.revision(listed)
    }

    fn subscribe(&self, resource: &Resource, sink: Sink) {
        match resource {
            pods if *pods == PODS => self.subscribe_pods(sink),
            named if BY_NAME.contains(named) => self.named.subscribe(named, sink),
            listed => self.lists.subscribe(listed, sink),
        }
    }
}

/// A resource, a namespace and a name.
type Reference = (Resource, String, String);

/// Objects followed one by one.
struct Named {
    client: Client,
    scope: Scope,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    followed: BTreeMap<Reference, Followed>,
    sinks: Vec<(Resource, Sink)>,
}

struct Followed {
    view: Arc<RemoteView>,
    scope: Scope,
}

impl Named {
    /// The view that holds this object, and whether it was made just now.
    fn follow(&self, reference: Reference) -> (Arc<RemoteView>, bool) {
        let mut state = self.state.lock();
        if let Some(followed) = state.followed.get(&reference) {
            return (followed.view.clone(), false);
        }
        let (resource, namespace, name) = reference.clone();
        let scope = self.scope.child("reference");
        let view = RemoteView::new(&scope, self.client.clone());
        let follow = Follow { namespace, field_selector: format!("metadata.name={name}"), ..Follow::default() };
        view.follow(&resource, follow);
        for (_, sink) in state.sinks.iter().filter(|(wanted, _)| *wanted == resource) {
            view.subscribe(&resource, sink.clone());
        }
        state.followed.insert(reference, Followed { view: view.clone(), scope });
        (view, true)
    }

    /// Follows what a pod refers to and waits for what was not followed before.
    async fn hold(&self, references: BTreeSet<Reference>) {
        let made: Vec<_> = references
            .into_iter()
            .filter_map(|reference| {
                let resource = reference.0.clone();
                let (view, made) = self.follow(reference);
                made.then_some((view, resource))
            })
            .collect();
        let synced = made.iter().map(|(view, resource)| view.synced(std::slice::from_ref(resource)));
        let _ = tokio::time::timeout(REFERENCES_WAIT_MAX, join_all(synced)).await;
    }

    /// Lets go of what no pod refers to. Volumes, which only claims name, stay while there is any claim.
    fn release(&self, lists: &RemoteView) {
        let pods = lists.list_as::<Pod>(None);
        let wanted: BTreeSet<Reference> = pods.iter().flat_map(|pod| references(pod)).collect();
        let claims = wanted.iter().any(|(resource, ..)| *resource == CLAIMS);
        self.state.lock().followed.retain(|reference, followed| {
            let keep = wanted.contains(reference) || (reference.0 == VOLUMES && claims);
            if !keep {
                followed.scope.cancel();
            }
            keep
        });
    }

    fn subscribe(&self, resource: &Resource, sink: Sink) {
        let mut state = self.state.lock();
        for ((followed, ..), entry) in &state.followed {
            if followed == resource {
                entry.view.subscribe(resource, sink.clone());
            }
        }
        state.sinks.push((resource.clone(), sink));
    }
}

/// Everything that a pod names and a node may read for it.
fn references(pod: &Pod) -> BTreeSet<Reference> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let mut found = BTreeSet::new();
    let Some(spec) = &pod.spec else { return found };
    let mut add = |resource: Resource, name: &str| {
        if !name.is_empty() {
            found.insert((resource, namespace.clone(), name.to_owned()));
        }
    };
    for secret in spec.image_pull_secrets.iter().flatten() {
        add(SECRETS, &secret.name);
    }
    for volume in spec.volumes.iter().flatten() {
        of_volume(volume, &mut add);
        if volume.ephemeral.is_some() {
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            add(CLAIMS, &format!("{pod}-{}", volume.name));
        }
    }
    let init = spec.init_containers.iter().flatten();
    for container in init.chain(&spec.containers) {
        of_environment(container, &mut add);
    }
    for container in spec.ephemeral_containers.iter().flatten() {
        of_environment(&plain(container), &mut add);
    }
    found
}

fn of_volume(volume: &k8s_openapi::api::core::v1::Volume, add: &mut impl FnMut(Resource, &str)) {
    if let Some(map) = &volume.config_map {
        add(CONFIG_MAPS, &map.name);
    }
    if let Some(name) = volume.secret.as_ref().and_then(|secret| secret.secret_name.as_ref()) {
        add(SECRETS, name);
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        add(CLAIMS, &claim.claim_name);
    }
    for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
        if let Some(map) = &source.config_map {
            add(CONFIG_MAPS, &map.name);
        }
        if let Some(secret) = &source.secret {
            add(SECRETS, &secret.name);
        }
    }
}

fn of_environment(container: &Container, add: &mut impl FnMut(Resource, &str)) {
    for from in container.env_from.iter().flatten() {
        if let Some(map) = &from.config_map_ref {
            add(CONFIG_MAPS, &map.name);
        }
        if let Some(secret) = &from.secret_ref {
            add(SECRETS, &secret.name);
        }
    }
    for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
        if let Some(map) = &source.config_map_key_ref {
            add(CONFIG_MAPS, &map.name);
        }
        if let Some(secret) = &source.secret_key_ref {
            add(SECRETS, &secret.name);
        }
    }
}

/// The part of an ephemeral container that refers to anything.
fn plain(container: &EphemeralContainer) -> Container {
    Container { env: container.env.clone(), env_from: container.env_from.clone(), ..Container::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_refers_to_what_its_volumes_environment_and_pulls_name() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {
                "imagePullSecrets": [{"name": "pull"}],
                "volumes": [
                    {"name": "a", "projected": {"sources": [{"configMap": {"name": "root"}}, {"secret": {"name": "s1"}}]}},
                    {"name": "b", "persistentVolumeClaim": {"claimName": "c1"}},
                    {"name": "e", "ephemeral": {}},
                ],
                "containers": [{"name": "x", "envFrom": [{"configMapRef": {"name": "m1"}}],
                    "env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "s2", "key": "k"}}}]}],
            },
        }))
        .unwrap();
        let found: Vec<String> =
            references(&pod).into_iter().map(|(resource, _, name)| format!("{}/{name}", resource.plural)).collect();
        let expected = [
            "configmaps/m1",
            "configmaps/root",
            "persistentvolumeclaims/c1",
            "persistentvolumeclaims/p-e",
            "secrets/pull",
            "secrets/s1",
            "secrets/s2",
        ];
        assert_eq!(found, expected);
    }
}
