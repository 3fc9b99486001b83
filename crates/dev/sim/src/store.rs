//! A store in memory, for one thread: etcd's semantics on the index that the embedded store uses, without disk, tasks
//! and time. Leases do not expire, since no simulation lives long enough to miss an event's end.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_cache::store::{
    Detail, KeyValue, Op, Progress, RangeRequest, RangeResponse, Revision, Store, StoreError, StoreEvent, Txn,
    TxnResponse, WatchBatch, WatchStream,
};
use coracle_mvcc::{Change, Compare, Displaced, Index, Span, Version};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::mpsc;

#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    index: Index<Bytes>,
    watchers: Vec<Watcher>,
}

struct Watcher {
    start: Bytes,
    end: Bytes,
    batches: mpsc::UnboundedSender<WatchBatch>,
}

impl MemoryStore {
    /// Another store that holds the same and goes its own way from now on.
    pub fn fork(&self) -> Arc<MemoryStore> {
        let index = self.state.lock().index.clone();
        Arc::new(MemoryStore { state: Mutex::new(State { index, watchers: Vec::new() }) })
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let state = self.state.lock();
        let revision = state.index.revision();
        let at = request.at.unwrap_or(revision);
        let span = Span { start: &request.start, end: &request.end };
        let found = state.index.range(span, at).map_err(|_| StoreError::Future { asked: at, newest: revision })?;
        let all: Vec<KeyValue> = found.filter_map(|(key, version)| key_value(key, version)).collect();
        let count = all.len() as u64;
        let wanted = match (request.detail, request.limit) {
            (Detail::CountOnly, _) => 0,
            (_, 0) => all.len(),
            (_, limit) => limit,
        };
        let more = request.limit > 0 && all.len() > request.limit;
        Ok(RangeResponse { items: all.into_iter().take(wanted).collect(), count, more, revision })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        let mut state = self.state.lock();
        let compares: Vec<Compare> = txn
            .compares
            .into_iter()
            .map(|compare| Compare { key: compare.key, mod_revision: compare.mod_revision })
            .collect();
        if let Err(failed) = state.index.check(&compares) {
            let current = state.index.current(&failed.key).and_then(|version| key_value(&failed.key, version));
            return Ok(TxnResponse::Refused { key: failed.key.clone(), current, revision: state.index.revision() });
        }
        let changes = txn.then.into_iter().map(|op| match op {
            Op::Put { key, value, .. } => Change::Put { key, value, expires_at: 0 },
            Op::Delete { key } => Change::Delete { key },
        });
        let events: Vec<StoreEvent> = state.index.apply(changes).into_iter().map(event).collect();
        let revision = state.index.revision();
        state.watchers.retain(|watcher| {
            let span = Span { start: &watcher.start, end: &watcher.end };
            let wanted: Vec<_> = events.iter().filter(|event| span.contains(key_of(event))).cloned().collect();
            wanted.is_empty() || watcher.batches.send(WatchBatch { events: wanted, revision }).is_ok()
        });
        Ok(TxnResponse::Done { revision })
    }

    async fn watch(&self, start: Bytes, end: Bytes, from: Revision) -> Result<WatchStream, StoreError> {
        let mut state = self.state.lock();
        let revision = state.index.revision();
        let span = Span { start: &start, end: &end };
        let past = state.index.changes(span, from, revision);
        let past = past.map_err(|_| StoreError::Future { asked: from, newest: revision })?;
        let (batches, receiver) = mpsc::unbounded_channel();
        let first = WatchBatch { events: past.into_iter().map(event).collect(), revision };
        let _ = batches.send(first);
        state.watchers.push(Watcher { start, end, batches });
        let batches =
            stream::unfold(
                receiver,
                |mut receiver| async move { receiver.recv().await.map(|batch| (Ok(batch), receiver)) },
            );
        Ok(batches.boxed())
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.state.lock().index.compact(revision);
        Ok(())
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.state.lock().index.revision())
    }

    fn newest(&self) -> Option<Revision> {
        Some(self.state.lock().index.revision())
    }

    async fn request_progress(&self) -> Result<Progress, StoreError> {
        let mut state = self.state.lock();
        let revision = state.index.revision();
        state.watchers.retain(|watcher| watcher.batches.send(WatchBatch { events: Vec::new(), revision }).is_ok());
        Ok(Progress::Requested)
    }
}

fn key_value(key: &Bytes, version: &Version<Bytes>) -> Option<KeyValue> {
    Some(KeyValue {
        key: key.clone(),
        value: version.value.clone()?,
        create_revision: version.create_revision,
        mod_revision: version.mod_revision,
        version: version.version,
    })
}

fn event(change: Displaced<Bytes>) -> StoreEvent {
    let previous = change.previous.as_ref().and_then(|version| key_value(&change.key, version));
    match key_value(&change.key, &change.current) {
        Some(current) => StoreEvent::Put { current, previous },
        None => StoreEvent::Delete { revision: change.current.mod_revision, key: change.key, previous },
    }
}

fn key_of(event: &StoreEvent) -> &[u8] {
    match event {
        StoreEvent::Put { current, .. } => &current.key,
        StoreEvent::Delete { key, .. } => key,
    }
}
