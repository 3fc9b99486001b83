//! What the cluster asks of a store: etcd's semantics over opaque bytes. Implemented in `io/store` by the embedded
//! engine and by a client of a real etcd; one suite runs on both.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

/// A store-wide counter; every committed transaction that writes takes the next one. 0 is before everything.
pub type Revision = u64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    /// Writes since creation, counted from 1.
    pub version: u64,
}

/// Keys in `[start, end)`.
#[derive(Clone, Debug)]
pub struct RangeRequest {
    pub start: Bytes,
    /// Exclusive; empty means the single key `start`.
    pub end: Bytes,
    /// As of this revision; `None` is the newest, linearizable.
    pub at: Option<Revision>,
    /// 0 is no limit.
    pub limit: usize,
    pub detail: Detail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    Full,
    KeysOnly,
    CountOnly,
}

#[derive(Clone, Debug)]
pub struct RangeResponse {
    pub items: Vec<KeyValue>,
    /// Keys in the range, the limit left aside.
    pub count: u64,
    /// Whether the limit cut something off.
    pub more: bool,
    /// The store's revision when it answered.
    pub revision: Revision,
}

/// All compares hold, then all of `then` is applied as one revision; otherwise nothing is.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub then: Vec<Op>,
    pub durability: Durability,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    pub key: Bytes,
    /// The key's mod revision; 0 where it must not exist.
    pub mod_revision: Revision,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// `lease_seconds` > 0 lets the key vanish that long after this write.
    Put {
        key: Bytes,
        value: Bytes,
        lease_seconds: u64,
    },
    Delete {
        key: Bytes,
    },
}

/// Whether watches can be asked how far they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Requested,
    /// The store cannot be asked: whoever must read the newest reads the store itself.
    Unsupported,
}

/// When a write counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// On disk before it is acknowledged.
    #[default]
    Synced,
    /// May share a later sync, at most a minute away: renewals of node leases, nothing else.
    Relaxed,
}

#[derive(Clone, Debug)]
pub enum TxnResponse {
    Done {
        revision: Revision,
    },
    /// The first compare that failed, and what stands at its key.
    Refused {
        key: Bytes,
        current: Option<KeyValue>,
        revision: Revision,
    },
}

#[derive(Clone, Debug)]
pub enum StoreEvent {
    /// `previous` is absent when the key is new.
    Put {
        current: KeyValue,
        previous: Option<KeyValue>,
    },
    Delete {
        key: Bytes,
        revision: Revision,
        previous: Option<KeyValue>,
    },
}

/// Events of consecutive revisions up to and including `revision`; without events it only tells progress.
#[derive(Clone, Debug)]
pub struct WatchBatch {
    pub events: Vec<StoreEvent>,
    pub revision: Revision,
}

pub type WatchStream = BoxStream<'static, Result<WatchBatch, StoreError>>;

#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("revision {asked} has been compacted, the oldest kept is {oldest}")]
    Compacted { asked: Revision, oldest: Revision },
    #[error("revision {asked} is in the future, the newest is {newest}")]
    Future { asked: Revision, newest: Revision },
    #[error("the store's disk is full")]
    Full,
    #[error("a watcher was too slow and has been dropped")]
    Slow,
    #[error("the store is closed")]
    Closed,
    #[error("store unavailable: {0}")]
    Unavailable(String),
}

#[async_trait]
pub trait Store: Send + Sync + 'static {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError>;

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError>;

    /// Every change of keys in `[start, end)` from revision `from` on, with progress told when there is none.
    async fn watch(&self, start: Bytes, end: Bytes, from: Revision) -> Result<WatchStream, StoreError>;

    /// Forgets history before `revision`.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// The newest revision, confirmed with a quorum where there is one.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// The newest revision where that is known here and now, without asking anybody.
    fn newest(&self) -> Option<Revision> {
        None
    }

    /// Asks that every open watch soon tells a revision no older than the newest now.
    async fn request_progress(&self) -> Result<Progress, StoreError>;
}
