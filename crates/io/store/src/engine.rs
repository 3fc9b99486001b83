//! The embedded store: a thread that owns the ledger, readers beside it, and watchers that it tells what became
//! durable.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_cache::store::{
    Detail, KeyValue, Progress, RangeRequest, RangeResponse, Revision, Store, StoreError, Txn, TxnResponse, WatchStream,
};
use coracle_mvcc::{OutOfRange, Span, Version};
use coracle_rt::{Clock, Dice, Scope};
use tokio::sync::{Semaphore, oneshot};

use crate::disk::{Disk, Folder, Syncing, Unlinked};
use crate::error::OpenError;
use crate::ledger::Ledger;
use crate::slots::{Shared, Slot, key_value};
use crate::watchers::Watchers;
use crate::writer::{Command, Writer};

/// Writes waiting for the log's thread.
const WAITING_MAX: usize = 4096;

pub struct Engine {
    shared: Arc<Shared>,
    watchers: Arc<Watchers>,
    commands: mpsc::Sender<Command>,
    /// Bounds `commands`.
    waiting: Semaphore,
}

impl Engine {
    /// Opens the store in a folder, which is created where it is missing. It lives until the scope ends.
    pub fn open(path: &Path, scope: Scope) -> Result<Arc<Engine>, OpenError> {
        let disk = Folder::lock(path, Syncing::Durable).map_err(|source| match source.kind() {
            std::io::ErrorKind::WouldBlock => OpenError::InUse(path.display().to_string()),
            _ => OpenError::Folder { path: path.display().to_string(), source },
        })?;
        Engine::open_on(Arc::new(disk), Clock::system(), scope)
    }

    /// A store that is gone when the process is, `kill -9` included. `path` is an existing folder for its space.
    pub fn ephemeral(path: &Path, scope: Scope) -> Result<Arc<Engine>, OpenError> {
        Engine::open_on(Arc::new(Unlinked::new(path)), Clock::system(), scope)
    }

    pub fn open_on(disk: Arc<dyn Disk>, clock: Clock, scope: Scope) -> Result<Arc<Engine>, OpenError> {
        let ledger = Ledger::open(disk, Dice::system().next_u64(), millis(&clock))?;
        let shared = ledger.shared.clone();
        let watchers = Arc::new(Watchers::new(ledger.published()));
        let (commands, received) = mpsc::channel();
        let writer = Writer::new(ledger, watchers.clone(), clock, received, commands.clone());
        let (done, ended) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("store-log".into());
        let run = move || {
            writer.run();
            drop(done);
        };
        thread.spawn(run).map_err(OpenError::Thread)?;
        let (stop, ending, closing) = (commands.clone(), scope.clone(), watchers.clone());
        scope.spawn("store-log", async move {
            let mut ended = ended;
            tokio::select! {
                () = ending.cancelled() => {
                    let _ = stop.send(Command::Stop);
                    let _ = ended.await;
                }
                _ = &mut ended => {
                    tracing::error!("the store's log thread ended");
                    ending.cancel();
                }
            }
            closing.close();
        });
        Ok(Arc::new(Engine { shared, watchers, commands, waiting: Semaphore::new(WAITING_MAX) }))
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, StoreError> {
        let _waiting = self.waiting.acquire().await.map_err(|_| StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)
    }

    fn select(&self, request: &RangeRequest) -> Result<Selection, StoreError> {
        let published = self.watchers.published();
        let at = request.at.unwrap_or(published);
        if at > published {
            return Err(StoreError::Future { asked: at, newest: published });
        }
        let index = self.shared.index.read();
        let span = Span { start: &request.start, end: &request.end };
        let mut found = index.range(span, at).map_err(out_of_range)?;
        let limit = if request.limit == 0 { usize::MAX } else { request.limit };
        let mut items = Vec::new();
        if request.detail != Detail::CountOnly {
            items.extend(found.by_ref().take(limit).map(|(key, version)| (key.clone(), version.clone())));
        }
        let count = (items.len() + found.count()) as u64;
        Ok(Selection {
            more: request.detail != Detail::CountOnly && count > items.len() as u64,
            items,
            count,
            published,
        })
    }
}

struct Selection {
    items: Vec<(Bytes, Version<Slot>)>,
    count: u64,
    more: bool,
    published: Revision,
}

#[async_trait]
impl Store for Engine {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let selection = self.select(&request)?;
        let Selection { items, count, more, published } = selection;
        let items = match request.detail {
            Detail::Full => resolve(self.shared.clone(), items).await?,
            _ => items.iter().map(|(key, version)| key_value(key, version, Bytes::new())).collect(),
        };
        Ok(RangeResponse { items, count, more, revision: published })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        self.ask(|reply| Command::Txn { txn, reply }).await?
    }

    async fn watch(&self, start: Bytes, end: Bytes, from: Revision) -> Result<WatchStream, StoreError> {
        self.watchers.open(&self.shared, start, end, from)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.ask(|reply| Command::Compact { revision, reply }).await?
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.watchers.published())
    }

    fn newest(&self) -> Option<Revision> {
        Some(self.watchers.published())
    }

    async fn request_progress(&self) -> Result<Progress, StoreError> {
        self.watchers.tell_progress();
        Ok(Progress::Requested)
    }
}

/// Entries in full; those that are history are read beside the async threads.
async fn resolve(shared: Arc<Shared>, items: Vec<(Bytes, Version<Slot>)>) -> Result<Vec<KeyValue>, StoreError> {
    let in_memory = |version: &Version<Slot>| version.value.as_ref().is_some_and(|slot| slot.bytes.is_some());
    let all_in_memory = items.iter().all(|(_, version)| in_memory(version));
    let read = move || items.iter().map(|(key, version)| shared.entry(key, version)).collect::<Result<_, _>>();
    let entries = match all_in_memory {
        true => read(),
        false => tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Closed)?,
    };
    entries.map_err(|error| StoreError::Unavailable(format!("reading history: {error}")))
}

pub(crate) fn out_of_range(error: OutOfRange) -> StoreError {
    match error {
        OutOfRange::Compacted { asked, oldest } => StoreError::Compacted { asked, oldest },
        OutOfRange::Future { asked, newest } => StoreError::Future { asked, newest },
    }
}

pub(crate) fn millis(clock: &Clock) -> u64 {
    u64::try_from(clock.now().as_millisecond()).unwrap_or(0)
}
