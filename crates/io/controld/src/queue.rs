//! The work queue of one controller: a key is never worked on twice at a time, changes during work make it due again,
//! failures back off per key. It takes time as an argument and waits for nothing itself.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use coracle_reconcile::Key;
use tokio::time::Instant;

use crate::metrics::Counts;

/// The back-off of client-go's default rate limiter: 5 ms doubled up to 1000 s.
const BACKOFF_FIRST: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(1000);

#[derive(Debug, Default)]
pub struct Queue {
    ready: VecDeque<Key>,
    dirty: HashSet<Key>,
    processing: HashSet<Key>,
    failures: HashMap<Key, u32>,
    timers: BTreeMap<(Instant, u64), Key>,
    timer_of: HashMap<Key, (Instant, u64)>,
    timers_made: u64,
    adds: u64,
    retries: u64,
}

impl Queue {
    /// Makes a key due now; one that is being worked on becomes due when that ends.
    pub fn add(&mut self, key: Key) {
        if !self.dirty.insert(key.clone()) {
            return;
        }
        self.adds += 1;
        if !self.processing.contains(&key) {
            self.ready.push_back(key);
        }
    }

    /// Makes a key due at `at`, or earlier where it is already.
    pub fn add_at(&mut self, key: Key, at: Instant) {
        if let Some(planned) = self.timer_of.get(&key).copied() {
            if planned.0 <= at {
                return;
            }
            self.timers.remove(&planned);
        }
        self.timers_made += 1;
        self.timer_of.insert(key.clone(), (at, self.timers_made));
        self.timers.insert((at, self.timers_made), key);
    }

    /// The next due key, which is then being worked on until `done`.
    pub fn take(&mut self, now: Instant) -> Option<Key> {
        self.ring(now);
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.processing.insert(key.clone());
        Some(key)
    }

    pub fn done(&mut self, key: &Key) {
        self.processing.remove(key);
        if self.dirty.contains(key) {
            self.ready.push_back(key.clone());
        }
    }

    /// Notes a failure and answers how many there were in a row; the key is due again after its back-off.
    pub fn fail(&mut self, key: &Key, now: Instant) -> u32 {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let wait = BACKOFF_FIRST.saturating_mul(1_u32 << (*failures).min(20)).min(BACKOFF_MAX);
        *failures += 1;
        self.retries += 1;
        let count = *failures;
        self.add_at(key.clone(), now + wait);
        count
    }

    pub fn succeed(&mut self, key: &Key) {
        self.failures.remove(key);
    }

    /// Rings every timer: a key that waits for a time of day may have reached it by a leap.
    pub fn ring_all(&mut self) {
        let timers = std::mem::take(&mut self.timers);
        self.timer_of.clear();
        for key in timers.into_values() {
            self.add(key);
        }
    }

    /// When the next timer rings.
    pub fn next_due(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    pub fn counts(&self) -> Counts {
        Counts { depth: self.ready.len(), adds: self.adds, retries: self.retries }
    }

    fn ring(&mut self, now: Instant) {
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            let key = entry.remove();
            self.timer_of.remove(&key);
            self.add(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("n", name)
    }

    #[test]
    fn a_key_changed_during_work_is_due_once_more() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(queue.take(now), Some(key("a")));
        queue.add(key("a"));
        assert_eq!(queue.take(now), None);
        assert_eq!(queue.counts(), Counts { depth: 0, adds: 2, retries: 0 });
        queue.done(&key("a"));
        assert_eq!(queue.take(now), Some(key("a")));
        queue.done(&key("a"));
        assert_eq!(queue.take(now), None);
    }

    #[test]
    fn failures_back_off_per_key() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for count in 1..30 {
            assert_eq!(queue.fail(&key("a"), now), count);
            let due = queue.next_due().unwrap();
            let wait = Duration::from_millis(5 << (count - 1).min(20)).min(BACKOFF_MAX);
            assert_eq!(due - now, wait);
            assert_eq!(queue.take(due), Some(key("a")));
            queue.done(&key("a"));
        }
        queue.succeed(&key("a"));
        assert_eq!(queue.fail(&key("a"), now), 1);
    }

    #[test]
    fn the_earliest_timer_counts() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add_at(key("a"), now + Duration::from_secs(9));
        queue.add_at(key("a"), now + Duration::from_secs(3));
        queue.add_at(key("a"), now + Duration::from_secs(5));
        assert_eq!(queue.next_due(), Some(now + Duration::from_secs(3)));
        assert_eq!(queue.take(now + Duration::from_secs(3)), Some(key("a")));
        assert_eq!(queue.next_due(), None);
    }

    #[test]
    fn all_timers_ring_when_the_time_of_day_jumps() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.add_at(key("a"), now + Duration::from_secs(9));
        queue.add_at(key("b"), now + Duration::from_secs(3));
        queue.ring_all();
        assert_eq!(queue.next_due(), None);
        assert_eq!([queue.take(now), queue.take(now), queue.take(now)], [Some(key("b")), Some(key("a")), None]);
    }
}
