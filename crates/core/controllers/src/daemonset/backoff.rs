//! How long a node whose daemon pods keep failing waits for the next one. Pods that are gone cannot tell, so this is
//! remembered for as long as the controller runs.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

const DELAY: Duration = Duration::from_secs(1);
const DELAY_MAX: Duration = Duration::from_secs(15 * 60);
/// Beyond this many remembered nodes, those that have waited long enough are forgotten.
const REMEMBERED_MAX: usize = 10_000;

#[derive(Default)]
pub struct Backoff {
    entries: Mutex<HashMap<String, (Timestamp, Duration)>>,
}

impl Backoff {
    /// Zero when the next failed pod may be replaced now, which is remembered; otherwise how long to wait.
    pub fn next(&self, key: String, now: Timestamp) -> Duration {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let age = |at: Timestamp| Duration::try_from(now.duration_since(at)).unwrap_or_default();
        if entries.len() > REMEMBERED_MAX {
            entries.retain(|_, (at, _)| age(*at) <= DELAY_MAX * 2);
        }
        let delay = match entries.get(&key) {
            Some((at, delay)) if age(*at) < *delay => return *delay - age(*at),
            Some((at, delay)) if age(*at) <= DELAY_MAX * 2 => (*delay * 2).min(DELAY_MAX),
            _ => DELAY,
        };
        entries.insert(key, (now, delay));
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double() {
        let backoff = Backoff::default();
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let next = |seconds: u64| backoff.next("a".into(), start + Duration::from_secs(seconds)).as_secs();
        assert_eq!([next(0), next(0), next(1), next(2), next(3), next(4)], [0, 1, 0, 1, 0, 3]);
    }
}
