//! A view over HTTPS: every followed resource is listed once, then watched, and held in memory. It resumes where a
//! watch broke off and lists again only when the server no longer knows that revision.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_meta::{Members, Object, Resource};
use coracle_reconcile::{Change, Index, Key, ObjectTable, Sink, View};
use coracle_rt::{Dice, Scope};
use futures_util::StreamExt;
use http::Method;
use parking_lot::{Mutex, RwLock};
use serde::Deserialize;
use tokio::sync::watch;

use crate::verbs::list_uri;
use crate::watch::stored_object;
use crate::{Client, ClientError, ListOptions, ResourceRef, WatchEvent, WatchOptions};

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Objects per page of a list.
const PAGE_MAX: u32 = 500;

/// Which part of a resource to follow: a kubelet may only see its own pods.
#[derive(Clone, Debug, Default)]
pub struct Follow {
    /// Empty for all namespaces.
    pub namespace: String,
    pub field_selector: String,
    pub label_selector: String,
}

pub struct RemoteView {
    client: Client,
    scope: Scope,
    caches: RwLock<BTreeMap<Resource, Arc<Cache>>>,
}

struct Cache {
    resource: Resource,
    /// In the version that it is asked for in; another one where the server has no such.
    offered: RwLock<ResourceRef>,
    follow: Follow,
    table: RwLock<ObjectTable>,
    /// Held while changes are applied and told, so that every sink sees them in order.
    sinks: Mutex<Vec<Sink>>,
    synced: watch::Sender<bool>,
}

impl RemoteView {
    /// A view that follows nothing yet. Its tasks run in `scope`.
    pub fn new(scope: &Scope, client: Client) -> Arc<RemoteView> {
        Arc::new(RemoteView { client, scope: scope.clone(), caches: RwLock::default() })
    }

    /// Starts following a resource. One that is followed already stays as it is.
    pub fn follow(&self, resource: impl Into<ResourceRef>, follow: Follow) {
        self.cache(resource.into(), follow);
    }

    /// Resolves when the first list of each of the resources is in; each is followed by then.
    pub async fn synced(&self, resources: &[Resource]) {
        for resource in resources {
            let mut synced = self.cache(resource.into(), Follow::default()).synced.subscribe();
            if synced.wait_for(|synced| *synced).await.is_err() {
                return;
            }
        }
    }

    fn cache(&self, resource: ResourceRef, follow: Follow) -> Arc<Cache> {
        let mut caches = self.caches.write();
        let cache = caches.entry(resource.resource.clone()).or_insert_with(|| {
            let cache = Arc::new(Cache {
                table: RwLock::new(ObjectTable::of(&resource.resource)),
                resource: resource.resource.clone(),
                offered: RwLock::new(resource),
                follow,
                sinks: Mutex::default(),
                synced: watch::Sender::new(false),
            });
            let (client, task) = (self.client.clone(), cache.clone());
            self.scope.spawn_until_cancelled("follow", task.run(client));
            cache
        });
        cache.clone()
    }

    fn known(&self, resource: &Resource) -> Option<Arc<Cache>> {
        self.caches.read().get(resource).cloned()
    }
}

impl View for RemoteView {
    fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.known(resource)?.table.read().get(namespace, name)
    }

    fn list(&self, resource: &Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.known(resource).map(|cache| cache.table.read().list(namespace)).unwrap_or_default()
    }

    fn count(&self, resource: &Resource) -> usize {
        self.known(resource).map_or(0, |cache| cache.table.read().count())
    }

    fn by_index(&self, resource: &Resource, index: Index, value: &str) -> Vec<Arc<Object>> {
        self.known(resource).map(|cache| cache.table.read().by_index(index, value)).unwrap_or_default()
    }

    fn revision(&self, resource: &Resource) -> u64 {
        self.known(resource).map_or(0, |cache| cache.table.read().revision)
    }

    fn subscribe(&self, resource: &Resource, sink: Sink) {
        let cache = self.cache(resource.into(), Follow::default());
        let mut sinks = cache.sinks.lock();
        let present = cache.table.read().list(None);
        for object in present {
            sink(resource, &Change { old: None, new: Some(object) });
        }
        sinks.push(sink);
    }
}

impl Cache {
    /// Follows for ever; the scope ends it.
    async fn run(self: Arc<Self>, client: Client) {
        let (mut resume, mut wait) = (0, BACKOFF_FIRST);
        loop {
            let before = resume;
            match self.follow_once(&client, &mut resume).await {
                Ok(()) => wait = BACKOFF_FIRST,
                Err(ClientError::Status(status)) if status.code == 410 => resume = 0,
                Err(ClientError::Status(status)) if status.code == 404 && self.ask_version(&client).await => {
                    wait = BACKOFF_FIRST;
                }
                Err(error) => {
                    let why = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    tracing::debug!(resource = %self.resource, %error, why, "following a resource broke off");
                }
            }
            if resume > before {
                wait = BACKOFF_FIRST;
            }
            let jitter = Dice::system().below(wait.as_millis() as u64);
            tokio::time::sleep(wait + Duration::from_millis(jitter)).await;
            wait = (wait * 2).min(BACKOFF_MAX);
        }
    }

    /// Whether the server has the resource in another version than it was asked for.
    async fn ask_version(&self, client: &Client) -> bool {
        let Ok(Some(offered)) = client.offered(&self.resource).await else { return false };
        std::mem::replace(&mut *self.offered.write(), offered.clone()) != offered
    }

    fn reference(&self) -> ResourceRef {
        self.offered.read().clone()
    }

    /// Lists where there is nothing to resume, then applies a watch until it ends.
    async fn follow_once(&self, client: &Client, resume: &mut u64) -> Result<(), ClientError> {
        let mut stream = match *resume {
            0 => match self.stream(client).await {
                Ok((stream, revision)) => {
                    *resume = revision;
                    stream
                }
                // Not offered; on an etcd that cannot tell its progress, upstream answers 500.
                Err(ClientError::Status(status)) if matches!(status.code, 400 | 422 | 500) => {
                    *resume = self.list(client).await?;
                    self.watch(client, *resume).await?
                }
                Err(error) => return Err(error),
            },
            revision => self.watch(client, revision).await?,
        };
        while let Some(event) = stream.next().await {
            *resume = (*resume).max(self.apply(event?));
        }
        Ok(())
    }

    /// A watch whose streaming list is in, and the list's revision.
    async fn stream(&self, client: &Client) -> Result<(crate::WatchStream, u64), ClientError> {
        let mut stream = self.watch(client, 0).await?;
        let revision = self.take_initial(&mut stream).await?;
        Ok((stream, revision))
    }

    /// From a revision, or with everything first where that is 0.
    async fn watch(&self, client: &Client, revision: u64) -> Result<crate::WatchStream, ClientError> {
        let options = WatchOptions {
            label_selector: self.follow.label_selector.clone(),
            field_selector: self.follow.field_selector.clone(),
            resource_version: if revision == 0 { String::new() } else { revision.to_string() },
            send_initial_events: revision == 0,
            timeout_seconds: 0,
        };
        client.watch(&self.reference(), &self.follow.namespace, &options).await
    }

    /// Collects a streaming list up to its closing bookmark.
    async fn take_initial(&self, stream: &mut crate::WatchStream) -> Result<u64, ClientError> {
        let mut objects = BTreeMap::new();
        while let Some(event) = stream.next().await {
            match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    objects.insert(Key::of(&object), object);
                }
                WatchEvent::Deleted(object) => {
                    objects.remove(&Key::of(&object));
                }
                WatchEvent::Bookmark { revision, initial_end: true } => {
                    self.replace(objects.into_values().collect(), revision);
                    return Ok(revision);
                }
                WatchEvent::Bookmark { .. } => {}
            }
        }
        let uri = self.reference().path(&self.follow.namespace);
        Err(ClientError::Transport { uri, source: "the streaming list ended before its bookmark".into() })
    }

    async fn list(&self, client: &Client) -> Result<u64, ClientError> {
        let mut options = ListOptions {
            label_selector: self.follow.label_selector.clone(),
            field_selector: self.follow.field_selector.clone(),
            limit: PAGE_MAX,
            ..ListOptions::default()
        };
        let mut objects = Vec::new();
        loop {
            let uri = list_uri(&self.reference(), &self.follow.namespace, &options);
            let bytes = client.bytes(Method::GET, &uri, None).await?;
            let (page, revision, next) = read_page(&uri, &bytes)?;
            objects.extend(page);
            if next.is_empty() {
                self.replace(objects, revision);
                return Ok(revision);
            }
            options.continue_token = next;
        }
    }

    fn replace(&self, objects: Vec<Object>, revision: u64) {
        let sinks = self.sinks.lock();
        let changes = self.table.write().replace(objects, revision.max(1));
        for change in &changes {
            self.tell(&sinks, change);
        }
        self.synced.send_replace(true);
    }

    /// Applies one event and answers the revision to resume from.
    fn apply(&self, event: WatchEvent) -> u64 {
        let sinks = self.sinks.lock();
        let (revision, change) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                (object.revision, Some(self.table.write().put(object)))
            }
            WatchEvent::Deleted(object) => {
                (object.revision, self.table.write().remove(&Key::of(&object), object.revision))
            }
            WatchEvent::Bookmark { revision, .. } => {
                let mut table = self.table.write();
                table.revision = table.revision.max(revision);
                (revision, None)
            }
        };
        if let Some(change) = &change {
            self.tell(&sinks, change);
        }
        revision
    }

    fn tell(&self, sinks: &[Sink], change: &Change) {
        for sink in sinks {
            sink(&self.resource, change);
        }
    }
}

/// The objects of a list's page, its revision and the token of the next. Items of built-in kinds do not say what they
/// are; the list does.
fn read_page(uri: &str, bytes: &[u8]) -> Result<(Vec<Object>, u64, String), ClientError> {
    let page = || -> Result<_, crate::BodyError> {
        let list: List<'_> = serde_json::from_slice(bytes)?;
        let kind = serde_json::to_vec(list.kind.trim_end_matches("List"))?;
        let api_version = serde_json::to_vec(&list.api_version)?;
        let items = list.items.unwrap_or_default();
        let mut objects = Vec::with_capacity(items.len());
        for mut item in items {
            item.lead_with("apiVersion", &api_version);
            item.lead_with("kind", &kind);
            objects.push(stored_object(item)?);
        }
        Ok((objects, list.metadata.resource_version.parse().unwrap_or(0), list.metadata.next))
    };
    page().map_err(|source| ClientError::Decode { uri: uri.into(), source })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    kind: String,
    api_version: String,
    #[serde(default)]
    metadata: ListMeta,
    #[serde(borrow)]
    items: Option<Vec<Members<'a>>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::shown_object;
    use crate::{Body, BodyError};
    use bytes::Bytes;
    use http_body_util::BodyExt;

    /// Has widgets in a version that nobody would guess.
    struct Widgets;

    #[async_trait::async_trait]
    impl crate::Transport for Widgets {
        async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, BodyError> {
            let (code, body) = match (request.uri().path(), request.uri().query().unwrap_or_default()) {
                ("/apis/x.example", _) => {
                    (200, r#"{"versions":[{"groupVersion":"x.example/v2"},{"groupVersion":"x.example/v1beta1"}]}"#)
                }
                ("/apis/x.example/v2", _) => (200, r#"{"resources":[{"name":"gadgets","kind":"Gadget"}]}"#),
                ("/apis/x.example/v1beta1", _) => {
                    (200, r#"{"resources":[{"name":"gadgets","kind":"Gadget"},{"name":"widgets","kind":"Widget"}]}"#)
                }
                ("/apis/x.example/v1beta1/widgets", query) if query.contains("watch") => {
                    (422, r#"{"kind":"Status","code":422}"#)
                }
                ("/apis/x.example/v1beta1/widgets", _) => (
                    200,
                    r#"{"kind":"WidgetList","apiVersion":"x.example/v1beta1","metadata":{"resourceVersion":"9"},
                        "items":[{"metadata":{"name":"a","resourceVersion":"4"}}]}"#,
                ),
                _ => (404, r#"{"kind":"Status","code":404}"#),
            };
            let body = http_body_util::Full::new(Bytes::from_static(body.as_bytes()));
            let body = body.map_err(|never| match never {}).boxed_unsync();
            Ok(http::Response::builder().status(code).header("content-type", "application/json").body(body)?)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_resource_is_followed_in_the_version_that_is_on_offer() {
        let scope = Scope::root();
        let client = Client::new(Arc::new(Widgets));
        let widgets = Resource::new("x.example", "widgets");
        let gadgets = Resource::new("x.example", "gadgets");
        assert_eq!(client.offered(&gadgets).await.unwrap().unwrap().version, "v2");
        assert_eq!(client.offered(&Resource::new("x.example", "none")).await.unwrap(), None);
        let view = RemoteView::new(&scope, client);
        view.synced(std::slice::from_ref(&widgets)).await;
        assert!(view.get(&widgets, "", "a").is_some());
        scope.cancel();
    }

    #[test]
    fn items_of_a_page_say_what_they_are() {
        let page = br#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"9","continue":"t"},
            "items":[{"metadata":{"name":"a","resourceVersion":"4"}}]}"#;
        let (objects, revision, next) = read_page("/x", page).unwrap();
        assert_eq!((objects.len(), revision, next.as_str()), (1, 9, "t"));
        let shown = shown_object("/x", &objects[0].json()).unwrap();
        assert_eq!(shown.revision, 4);
        assert_eq!(&shown.bytes[..], br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}"#);
    }
}
