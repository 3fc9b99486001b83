//! Watchers of the embedded store. Each has a bounded queue; one that does not keep up is dropped and begins anew from
//! history.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use coracle_cache::store::{Revision, StoreError, StoreEvent, WatchBatch, WatchStream};
use coracle_mvcc::{Displaced, Span};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::engine::out_of_range;
use crate::slots::{Shared, Slot};

const QUEUE_BATCHES_MAX: usize = 1024;

pub struct Watchers {
    /// What readers may see. Moves under the lock of `open`, so that no event is missed or told twice.
    published: AtomicU64,
    open: Mutex<Vec<Watcher>>,
    closed: Arc<AtomicBool>,
}

struct Watcher {
    start: Bytes,
    end: Bytes,
    /// Earlier events are not asked for.
    from: Revision,
    told: Revision,
    queue: mpsc::Sender<WatchBatch>,
}

impl Watchers {
    pub fn new(published: Revision) -> Watchers {
        Watchers { published: AtomicU64::new(published), open: Mutex::default(), closed: Arc::default() }
    }

    pub fn published(&self) -> Revision {
        self.published.load(Ordering::Acquire)
    }

    /// Shows a revision to readers and tells watchers what happened up to it.
    pub fn publish(&self, events: &[StoreEvent], revision: Revision) {
        let mut open = self.open.lock();
        self.published.store(revision, Ordering::Release);
        open.retain_mut(|watcher| {
            let wanted: Vec<_> = events.iter().filter(|event| watcher.wants(event)).cloned().collect();
            wanted.is_empty() || watcher.tell(wanted, revision)
        });
    }

    /// Tells every watcher how far everything is.
    pub fn tell_progress(&self) {
        let mut open = self.open.lock();
        let revision = self.published();
        open.retain_mut(|watcher| watcher.told >= revision || watcher.tell(Vec::new(), revision));
    }

    /// Ends every watch.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.open.lock().clear();
    }

    pub fn open(
        &self,
        shared: &Arc<Shared>,
        start: Bytes,
        end: Bytes,
        from: Revision,
    ) -> Result<WatchStream, StoreError> {
        let mut open = self.open.lock();
        let revision = self.published();
        let span = Span { start: &start, end: &end };
        let past = shared.index.read().changes(span, from, revision).map_err(out_of_range)?;
        let (queue, received) = mpsc::channel(QUEUE_BATCHES_MAX);
        open.push(Watcher { start, end, from, told: revision, queue });
        drop(open);
        let closed = self.closed.clone();
        let live = stream::unfold(Some(received), move |received| {
            let closed = closed.clone();
            async move {
                let mut received = received?;
                match received.recv().await {
                    Some(batch) => Some((Ok(batch), Some(received))),
                    None if closed.load(Ordering::Acquire) => Some((Err(StoreError::Closed), None)),
                    None => Some((Err(StoreError::Slow), None)),
                }
            }
        });
        Ok(stream::once(history(shared.clone(), past, revision)).chain(live).boxed())
    }
}

impl Watcher {
    fn wants(&self, event: &StoreEvent) -> bool {
        let (key, revision) = match event {
            StoreEvent::Put { current, .. } => (&current.key, current.mod_revision),
            StoreEvent::Delete { key, revision, .. } => (key, *revision),
        };
        revision >= self.from && Span { start: &self.start, end: &self.end }.contains(key)
    }

    /// False where the watcher is gone or its queue is full.
    fn tell(&mut self, events: Vec<StoreEvent>, revision: Revision) -> bool {
        self.told = revision;
        self.queue.try_send(WatchBatch { events, revision }).is_ok()
    }
}

/// What happened before the watch was opened, or that nothing did.
async fn history(
    shared: Arc<Shared>,
    past: Vec<Displaced<Slot>>,
    revision: Revision,
) -> Result<WatchBatch, StoreError> {
    if past.is_empty() {
        return Ok(WatchBatch { events: Vec::new(), revision });
    }
    let read = move || past.iter().map(|change| event(&shared, change)).collect::<Result<Vec<_>, _>>();
    let events = tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Closed)?;
    let events = events.map_err(|error| StoreError::Unavailable(format!("reading history: {error}")))?;
    Ok(WatchBatch { events, revision })
}

fn event(shared: &Shared, change: &Displaced<Slot>) -> std::io::Result<StoreEvent> {
    let key = &change.key;
    let previous = change.previous.as_ref().map(|version| shared.entry(key, version)).transpose()?;
    Ok(match change.current.value {
        Some(_) => StoreEvent::Put { current: shared.entry(key, &change.current)?, previous },
        None => StoreEvent::Delete { key: key.clone(), revision: change.current.mod_revision, previous },
    })
}
