//! The embedded store against disks that fail: nothing acknowledged is lost, nothing refused appears, damage is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use coracle_cache::store::{Compare, Durability, Op, StoreError, Txn, TxnResponse};
use coracle_mvcc::Span;
use coracle_rt::Dice;
use proptest::prelude::*;

use crate::disk::faulty::{Faults, Faulty};
use crate::error::OpenError;
use crate::ledger::{HISTORY_MILLIS, Ledger};

type Model = BTreeMap<Bytes, Bytes>;

fn put(key: String, value: Vec<u8>) -> Txn {
    let op = Op::Put { key: key.into(), value: value.into(), lease_seconds: 0 };
    Txn { then: vec![op], ..Txn::default() }
}

fn relaxed(key: &str, value: &str) -> Txn {
    Txn { durability: Durability::Relaxed, ..put(key.to_owned(), value.as_bytes().to_vec()) }
}

fn contents(ledger: &Ledger) -> Model {
    let index = ledger.shared.index.read();
    let all = index.range(Span { start: b"", end: b"\0" }, ledger.published()).unwrap();
    all.map(|(key, version)| (key.clone(), ledger.shared.entry(key, version).unwrap().value)).collect()
}

fn open(disk: &Faulty, now: u64) -> Ledger {
    Ledger::open(Arc::new(disk.clone()), 42, now).unwrap()
}

fn random_txn(dice: &Dice) -> Txn {
    let key = format!("k{}", dice.below(12));
    if dice.below(5) == 0 {
        return Txn { then: vec![Op::Delete { key: key.into() }], ..Txn::default() };
    }
    put(key, vec![dice.below(256) as u8; dice.below(3000) as usize])
}

fn apply(model: &mut Model, txn: &Txn) {
    for op in &txn.then {
        match op {
            Op::Put { key, value, .. } => drop(model.insert(key.clone(), value.clone())),
            Op::Delete { key } => drop(model.remove(key)),
        }
    }
}

/// Runs batches, snapshots and crashes from a seed; after every crash the store holds what was acknowledged, and of
/// what failed all or nothing.
fn survive(seed: u64, faults: Faults) {
    let dice = Dice::seeded(seed ^ 0x5eed);
    let disk = Faulty::new(seed);
    let (mut model, mut now) = (Model::new(), 1);
    let mut last_seen = 0;
    for _ in 0..6 {
        disk.set(Faults::default());
        let mut ledger = open(&disk, now);
        assert_eq!(contents(&ledger), model, "seed {seed}");
        assert!(ledger.published() >= last_seen, "seed {seed}");
        disk.set(faults);
        let mut failed = Vec::new();
        for _ in 0..dice.below(30) {
            let batch: Vec<_> = (0..1 + dice.below(4)).map(|_| random_txn(&dice)).collect();
            let committed = ledger.commit(&batch, now);
            match committed.answers.iter().all(Result::is_ok) {
                true => {
                    batch.iter().for_each(|txn| apply(&mut model, txn));
                    // Deleting what is not there writes nothing, so it does not end the doubt.
                    if !committed.events.is_empty() {
                        failed.clear();
                    }
                }
                false => failed.push(batch),
            }
            assert_eq!(contents(&ledger), model, "seed {seed}");
            now += dice.below(HISTORY_MILLIS / 8);
            ledger.tidy(now);
            if dice.below(8) == 0 {
                let snapshot = ledger.begin_snapshot(now);
                if snapshot.write(&ledger.shared).is_ok() {
                    ledger.adopt(snapshot);
                }
            }
        }
        last_seen = ledger.published();
        drop(ledger);
        disk.crash();
        disk.set(Faults::default());
        // A write that failed has no known end: until a later one succeeds, a crash may keep one of them, but whole.
        let found = contents(&open(&disk, now));
        let with = |batch: &Vec<Txn>| {
            let mut with = model.clone();
            batch.iter().for_each(|txn| apply(&mut with, txn));
            with
        };
        assert!(found == model || failed.iter().any(|batch| found == with(batch)), "seed {seed}");
        model = found;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_acknowledged_is_lost_in_a_crash(seed: u64) {
        survive(seed, Faults::default());
    }

    #[test]
    fn nothing_acknowledged_is_lost_when_syncs_and_writes_fail(seed: u64) {
        survive(seed, Faults { sync: 5, write: 7, bytes_max: 0 });
    }

    #[test]
    fn nothing_acknowledged_is_lost_on_a_full_disk(seed: u64) {
        survive(seed, Faults { sync: 0, write: 0, bytes_max: 60_000 });
    }
}

#[test]
fn a_full_disk_is_told_and_room_mends_it() {
    let disk = Faulty::new(1);
    let mut ledger = open(&disk, 0);
    disk.set(Faults { bytes_max: 1, ..Faults::default() });
    let refused = ledger.commit(&[put("a".into(), vec![1])], 0);
    assert!(matches!(refused.answers[0], Err(StoreError::Full)));
    disk.set(Faults::default());
    assert!(ledger.commit(&[put("a".into(), vec![1])], 0).answers[0].is_ok());
}

#[test]
fn a_revision_that_was_seen_is_never_used_twice() {
    let disk = Faulty::new(2);
    let mut ledger = open(&disk, 0);
    ledger.commit(&[put("node".into(), vec![1])], 0);
    let mut seen = 0;
    for turn in 0..100 {
        seen = ledger.commit(&[relaxed("lease", &turn.to_string())], 0).revision;
    }
    drop(ledger);
    disk.crash();
    let mut ledger = open(&disk, 0);
    assert!(!contents(&ledger).contains_key(&Bytes::from_static(b"lease")), "a relaxed write was not synced yet");
    let TxnResponse::Done { revision } = ledger.commit(&[put("node".into(), vec![2])], 0).answers.remove(0).unwrap()
    else {
        panic!("a put without compares is never refused")
    };
    assert!(revision > seen);
}

#[test]
fn relaxed_writes_share_the_next_sync() {
    let disk = Faulty::new(3);
    let mut ledger = open(&disk, 0);
    ledger.commit(&[put("a".into(), vec![1])], 0);
    ledger.commit(&[relaxed("lease", "1")], 0);
    ledger.commit(&[relaxed("lease", "2")], 0);
    ledger.commit(&[put("a".into(), vec![2])], 0);
    drop(ledger);
    disk.crash();
    assert_eq!(contents(&open(&disk, 0))[b"lease".as_slice()], "2");
}

#[test]
fn relaxed_writes_are_synced_in_time() {
    let disk = Faulty::new(4);
    let mut ledger = open(&disk, 0);
    ledger.commit(&[put("a".into(), vec![1])], 0);
    ledger.commit(&[relaxed("lease", "1")], 0);
    let deadline = ledger.next_deadline().unwrap();
    assert!(deadline <= 60_000);
    ledger.meet_deadlines(deadline);
    assert_eq!(ledger.next_deadline(), None);
    drop(ledger);
    disk.crash();
    assert_eq!(contents(&open(&disk, 0))[b"lease".as_slice()], "1");
}

#[test]
fn damage_before_the_end_is_refused() {
    let disk = Faulty::new(5);
    let mut ledger = open(&disk, 0);
    let middle = disk.len_of("00000001.log") + 30;
    for turn in 0..3 {
        ledger.commit(&[put(format!("k{turn}"), vec![7; 100])], 0);
    }
    drop(ledger);
    disk.damage("00000001.log", middle);
    assert!(matches!(Ledger::open(Arc::new(disk), 42, 0), Err(OpenError::Damaged { .. })));
}

#[test]
fn a_torn_end_is_cut_off() {
    let disk = Faulty::new(6);
    let mut ledger = open(&disk, 0);
    ledger.commit(&[put("a".into(), vec![7; 100])], 0);
    let end = disk.len_of("00000001.log");
    ledger.commit(&[put("b".into(), vec![7; 100])], 0);
    drop(ledger);
    disk.damage("00000001.log", end + 40);
    let left = contents(&open(&disk, 0));
    assert_eq!(left.keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn a_newer_format_is_refused() {
    let disk = Faulty::new(7);
    drop(open(&disk, 0));
    disk.damage("00000001.log", 8);
    assert!(matches!(Ledger::open(Arc::new(disk), 42, 0), Err(OpenError::Newer { .. })));
}

#[test]
fn history_outlives_memory() {
    let disk = Faulty::new(8);
    let mut ledger = open(&disk, 0);
    let first = ledger.commit(&[put("a".into(), vec![1])], 0).revision;
    ledger.commit(&[put("a".into(), vec![2])], 0);
    let index = ledger.shared.index.read();
    let (key, version) = index.range(Span { start: b"a", end: b"" }, first).unwrap().next().unwrap();
    assert!(version.value.as_ref().unwrap().bytes.is_none());
    assert_eq!(ledger.shared.entry(key, version).unwrap().value, vec![1]);
}

#[test]
fn keys_expire_and_a_renewed_one_does_not() {
    let disk = Faulty::new(9);
    let mut ledger = open(&disk, 0);
    let leased = |key: &'static str| Txn {
        then: vec![Op::Put { key: Bytes::from_static(key.as_bytes()), value: Bytes::new(), lease_seconds: 10 }],
        ..Txn::default()
    };
    ledger.commit(&[leased("gone"), leased("renewed")], 0);
    ledger.commit(&[leased("renewed")], 9_000);
    drop(ledger);
    let mut ledger = open(&disk, 9_000);
    assert!(ledger.meet_deadlines(9_999).is_none());
    assert_eq!(ledger.meet_deadlines(11_000).map(|committed| committed.events.len()), Some(1));
    assert_eq!(contents(&ledger).keys().collect::<Vec<_>>(), ["renewed"]);
}

#[test]
fn a_refused_compare_shows_what_stands_there() {
    let disk = Faulty::new(10);
    let mut ledger = open(&disk, 0);
    let create = || Txn { compares: vec![Compare { key: "a".into(), mod_revision: 0 }], ..put("a".into(), vec![1]) };
    let answers = ledger.commit(&[create(), create()], 0).answers;
    assert!(matches!(&answers[0], Ok(TxnResponse::Done { revision: 2 })));
    assert!(matches!(&answers[1], Ok(TxnResponse::Refused { current: Some(found), .. }) if found.mod_revision == 2));
}
