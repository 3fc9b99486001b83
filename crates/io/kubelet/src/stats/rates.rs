//! How much of a processor is used: the difference of two looks over the time between them. Only the last look is kept,
//! so what is gone from the node is forgotten with the next.

use std::collections::BTreeMap;
use std::time::Duration;

use coracle_proto::cri;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

/// How long after a first look the second follows.
pub const APART: Duration = Duration::from_millis(250);
/// Looks closer to each other say too little.
const NANOS_MIN: i64 = 100_000_000;
/// A look that is older tells of another time.
const KEPT: SignedDuration = SignedDuration::from_secs(60);

#[derive(Default)]
pub(crate) struct Rates(Mutex<BTreeMap<String, Point>>);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    at_nanos: i64,
    used_nanos: u64,
    /// Billionths of a processor.
    rate: Option<u64>,
}

impl Rates {
    /// Whether there is a look that a new one can be compared with.
    pub fn is_warm(&self, now: Timestamp) -> bool {
        let points = self.0.lock();
        points.get(super::NODE).is_some_and(|last| now.duration_since(super::at(last.at_nanos)) < KEPT)
    }

    /// Takes a look in the place of the last.
    pub fn advance(&self, totals: &[(String, cri::CpuUsage)]) {
        let mut points = self.0.lock();
        let next = totals.iter().filter_map(|(key, cpu)| Some((key.clone(), point(points.get(key), cpu)?)));
        *points = next.collect();
    }

    /// Billionths of a processor between the last two looks; `None` of what was seen but once.
    pub fn rate(&self, key: &str) -> Option<u64> {
        self.0.lock().get(key)?.rate
    }
}

fn point(last: Option<&Point>, cpu: &cri::CpuUsage) -> Option<Point> {
    let (at_nanos, used_nanos) = (cpu.timestamp, cpu.usage_core_nano_seconds.as_ref()?.value);
    let Some(last) = last else { return Some(Point { at_nanos, used_nanos, rate: None }) };
    let passed = at_nanos - last.at_nanos;
    if passed < NANOS_MIN {
        return Some(*last);
    }
    let used = used_nanos.checked_sub(last.used_nanos);
    let rate = used.and_then(|used| u64::try_from(u128::from(used) * 1_000_000_000 / passed as u128).ok());
    Some(Point { at_nanos, used_nanos, rate })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(milliseconds: i64, used_nanos: u64) -> cri::CpuUsage {
        let usage_core_nano_seconds = Some(cri::UInt64Value { value: used_nanos });
        cri::CpuUsage { timestamp: milliseconds * 1_000_000, usage_core_nano_seconds, ..Default::default() }
    }

    fn look(rates: &Rates, totals: &[(&str, i64, u64)]) {
        let totals: Vec<_> = totals.iter().map(|(key, at, used)| ((*key).to_owned(), cpu(*at, *used))).collect();
        rates.advance(&totals);
    }

    #[test]
    fn a_rate_needs_two_looks_and_what_is_gone_is_forgotten() {
        let rates = Rates::default();
        let now = |seconds: i64| super::super::at(seconds * 1_000_000_000);
        assert!(!rates.is_warm(now(1)));
        look(&rates, &[("/", 1000, 0), ("a", 1000, 0)]);
        assert_eq!((rates.rate("a"), rates.is_warm(now(2)), rates.is_warm(now(62))), (None, true, false));
        look(&rates, &[("/", 3000, 0), ("a", 3000, 1_000_000_000), ("b", 3000, 7)]);
        assert_eq!((rates.rate("a"), rates.rate("b")), (Some(500_000_000), None));
        look(&rates, &[("/", 3010, 0), ("a", 3010, 1_010_000_000)]);
        assert_eq!((rates.rate("a"), rates.rate("b")), (Some(500_000_000), None), "too close to say anything new");
        look(&rates, &[("/", 4000, 0), ("a", 4000, 0)]);
        assert_eq!(rates.rate("a"), None, "a counter that went back counts something else");
    }
}
