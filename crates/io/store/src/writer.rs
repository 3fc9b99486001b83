//! The log's thread: gathers what waits into one batch, has the ledger make it durable with one sync, then answers.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use coracle_cache::store::{Revision, StoreError, Txn, TxnResponse};
use coracle_rt::Clock;
use tokio::sync::oneshot;

use crate::engine::millis;
use crate::ledger::{Committed, Ledger};
use crate::snapshot::Snapshot;
use crate::watchers::Watchers;

const BATCH_TXNS_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Without deadlines of its own the thread sleeps until it is asked.
const SLEEP_MAX: Duration = Duration::from_secs(3600);
const TIDY_MILLIS: u64 = 15_000;
/// What could not be done at its time is tried again after this.
const PATIENCE_MILLIS_MIN: u64 = 500;

pub enum Command {
    Txn { txn: Txn, reply: oneshot::Sender<Result<TxnResponse, StoreError>> },
    Compact { revision: Revision, reply: oneshot::Sender<Result<(), StoreError>> },
    Snapshot(Result<Snapshot, std::io::Error>),
    Stop,
}

pub struct Writer {
    ledger: Ledger,
    watchers: Arc<Watchers>,
    clock: Clock,
    commands: Receiver<Command>,
    /// For the snapshot's thread to report.
    report: Sender<Command>,
    snapshotting: bool,
    tidied: u64,
}

impl Writer {
    pub fn new(
        ledger: Ledger,
        watchers: Arc<Watchers>,
        clock: Clock,
        commands: Receiver<Command>,
        report: Sender<Command>,
    ) -> Writer {
        Writer { ledger, watchers, clock, commands, report, snapshotting: false, tidied: 0 }
    }

    pub fn run(mut self) {
        loop {
            match self.commands.recv_timeout(self.patience()) {
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(command) => {
                    if !self.take(command) {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => (),
            }
            self.meet_deadlines();
            self.tidy();
        }
        if let Err(error) = self.ledger.flush(millis(&self.clock)) {
            tracing::error!(%error, "the last relaxed writes are lost");
        }
    }

    fn patience(&self) -> Duration {
        let now = millis(&self.clock);
        let until = |deadline: u64| Duration::from_millis(deadline.saturating_sub(now).max(PATIENCE_MILLIS_MIN));
        self.ledger.next_deadline().map_or(SLEEP_MAX, until).min(SLEEP_MAX)
    }

    /// Handles a command and what has gathered behind it; false when it is time to stop.
    fn take(&mut self, first: Command) -> bool {
        let (mut txns, mut replies, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = Some(first);
        let mut goes_on = true;
        while let Some(command) = next.take() {
            match command {
                Command::Txn { txn, reply } => {
                    bytes += size(&txn);
                    txns.push(txn);
                    replies.push(reply);
                }
                Command::Compact { revision, reply } => drop(reply.send(self.ledger.compact(revision))),
                Command::Snapshot(result) => self.adopt(result),
                Command::Stop => {
                    goes_on = false;
                    break;
                }
            }
            if txns.len() < BATCH_TXNS_MAX && bytes < BATCH_BYTES_MAX {
                next = self.commands.try_recv().ok();
            }
        }
        if !txns.is_empty() {
            let committed = self.ledger.commit(&txns, millis(&self.clock));
            let answers = self.publish(committed);
            for (reply, answer) in replies.into_iter().zip(answers) {
                // A caller that no longer waits has its write all the same.
                let _ = reply.send(answer);
            }
        }
        goes_on
    }

    fn publish(&self, committed: Committed) -> Vec<Result<TxnResponse, StoreError>> {
        self.watchers.publish(&committed.events, committed.revision);
        committed.answers
    }

    fn meet_deadlines(&mut self) {
        let now = millis(&self.clock);
        if self.ledger.next_deadline().is_some_and(|deadline| deadline <= now)
            && let Some(committed) = self.ledger.meet_deadlines(now)
        {
            self.publish(committed);
        }
    }

    fn tidy(&mut self) {
        let now = millis(&self.clock);
        if now < self.tidied + TIDY_MILLIS {
            return;
        }
        self.tidied = now;
        self.ledger.tidy(now);
        if self.snapshotting {
            return;
        }
        if let Some(snapshot) = self.ledger.due_snapshot(now) {
            self.snapshotting = true;
            let (shared, report) = (self.ledger.shared.clone(), self.report.clone());
            let write = move || drop(report.send(Command::Snapshot(snapshot.write(&shared).map(|()| snapshot))));
            let started = std::thread::Builder::new().name("store-snapshot".into()).spawn(write);
            started.map(drop).unwrap_or_else(|error| self.adopt(Err(error)));
        }
    }

    fn adopt(&mut self, written: Result<Snapshot, std::io::Error>) {
        self.snapshotting = false;
        match written {
            Ok(snapshot) => self.ledger.adopt(snapshot),
            Err(error) => tracing::warn!(%error, "writing a snapshot failed, the log goes on without"),
        }
    }
}

fn size(txn: &Txn) -> usize {
    use coracle_cache::store::Op;
    let op = |op: &Op| match op {
        Op::Put { key, value, .. } => key.len() + value.len(),
        Op::Delete { key } => key.len(),
    };
    txn.then.iter().map(op).sum()
}
