//! The embedded store without its thread: transactions in, one frame out, and only what the frame made durable is
//! shown. Everything it does follows from its disk and the times it is given.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use coracle_cache::store::{Durability, Op, Revision, StoreError, StoreEvent, Txn, TxnResponse};
use coracle_mvcc::{Change, Compare, Displaced, Index, Version};

use crate::disk::Disk;
use crate::error::OpenError;
use crate::frame::Record;
use crate::log::{Frame, Log, Place, numbers, segment_name};
use crate::slots::{Shared, Slot, key_value, settle};
use crate::snapshot::{Snapshot, snapshot_name};

/// How long relaxed writes may wait for a sync.
pub const RELAXED_MILLIS_MAX: u64 = 50_000;
/// How long history stays readable at least.
pub const HISTORY_MILLIS: u64 = 5 * 60_000;
const MARK_MILLIS: u64 = 15_000;
/// Relaxed revisions that may be shown before a frame reserves more.
const CEILING_STEP: u64 = 4096;
const SNAPSHOT_BYTES_MIN: u64 = 64 << 20;
const EXPIRED_PER_COMMIT_MAX: usize = 512;

pub struct Ledger {
    pub shared: Arc<Shared>,
    log: Log,
    /// Written in memory, not yet on disk.
    relaxed: Staged,
    relaxed_since: Option<u64>,
    /// What readers may see.
    published: Revision,
    /// No revision above it has been shown, according to the disk.
    ceiling: Revision,
    snapshots: Vec<Snapshot>,
    bytes_since_snapshot: u64,
    /// Revisions and when they were the newest, for compaction by age.
    marks: VecDeque<(u64, Revision)>,
}

/// Writes on their way to the disk.
#[derive(Default)]
struct Staged {
    records: Vec<u8>,
    written: Vec<Written>,
    synced: bool,
}

struct Written {
    key: Bytes,
    revision: Revision,
    /// Of the value in `records`.
    offset: usize,
    len: usize,
    /// The version that it displaced.
    previous: Option<Revision>,
}

/// What came of a batch.
pub struct Committed {
    pub answers: Vec<Result<TxnResponse, StoreError>>,
    pub events: Vec<StoreEvent>,
    pub revision: Revision,
}

impl Ledger {
    /// Recovers what the disk holds; `id` names the log where there is none yet.
    pub fn open(disk: Arc<dyn Disk>, id: u64, now: u64) -> Result<Ledger, OpenError> {
        let names = disk.list().map_err(OpenError::read("."))?;
        for draft in names.iter().filter(|name| name.ends_with(".tmp")) {
            disk.remove(draft).map_err(OpenError::write(draft))?;
        }
        let base = choose_snapshot(disk.as_ref(), &names, now)?;
        let mut index = base.map_or_else(|| Ok(Index::new(0)), |base| base.load(disk.as_ref()))?;
        // Frames that a snapshot made needless reserved no more than this.
        let reserved = base.map_or(1, |base| base.revision + CEILING_STEP);
        let (mut ceiling, mut bytes) = (reserved, 0);
        let known_until = base.map_or(1, |base| base.sequence);
        let segments = numbers(&names, ".log");
        let found = Log::recover(disk.clone(), segments, known_until, &mut |frame| {
            ceiling = ceiling.max(frame.ceiling);
            bytes += replay(&mut index, frame);
            Ok(())
        })?;
        let mut log = match (found, base) {
            (Some(log), _) => log,
            (None, None) => Log::create(disk.clone(), id, 1)?,
            (None, Some(base)) => return Err(OpenError::Missing { file: segment_name(base.number + 1) }),
        };
        log.next_file = log.next_file.max(base.map_or(0, |base| base.number + 1));
        index.leap(ceiling);
        Ok(Ledger {
            shared: Arc::new(Shared::new(index, disk)),
            log,
            relaxed: Staged::default(),
            relaxed_since: None,
            published: ceiling,
            ceiling,
            snapshots: base.into_iter().collect(),
            bytes_since_snapshot: bytes,
            marks: VecDeque::new(),
        })
    }

    pub fn published(&self) -> Revision {
        self.published
    }

    /// Carries out transactions in order. When it returns, what it answers for is on disk, or relaxed.
    pub fn commit(&mut self, batch: &[Txn], now: u64) -> Committed {
        let mut staged = Staged::default();
        let mut events = Vec::new();
        let mut answers: Vec<_> = batch.iter().map(|txn| self.stage(txn, now, &mut staged, &mut events)).collect();
        if let Err(error) = self.keep(&mut staged, now) {
            let keys = staged.written.iter().map(|written| &written.key);
            self.shared.index.write().rollback(self.published, keys);
            answers = batch.iter().map(|_| Err(error.clone())).collect();
            events.clear();
        }
        self.published = self.shared.index.read().revision();
        Committed { answers, events, revision: self.published }
    }

    /// Removes keys whose time is up.
    pub fn expire(&mut self, now: u64) -> Option<Committed> {
        let keys = self.shared.index.read().expired(now, EXPIRED_PER_COMMIT_MAX);
        let then: Vec<_> = keys.into_iter().map(|key| Op::Delete { key }).collect();
        (!then.is_empty()).then(|| self.commit(&[Txn { then, ..Txn::default() }], now))
    }

    /// Makes relaxed writes durable.
    pub fn flush(&mut self, now: u64) -> Result<(), StoreError> {
        if self.relaxed.written.is_empty() {
            return Ok(());
        }
        self.write(Staged::default()).map_err(|(error, _)| {
            self.relaxed_since = Some(now);
            error
        })
    }

    /// Does what is due; `None` where nothing is to be told.
    pub fn meet_deadlines(&mut self, now: u64) -> Option<Committed> {
        if self.relaxed_since.is_some_and(|since| since + RELAXED_MILLIS_MAX <= now)
            && let Err(error) = self.flush(now)
        {
            tracing::error!(%error, "relaxed writes are not durable yet");
        }
        self.expire(now)
    }

    /// When `flush` or `expire` have something to do.
    pub fn next_deadline(&self) -> Option<u64> {
        let flush = self.relaxed_since.map(|since| since + RELAXED_MILLIS_MAX);
        flush.into_iter().chain(self.shared.index.read().next_expiry()).min()
    }

    pub fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        if revision > self.published {
            return Err(StoreError::Future { asked: revision, newest: self.published });
        }
        let mut index = self.shared.index.write();
        if revision < index.compacted() {
            return Err(StoreError::Compacted { asked: revision, oldest: index.compacted() });
        }
        index.compact(revision);
        Ok(())
    }

    /// Forgets history by its age, and files that only such history needs.
    pub fn tidy(&mut self, now: u64) {
        if self.marks.back().is_none_or(|(at, revision)| now >= at + MARK_MILLIS && *revision < self.published) {
            self.marks.push_back((now, self.published));
        }
        let mut old = None;
        while self.marks.front().is_some_and(|(at, _)| at + HISTORY_MILLIS <= now) {
            old = self.marks.pop_front();
        }
        if let Some((_, revision)) = old {
            self.shared.index.write().compact(revision);
        }
        while self.snapshots.get(1).is_some_and(|next| next.written_at + HISTORY_MILLIS <= now) {
            if let Err(error) = self.drop_oldest_snapshot() {
                tracing::warn!(%error, "removing an old snapshot failed");
                return;
            }
        }
        // The first snapshot frees what lies before it just as later ones do.
        if self.snapshots.len() == 1 && self.snapshots[0].written_at + HISTORY_MILLIS <= now {
            self.forget_before(self.snapshots[0].revision).unwrap_or_else(|error| {
                tracing::warn!(%error, "removing old segments failed");
            });
        }
    }

    /// The snapshot that is due, to be written by whoever asks and then handed to `adopt`.
    pub fn due_snapshot(&mut self, now: u64) -> Option<Snapshot> {
        if self.bytes_since_snapshot < SNAPSHOT_BYTES_MIN {
            return None;
        }
        Some(self.begin_snapshot(now))
    }

    pub fn begin_snapshot(&mut self, now: u64) -> Snapshot {
        self.bytes_since_snapshot = 0;
        let (number, sequence) = (self.log.take_number(), self.log.sequence());
        Snapshot { number, log_id: self.log.id(), revision: self.published, sequence, written_at: now }
    }

    /// Takes a snapshot over that has been written.
    pub fn adopt(&mut self, snapshot: Snapshot) {
        self.snapshots.push(snapshot);
    }

    fn drop_oldest_snapshot(&mut self) -> io::Result<()> {
        let oldest = self.snapshots[0];
        let revision = self.snapshots[1].revision;
        self.shared.index.write().compact(revision);
        // The snapshot goes first: without its segments it would be refused.
        match self.shared.disk.remove(&snapshot_name(oldest.number)) {
            // Removed before, and the folder's sync failed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            removed => removed?,
        }
        self.shared.disk.sync()?;
        self.shared.forget_file(oldest.number);
        self.snapshots.remove(0);
        self.forget_before(revision)
    }

    fn forget_before(&mut self, revision: Revision) -> io::Result<()> {
        if self.log.segments.len() < 2 || self.log.segments[0].last_revision > revision {
            return Ok(());
        }
        self.shared.index.write().compact(revision);
        let before: Vec<u32> = self.log.segments.iter().map(|segment| segment.number).collect();
        self.log.forget(revision)?;
        let kept = self.log.segments[0].number;
        before.into_iter().filter(|number| *number < kept).for_each(|number| self.shared.forget_file(number));
        Ok(())
    }

    /// Applies one transaction in memory.
    fn stage(
        &mut self,
        txn: &Txn,
        now: u64,
        staged: &mut Staged,
        events: &mut Vec<StoreEvent>,
    ) -> Result<TxnResponse, StoreError> {
        let mut index = self.shared.index.write();
        let compares: Vec<_> = txn.compares.iter().map(compare).collect();
        if let Err(failed) = index.check(&compares) {
            let current = index.current(&failed.key).and_then(|version| shown(&failed.key, version));
            return Ok(TxnResponse::Refused { key: failed.key.clone(), current, revision: index.revision() });
        }
        let displaced = index.apply(txn.then.iter().map(|op| change(op, now)));
        let revision = index.revision();
        drop(index);
        if !displaced.is_empty() {
            staged.synced |= txn.durability == Durability::Synced || revision > self.ceiling;
        }
        for effect in displaced {
            staged.push(&effect, revision);
            events.push(event(effect));
        }
        Ok(TxnResponse::Done { revision })
    }

    /// Makes staged writes durable, or sets them aside where they may wait.
    fn keep(&mut self, staged: &mut Staged, now: u64) -> Result<(), StoreError> {
        if staged.written.is_empty() {
            return Ok(());
        }
        if !staged.synced {
            self.relaxed_since.get_or_insert(now);
            self.relaxed.append(std::mem::take(staged));
            return Ok(());
        }
        self.write(std::mem::take(staged)).map_err(|(error, back)| {
            *staged = back;
            error
        })
    }

    /// One frame of all that waits and `staged`; on failure `staged` comes back and the rest goes on waiting.
    fn write(&mut self, staged: Staged) -> Result<(), (StoreError, Staged)> {
        let waiting = (self.relaxed.records.len(), self.relaxed.written.len());
        self.relaxed.append(staged);
        let last = self.relaxed.written.last().map_or(self.published, |written| written.revision);
        let ceiling = last + CEILING_STEP;
        match self.log.append(&self.relaxed.records, ceiling, last) {
            Ok((file, offset)) => {
                self.ceiling = ceiling;
                self.relaxed_since = None;
                self.bytes_since_snapshot += self.relaxed.records.len() as u64;
                let written = std::mem::take(&mut self.relaxed);
                self.settle(written, file, offset);
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "writing the log failed; what was not acknowledged is taken back");
                self.relaxed.records.truncate(waiting.0);
                let written = self.relaxed.written.split_off(waiting.1);
                Err((store_error(&error), Staged { written, ..Staged::default() }))
            }
        }
    }

    /// Notes where values rest now; those that are history leave memory.
    fn settle(&self, staged: Staged, file: u32, offset: u64) {
        let mut index = self.shared.index.write();
        for written in staged.written {
            let place = Place { file, offset: (offset as usize + written.offset) as u32, len: written.len as u32 };
            settle(&mut index, &written.key, written.revision, Some(place));
            if let Some(previous) = written.previous {
                settle(&mut index, &written.key, previous, None);
            }
        }
    }
}

impl Staged {
    fn push(&mut self, effect: &Displaced<Slot>, revision: Revision) {
        let key = effect.key.clone();
        let value = effect.current.value.as_ref().and_then(|slot| slot.bytes.clone());
        let len = value.as_ref().map_or(0, Bytes::len);
        let change = match value {
            Some(value) => Change::Put { key: key.clone(), value, expires_at: effect.current.expires_at },
            None => Change::Delete { key: key.clone() },
        };
        let offset = Record { revision, change }.write(&mut self.records);
        let previous = effect.previous.as_ref().map(|previous| previous.mod_revision);
        self.written.push(Written { key, revision, offset, len, previous });
    }

    fn append(&mut self, later: Staged) {
        let shift = self.records.len();
        self.records.extend_from_slice(&later.records);
        let moved = later.written.into_iter().map(|written| Written { offset: written.offset + shift, ..written });
        self.written.extend(moved);
    }
}

/// The snapshot to recover from: the newest that history can do without its elders, else the oldest, or none while the
/// log is there from its first segment on. The others go.
fn choose_snapshot(disk: &dyn Disk, names: &[String], now: u64) -> Result<Option<Snapshot>, OpenError> {
    let all = numbers(names, ".snap").into_iter().map(|number| Snapshot::peek(disk, number));
    let all = all.collect::<Result<Vec<_>, _>>()?;
    let aged = all.iter().rposition(|snapshot| snapshot.written_at + HISTORY_MILLIS <= now);
    let whole_log = numbers(names, ".log").first() == Some(&1);
    let chosen = aged.or((!whole_log).then_some(0));
    for (_, surplus) in all.iter().enumerate().filter(|(place, _)| Some(*place) != chosen) {
        let name = snapshot_name(surplus.number);
        disk.remove(&name).map_err(OpenError::write(&name))?;
        disk.sync().map_err(OpenError::write("."))?;
    }
    Ok(chosen.and_then(|place| all.get(place)).copied())
}

/// Applies a frame's records to the index; how many bytes they are.
fn replay(index: &mut Index<Slot>, frame: Frame) -> u64 {
    let start = index.compacted();
    let mut bytes = 0;
    for found in frame.records.into_iter().filter(|found| found.record.revision > start) {
        let revision = found.record.revision;
        let change = match found.record.change {
            Change::Delete { key } => Change::Delete { key },
            Change::Put { key, value, expires_at } => {
                let len = value.len() as u32;
                let place = Place { file: frame.file, offset: (frame.offset + found.offset) as u32, len };
                bytes += u64::from(len);
                Change::Put { key, value: Slot { bytes: Some(value), place: Some(place) }, expires_at }
            }
        };
        let displaced = index.replay(revision, change);
        if let Some(Displaced { key, previous: Some(previous), .. }) = displaced {
            settle(index, &key, previous.mod_revision, None);
        }
    }
    bytes
}

fn compare(compare: &coracle_cache::store::Compare) -> Compare {
    Compare { key: compare.key.clone(), mod_revision: compare.mod_revision }
}

fn change(op: &Op, now: u64) -> Change<Slot> {
    match op {
        Op::Delete { key } => Change::Delete { key: key.clone() },
        Op::Put { key, value, lease_seconds } => {
            let slot = Slot { bytes: Some(value.clone()), place: None };
            Change::Put { key: key.clone(), value: slot, expires_at: expiry(*lease_seconds, now) }
        }
    }
}

/// Deadlines are shared: a long lease may last a sixteenth longer, so that many end in one commit.
fn expiry(lease_seconds: u64, now: u64) -> u64 {
    if lease_seconds == 0 {
        return 0;
    }
    let step = (lease_seconds * 1000 / 16).max(1);
    (now + lease_seconds * 1000).div_ceil(step) * step
}

fn shown(key: &Bytes, version: &Version<Slot>) -> Option<coracle_cache::store::KeyValue> {
    Some(key_value(key, version, version.value.as_ref()?.bytes.clone()?))
}

fn event(effect: Displaced<Slot>) -> StoreEvent {
    let previous = effect.previous.as_ref().and_then(|version| shown(&effect.key, version));
    match shown(&effect.key, &effect.current) {
        Some(current) => StoreEvent::Put { current, previous },
        None => StoreEvent::Delete { revision: effect.current.mod_revision, key: effect.key, previous },
    }
}

fn store_error(error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
        _ => StoreError::Unavailable(format!("writing the log: {error}")),
    }
}
