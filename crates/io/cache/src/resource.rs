//! One cached resource: its objects, its readers and its watchers.

use std::sync::Arc;

use coracle_meta::object::ObjectError;
use coracle_meta::{Object, Resource};
use coracle_reconcile::{Change, Sink};
use futures_util::StreamExt;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::codec::{Codec, CodecError};
use crate::keys::{Prefix, end_of, path};
use crate::state::State;
use crate::store::{Detail, KeyValue, Progress, RangeRequest, Revision, Store, StoreError, StoreEvent};
use crate::watch::{CacheEvent, EventKind, Gone, WatchFrom, Watcher};

/// What a watch may catch up with from history; one further behind lists again.
const HISTORY_EVENTS_MAX: usize = 50_000;

#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error("object at {key}")]
    Object {
        key: String,
        #[source]
        source: ObjectError,
    },
}

/// A part of a list, in the order of keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListQuery<'a> {
    pub namespace: Option<&'a str>,
    /// Begin behind this path, the `next` of the page before.
    pub after: Option<&'a str>,
    /// 0 is no limit.
    pub limit: usize,
}

#[derive(Clone, Debug)]
pub struct Page {
    pub items: Vec<Arc<Object>>,
    /// What the list shows; later pages are asked for at this revision.
    pub revision: Revision,
    /// Objects behind this page.
    pub remaining: u64,
    /// Where the next page begins, when there is one.
    pub next: Option<String>,
}

pub struct ResourceCache {
    pub resource: Resource,
    pub prefix: Prefix,
    pub(crate) state: RwLock<State>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) codec: Arc<dyn Codec>,
    /// Follows `state.revision`, for those who wait.
    pub(crate) told: watch::Sender<Revision>,
    /// Held while a change is applied and told, so that a new sink sees each change exactly once.
    pub(crate) sinks: Mutex<Vec<Sink>>,
}

impl ResourceCache {
    pub(crate) fn new(
        resource: &Resource,
        prefix: Prefix,
        store: Arc<dyn Store>,
        codec: Arc<dyn Codec>,
    ) -> Arc<ResourceCache> {
        let state = RwLock::new(State::new(resource));
        let resource = resource.clone();
        let (told, _) = watch::channel(0);
        Arc::new(ResourceCache { resource, prefix, state, store, codec, told, sinks: Mutex::default() })
    }

    /// The object as this cache has it now.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.state.read().objects.get(path(namespace, name).as_str()).cloned()
    }

    /// All objects, or those of one namespace, in the order of keys.
    pub fn list(&self, namespace: Option<&str>) -> (Vec<Arc<Object>>, Revision) {
        let state = self.state.read();
        (state.page(namespace.filter(|name| !name.is_empty()), None, 0).0, state.revision)
    }

    /// A part of the list as this cache has it now.
    pub fn list_page(&self, query: ListQuery<'_>) -> Page {
        let state = self.state.read();
        let (items, remaining) = state.page(query.namespace.filter(|name| !name.is_empty()), query.after, query.limit);
        page(items, remaining, state.revision)
    }

    /// A part of the list as of `revision`: from here when nothing changed since, else from the store's history.
    pub async fn list_at(&self, revision: Revision, query: ListQuery<'_>) -> Result<Page, CacheError> {
        {
            let state = self.state.read();
            if state.last_change <= revision && revision <= state.revision {
                drop(state);
                let page = self.list_page(query);
                return Ok(Page { revision, ..page });
            }
        }
        self.list_stored(Some(revision), query).await
    }

    /// Fails where the store has forgotten what stood at `revision`. Lists from here would still show it as long as
    /// nothing changed; what clients are told must not hang on that.
    pub async fn check_kept(&self, revision: Revision) -> Result<(), CacheError> {
        let (start, end) = (self.prefix.start(), Default::default());
        let request = RangeRequest { start, end, at: Some(revision), limit: 1, detail: Detail::CountOnly };
        self.store.range(request).await?;
        Ok(())
    }

    /// A part of the list as of every write acknowledged before the call.
    pub async fn list_fresh(&self, query: ListQuery<'_>) -> Result<Page, CacheError> {
        match self.sync().await? {
            Some(_) => Ok(self.list_page(query)),
            None => self.list_stored(None, query).await,
        }
    }

    /// The object as of every write acknowledged before the call. Parsed only where this cache has another version.
    pub async fn get_fresh(&self, namespace: &str, name: &str) -> Result<Option<Arc<Object>>, CacheError> {
        if self.store.newest().is_some_and(|newest| newest <= self.revision()) {
            return Ok(self.get(namespace, name));
        }
        let start = self.prefix.key(namespace, name);
        let request = RangeRequest { start, end: Default::default(), at: None, limit: 1, detail: Detail::Full };
        let found = self.store.range(request).await?.items.into_iter().next();
        found.map(|entry| self.object_of(&entry)).transpose()
    }

    /// The object as new as it is to be had without asking another machine: whoever does not mind its age may all the
    /// same have changed it a moment ago.
    pub async fn get_near(&self, namespace: &str, name: &str) -> Result<Option<Arc<Object>>, CacheError> {
        match self.store.newest() {
            Some(_) => self.get_fresh(namespace, name).await,
            None => Ok(self.get(namespace, name)),
        }
    }

    /// The newest revision of which this cache has seen every change; 0 before the first list.
    pub fn revision(&self) -> Revision {
        self.state.read().revision
    }

    /// Until the first list is in.
    pub async fn wait_synced(&self) {
        self.wait_until(1).await;
    }

    /// Until every change up to `revision` is in. Ends only when that is so: callers put a time limit on it.
    pub async fn wait_until(&self, revision: Revision) {
        let mut told = self.told.subscribe();
        // The sender lives as long as `self`.
        let _ = told.wait_for(|reached| *reached >= revision).await;
    }

    /// Until every write acknowledged before the call is in; the revision reached. `None` where the store cannot be
    /// asked how far its watches are, and a consistent read has to go there.
    pub async fn sync(&self) -> Result<Option<Revision>, StoreError> {
        let newest = self.store.revision().await?;
        if self.revision() < newest {
            if self.store.request_progress().await? == Progress::Unsupported {
                return Ok(None);
            }
            self.wait_until(newest).await;
        }
        Ok(Some(newest))
    }

    /// How many watch now, those who wait for a revision among them.
    pub fn watchers(&self) -> usize {
        self.told.receiver_count()
    }

    /// As `watch`, and where the window no longer reaches back so far, from the store's history.
    pub async fn watch_kept(self: &Arc<Self>, from: WatchFrom, namespace: Option<&str>) -> Result<Watcher, Gone> {
        match (self.watch(from, namespace), from) {
            (Err(gone), WatchFrom::Revision(asked)) if asked > 0 => self.watch_past(gone, namespace).await,
            (watcher, _) => watcher,
        }
    }

    /// Catches up from the store's history to where the window takes over.
    async fn watch_past(self: &Arc<Self>, gone: Gone, namespace: Option<&str>) -> Result<Watcher, Gone> {
        let from = gone.asked + 1;
        let history = self.store.watch(self.prefix.start(), self.prefix.end(), from).await;
        let mut history = history.map_err(|_| gone)?;
        let mut past = Vec::new();
        while let Some(Ok(batch)) = history.next().await {
            past.extend(batch.events.iter().filter_map(|event| self.event_of(event)));
            if past.len() > HISTORY_EVENTS_MAX {
                return Err(gone);
            }
            if let Ok(mut watcher) = self.watch(WatchFrom::Revision(batch.revision), namespace) {
                watcher.begin_with_events(past);
                return Ok(watcher);
            }
        }
        Err(gone)
    }

    fn event_of(&self, event: &StoreEvent) -> Option<CacheEvent> {
        let decode = |entry: &KeyValue| self.object_of(entry).ok();
        match event {
            StoreEvent::Put { current, previous } => {
                let previous = previous.as_ref().and_then(decode);
                let kind = if previous.is_some() { EventKind::Modified } else { EventKind::Added };
                Some(CacheEvent { kind, object: decode(current)?, previous, revision: current.mod_revision })
            }
            StoreEvent::Delete { revision, previous, .. } => {
                let previous = decode(previous.as_ref()?)?;
                let object = Arc::new(previous.at(*revision));
                Some(CacheEvent { kind: EventKind::Deleted, object, previous: Some(previous), revision: *revision })
            }
        }
    }

    /// Follows the changes, of one namespace or of all.
    pub fn watch(self: &Arc<Self>, from: WatchFrom, namespace: Option<&str>) -> Result<Watcher, Gone> {
        let namespace = namespace.filter(|name| !name.is_empty());
        let told = self.told.subscribe();
        let state = self.state.read();
        let window = &state.window;
        let (position, seen) = match from {
            WatchFrom::Now | WatchFrom::Initial => (window.next(), state.revision),
            WatchFrom::Revision(asked) => {
                let gone = Gone { asked, oldest: window.floor };
                (window.position_after(asked).ok_or(gone)?, asked)
            }
        };
        let mut watcher = Watcher::new(self.clone(), namespace, told, position, seen);
        if from == WatchFrom::Initial {
            watcher.begin_with(state.page(namespace, None, 0).0);
        }
        Ok(watcher)
    }

    /// Tells a sink what is there, as additions, and from then on every change in order.
    pub fn subscribe(&self, sink: Sink) {
        let mut sinks = self.sinks.lock();
        for object in self.list(None).0 {
            sink(&self.resource, &Change { old: None, new: Some(object) });
        }
        sinks.push(sink);
    }

    async fn list_stored(&self, at: Option<Revision>, query: ListQuery<'_>) -> Result<Page, CacheError> {
        let below = match query.namespace {
            None | Some("") => self.prefix.as_str().to_owned(),
            Some(namespace) => format!("{}{namespace}/", self.prefix.as_str()),
        };
        let start = match query.after {
            // The least key behind another.
            Some(after) => format!("{}{after}\0", self.prefix.as_str()),
            None => below.clone(),
        };
        let end = end_of(below.as_bytes());
        let request = RangeRequest { start: start.into(), end, at, limit: query.limit, detail: Detail::Full };
        let answer = self.store.range(request).await?;
        let items = answer.items.iter().map(|entry| self.object_of(entry)).collect::<Result<Vec<_>, _>>()?;
        let remaining = answer.count - items.len() as u64;
        Ok(page(items, remaining, at.unwrap_or(answer.revision)))
    }

    /// What the store holds as an object: this cache's own where it is the same version.
    pub(crate) fn object_of(&self, entry: &KeyValue) -> Result<Arc<Object>, CacheError> {
        let known = self.prefix.path_of(&entry.key).and_then(|path| self.state.read().objects.get(path).cloned());
        match known {
            Some(known) if known.revision == entry.mod_revision => Ok(known),
            _ => self.decode(entry),
        }
    }

    pub(crate) fn decode(&self, entry: &KeyValue) -> Result<Arc<Object>, CacheError> {
        let json = self.codec.decode(&entry.key, entry.value.clone())?;
        let key = || String::from_utf8_lossy(&entry.key).into_owned();
        let object = Object::new(json, entry.mod_revision);
        Ok(Arc::new(object.map_err(|source| CacheError::Object { key: key(), source })?))
    }
}

fn page(items: Vec<Arc<Object>>, remaining: u64, revision: Revision) -> Page {
    let next = items.last().filter(|_| remaining > 0).map(|last| path(&last.meta.namespace, &last.meta.name));
    Page { items, revision, remaining, next }
}
