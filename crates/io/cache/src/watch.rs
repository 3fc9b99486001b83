//! Watching a cached resource. Watchers read the resource's window of events, which all of them share: a slow one
//! costs no memory, it falls out of the window and is told that its place is gone.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use coracle_meta::Object;
use futures_util::Stream;
use tokio::sync::watch;

use crate::resource::ResourceCache;
use crate::store::Revision;

const BATCH_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
    /// Everything up to `revision` has been told. The object is empty but for its revision.
    Bookmark,
}

/// One change. A deleted object stands in its last state, under the revision of its deletion.
#[derive(Clone, Debug)]
pub struct CacheEvent {
    pub kind: EventKind,
    pub object: Arc<Object>,
    /// The object before the change, for selectors that it may have left or entered.
    pub previous: Option<Arc<Object>>,
    pub revision: Revision,
}

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFrom {
    /// With the next change.
    Now,
    /// With the first change after this revision.
    Revision(Revision),
    /// With what is there, told as additions and closed by one bookmark, then every change (`sendInitialEvents`).
    Initial,
}

/// The place a watch asked for, or stood at, is no longer kept: the API's 410, the client lists again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {asked} ({oldest})")]
pub struct Gone {
    pub asked: Revision,
    pub oldest: Revision,
}

/// A stream of one resource's changes, at most bounded by the window it reads from.
pub struct Watcher {
    resource: Arc<ResourceCache>,
    namespace: Option<String>,
    told: watch::Receiver<Revision>,
    ready: VecDeque<Arc<CacheEvent>>,
    /// The next event to read from the window.
    position: u64,
    /// Events up to this revision are not asked for; this cache may have yet to reach it.
    after: Revision,
    /// Up to where everything was taken over from the window.
    seen: Revision,
}

impl Watcher {
    pub(crate) fn new(
        resource: Arc<ResourceCache>,
        namespace: Option<&str>,
        told: watch::Receiver<Revision>,
        position: u64,
        seen: Revision,
    ) -> Watcher {
        let namespace = namespace.filter(|namespace| !namespace.is_empty()).map(str::to_owned);
        Watcher { resource, namespace, told, ready: VecDeque::new(), position, after: seen, seen }
    }

    pub(crate) fn begin_with(&mut self, objects: Vec<Arc<Object>>) {
        let added = |object: Arc<Object>| {
            let revision = object.revision;
            Arc::new(CacheEvent { kind: EventKind::Added, object, previous: None, revision })
        };
        self.ready = objects.into_iter().map(added).collect();
        self.ready.push_back(Arc::new(bookmark(self.seen)));
    }

    pub(crate) fn begin_with_events(&mut self, events: Vec<CacheEvent>) {
        let namespace = self.namespace.as_ref();
        let inside = |event: &CacheEvent| namespace.is_none_or(|wanted| event.object.meta.namespace == *wanted);
        self.ready = events.into_iter().filter(inside).map(Arc::new).collect();
    }

    /// The next event. Safe to drop while waiting: no event is lost.
    pub async fn next(&mut self) -> Result<Arc<CacheEvent>, Gone> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            self.told.borrow_and_update();
            self.fill()?;
            if self.ready.is_empty() && self.told.changed().await.is_err() {
                return Err(Gone { asked: self.seen, oldest: self.seen });
            }
        }
    }

    /// What is there without waiting, at most a few hundred events: for frames of many events at once.
    pub fn ready(&mut self) -> Result<Vec<Arc<CacheEvent>>, Gone> {
        if self.ready.is_empty() {
            self.fill()?;
        }
        let count = self.ready.len().min(BATCH_MAX);
        Ok(self.ready.drain(..count).collect())
    }

    /// A bookmark for the place this watcher has reached; `None` while events wait to be taken.
    pub fn bookmark(&self) -> Option<CacheEvent> {
        self.ready.is_empty().then(|| bookmark(self.seen))
    }

    /// The same as a stream, which ends after the first error.
    pub fn into_stream(self) -> impl Stream<Item = Result<Arc<CacheEvent>, Gone>> + Send {
        futures_util::stream::unfold(Some(self), |watcher| async move {
            let mut watcher = watcher?;
            match watcher.next().await {
                Ok(event) => Some((Ok(event), Some(watcher))),
                Err(gone) => Some((Err(gone), None)),
            }
        })
    }

    /// Takes the next events over from the window, those of other namespaces left out.
    fn fill(&mut self) -> Result<(), Gone> {
        let state = self.resource.state.read();
        let gone = Gone { asked: self.seen, oldest: state.window.floor };
        let mut taken = 0;
        for event in state.window.from(self.position).ok_or(gone)?.take(BATCH_MAX) {
            taken += 1;
            let inside = self.namespace.as_ref().is_none_or(|wanted| event.object.meta.namespace == *wanted);
            if event.revision > self.after && inside {
                self.ready.push_back(event.clone());
            }
        }
        self.position += taken;
        if self.position == state.window.next() {
            self.seen = self.seen.max(state.revision);
        }
        Ok(())
    }
}

pub(crate) fn bookmark(revision: Revision) -> CacheEvent {
    let bytes = Bytes::from_static(br#"{"metadata":{}}"#);
    let object = Object::new(bytes, revision).expect("the empty object has metadata");
    CacheEvent { kind: EventKind::Bookmark, object: Arc::new(object), previous: None, revision }
}
