//! The index of keys and their versions: writing, rolling back, compacting, expiring.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::Revision;

/// One state of a key. A tombstone has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version<V> {
    pub mod_revision: Revision,
    pub create_revision: Revision,
    /// Writes since creation, counted from 1; 0 on a tombstone.
    pub version: u64,
    /// Milliseconds since the epoch; 0 is never.
    pub expires_at: u64,
    pub value: Option<V>,
}

/// A key's mod revision as a transaction expects it; 0 where the key must not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    pub key: Bytes,
    pub mod_revision: Revision,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<V> {
    Put { key: Bytes, value: V, expires_at: u64 },
    Delete { key: Bytes },
}

/// A write that took effect, and the live version it displaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Displaced<V> {
    pub key: Bytes,
    pub current: Version<V>,
    pub previous: Option<Version<V>>,
}

/// Every key's versions, oldest first, from the compacted revision on.
#[derive(Clone, Debug)]
pub struct Index<V> {
    pub(crate) keys: BTreeMap<Bytes, Vec<Version<V>>>,
    revision: Revision,
    compacted: Revision,
    /// Keys with a version that lost its place, by the revision that took it: what compaction visits.
    superseded: VecDeque<(Revision, Bytes)>,
    expiries: BTreeSet<(u64, Bytes)>,
    live: usize,
}

impl<V: Clone> Default for Index<V> {
    fn default() -> Self {
        Index::new(0)
    }
}

impl<V: Clone> Index<V> {
    /// Empty, at `revision`: nothing before it is known.
    pub fn new(revision: Revision) -> Index<V> {
        Index {
            keys: BTreeMap::new(),
            revision,
            compacted: revision,
            superseded: VecDeque::new(),
            expiries: BTreeSet::new(),
            live: 0,
        }
    }

    /// Of the newest write applied.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The oldest revision that can still be read.
    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Keys that exist now.
    pub fn live(&self) -> usize {
        self.live
    }

    /// The live version of a key.
    pub fn current(&self, key: &[u8]) -> Option<&Version<V>> {
        self.keys.get(key)?.last().filter(|version| version.value.is_some())
    }

    /// The version that a key took at exactly this revision, and whether none followed it.
    pub fn version_mut(&mut self, key: &[u8], mod_revision: Revision) -> Option<(&mut Version<V>, bool)> {
        let versions = self.keys.get_mut(key)?;
        let place = versions.iter().rposition(|version| version.mod_revision == mod_revision)?;
        let is_newest = place + 1 == versions.len();
        versions.get_mut(place).map(|version| (version, is_newest))
    }

    /// The first compare that does not hold.
    pub fn check<'a>(&self, compares: impl IntoIterator<Item = &'a Compare>) -> Result<(), &'a Compare> {
        let standing = |key: &[u8]| self.current(key).map_or(0, |version| version.mod_revision);
        compares.into_iter().find(|compare| standing(&compare.key) != compare.mod_revision).map_or(Ok(()), Err)
    }

    /// Applies changes as one revision, the next after the newest. Without effect, deleting what is not there, it
    /// takes no revision.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change<V>>) -> Vec<Displaced<V>> {
        let revision = self.revision + 1;
        let effects: Vec<_> = changes.into_iter().filter_map(|change| self.apply_at(revision, change)).collect();
        if !effects.is_empty() {
            self.revision = revision;
        }
        effects
    }

    /// Applies one change as part of `revision`, which is the newest or later: what a log replays.
    pub fn replay(&mut self, revision: Revision, change: Change<V>) -> Option<Displaced<V>> {
        let effect = self.apply_at(revision, change);
        self.revision = self.revision.max(revision);
        effect
    }

    /// Puts a key's version in as a snapshot recorded it. Keys come once each, into an index without history.
    pub fn restore(&mut self, key: Bytes, version: Version<V>) {
        if version.expires_at > 0 {
            self.expiries.insert((version.expires_at, key.clone()));
        }
        self.live += 1;
        self.keys.insert(key, vec![version]);
    }

    /// Moves the newest revision ahead, so that none that may have been seen is used twice.
    pub fn leap(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    fn apply_at(&mut self, revision: Revision, change: Change<V>) -> Option<Displaced<V>> {
        let (key, value, expires_at) = match change {
            Change::Put { key, value, expires_at } => (key, Some(value), expires_at),
            Change::Delete { key } => (key, None, 0),
        };
        let previous = self.current(&key).cloned();
        let (create_revision, version) = match (&previous, &value) {
            (None, None) => return None,
            (_, None) => (0, 0),
            (None, Some(_)) => (revision, 1),
            (Some(previous), Some(_)) => (previous.create_revision, previous.version + 1),
        };
        if let Some(previous) = &previous {
            self.expiries.remove(&(previous.expires_at, key.clone()));
        }
        let current = Version { mod_revision: revision, create_revision, version, expires_at, value };
        if expires_at > 0 {
            self.expiries.insert((expires_at, key.clone()));
        }
        self.live = self.live + usize::from(current.value.is_some()) - usize::from(previous.is_some());
        let versions = self.keys.entry(key.clone()).or_default();
        // A key written twice by one transaction has its last state.
        versions.retain(|version| version.mod_revision != revision);
        versions.push(current.clone());
        if previous.is_some() {
            self.superseded.push_back((revision, key.clone()));
        }
        Some(Displaced { key, current, previous })
    }

    /// Takes back every write after `revision`; `keys` are those that were written.
    pub fn rollback<'a>(&mut self, revision: Revision, keys: impl IntoIterator<Item = &'a Bytes>) {
        for key in keys {
            let Some(versions) = self.keys.get_mut(key) else { continue };
            let was_live = versions.last().is_some_and(|version| version.value.is_some());
            let undone = versions.partition_point(|version| version.mod_revision <= revision);
            for version in versions.drain(undone..).filter(|version| version.expires_at > 0) {
                self.expiries.remove(&(version.expires_at, key.clone()));
            }
            let live = versions.last().filter(|version| version.value.is_some());
            if let Some(version) = live.filter(|version| version.expires_at > 0) {
                self.expiries.insert((version.expires_at, key.clone()));
            }
            self.live = self.live + usize::from(live.is_some()) - usize::from(was_live);
            if versions.is_empty() {
                self.keys.remove(key);
            }
        }
        while self.superseded.back().is_some_and(|(by, _)| *by > revision) {
            self.superseded.pop_back();
        }
        self.revision = revision;
    }

    /// Forgets what was no longer current at `revision`; reads at `revision` and later stay possible.
    pub fn compact(&mut self, revision: Revision) {
        let revision = revision.min(self.revision);
        while self.superseded.front().is_some_and(|(by, _)| *by <= revision) {
            let Some((_, key)) = self.superseded.pop_front() else { break };
            self.trim(&key, revision);
        }
        self.compacted = self.compacted.max(revision);
    }

    fn trim(&mut self, key: &Bytes, revision: Revision) {
        let Some(versions) = self.keys.get_mut(key) else { return };
        let current = versions.partition_point(|version| version.mod_revision <= revision);
        versions.drain(..current.saturating_sub(1));
        if versions.first().is_some_and(|first| first.value.is_none() && first.mod_revision <= revision) {
            versions.remove(0);
        }
        if versions.is_empty() {
            self.keys.remove(key);
        }
    }

    /// Keys whose time was up at `now` (milliseconds since the epoch), at most `max`.
    pub fn expired(&self, now: u64, max: usize) -> Vec<Bytes> {
        self.expiries.iter().take_while(|(at, _)| *at <= now).take(max).map(|(_, key)| key.clone()).collect()
    }

    /// When the next key expires.
    pub fn next_expiry(&self) -> Option<u64> {
        self.expiries.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Span;
    use proptest::prelude::*;

    fn put(key: &'static str, value: u32) -> Change<u32> {
        Change::Put { key: Bytes::from_static(key.as_bytes()), value, expires_at: 0 }
    }

    fn delete(key: &'static str) -> Change<u32> {
        Change::Delete { key: Bytes::from_static(key.as_bytes()) }
    }

    #[test]
    fn a_recreated_key_begins_anew() {
        let mut index = Index::default();
        index.apply([put("a", 1)]);
        index.apply([put("a", 2)]);
        index.apply([delete("a")]);
        index.apply([put("a", 3)]);
        let now = index.current(b"a").unwrap();
        assert_eq!((now.create_revision, now.mod_revision, now.version), (4, 4, 1));
    }

    #[test]
    fn deleting_nothing_takes_no_revision() {
        let mut index = Index::default();
        assert!(index.apply([delete("a")]).is_empty());
        assert_eq!(index.revision(), 0);
    }

    #[test]
    fn a_compare_names_what_it_refuses() {
        let mut index = Index::default();
        index.apply([put("a", 1)]);
        let key = Bytes::from_static(b"a");
        let absent = Compare { key: key.clone(), mod_revision: 0 };
        assert_eq!(index.check([&absent]), Err(&absent));
        assert_eq!(index.check([&Compare { key, mod_revision: 1 }]), Ok(()));
    }

    #[test]
    fn a_rewritten_key_loses_its_deadline() {
        let mut index = Index::default();
        let key = Bytes::from_static(b"a");
        index.apply([Change::Put { key: key.clone(), value: 1, expires_at: 10 }]);
        assert_eq!((index.next_expiry(), index.expired(9, 5), index.expired(10, 5)), (Some(10), vec![], vec![key]));
        index.apply([put("a", 2)]);
        assert_eq!(index.next_expiry(), None);
        index.rollback(1, &[Bytes::from_static(b"a")]);
        assert_eq!(index.next_expiry(), Some(10));
    }

    proptest! {
        /// Against a model that keeps every state whole.
        #[test]
        fn reads_at_a_revision_agree_with_a_model(steps in prop::collection::vec((0..5usize, 0..4u32), 1..60), cut in 0..60u64, back in 0..60u64) {
            const KEYS: [&str; 5] = ["a", "a/b", "b", "b/c", "c"];
            let mut index = Index::default();
            let mut states = vec![BTreeMap::new()];
            for (key, value) in steps {
                let mut state = states.last().unwrap().clone();
                let change = if value == 0 { state.remove(KEYS[key]).map(|_| delete(KEYS[key])) } else { state.insert(KEYS[key], value); Some(put(KEYS[key], value)) };
                if let Some(change) = change { index.apply([change]); states.push(state); }
            }
            let back = back.min(index.revision());
            let all: Vec<Bytes> = KEYS.iter().map(|key| Bytes::from_static(key.as_bytes())).collect();
            index.rollback(back, &all);
            let cut = cut.min(back);
            index.compact(cut);
            for revision in cut..=back {
                let span = Span { start: b"", end: b"\0" };
                let seen: Vec<_> = index.range(span, revision).unwrap().map(|(key, version)| (key.clone(), version.value.unwrap())).collect();
                let model: Vec<_> = states[revision as usize].iter().map(|(key, value)| (Bytes::from_static(key.as_bytes()), *value)).collect();
                prop_assert_eq!(seen, model);
            }
            prop_assert_eq!(index.live(), states[back as usize].len());
        }
    }
}
