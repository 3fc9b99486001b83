//! What is due when: one ordered table of moments, coarse enough that what is due together is done together. Nothing
//! else here waits for time.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// How finely moments are told apart.
const TICK_MILLIS: i64 = 20;

/// Items by the tick in which they are due. An item that was put in twice comes out twice; its owner looks whether
/// there still is something to do.
pub struct Wheel<T> {
    ticks: BTreeMap<i64, Vec<T>>,
}

impl<T> Default for Wheel<T> {
    fn default() -> Wheel<T> {
        Wheel { ticks: BTreeMap::new() }
    }
}

impl<T> Wheel<T> {
    /// Never comes out before `at`, and at most a tick after it.
    pub fn insert(&mut self, at: Timestamp, item: T) {
        let millis = at.as_millisecond() + i64::from(at.subsec_nanosecond() % 1_000_000 != 0);
        let tick = millis.div_euclid(TICK_MILLIS) + i64::from(millis.rem_euclid(TICK_MILLIS) != 0);
        self.ticks.entry(tick).or_default().push(item);
    }

    /// When the next item is due.
    pub fn next(&self) -> Option<Timestamp> {
        let tick = self.ticks.keys().next()?;
        Timestamp::from_millisecond(tick * TICK_MILLIS).ok()
    }

    /// Everything that is due by now, in order.
    pub fn take_due(&mut self, now: Timestamp) -> Vec<T> {
        let present = now.as_millisecond().div_euclid(TICK_MILLIS);
        let mut due = Vec::new();
        while let Some(tick) = self.ticks.first_entry().filter(|tick| *tick.key() <= present) {
            due.extend(tick.remove());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    #[test]
    fn nothing_comes_early_and_all_comes_in_order() {
        let mut wheel = Wheel::default();
        for millis in [1041, 1000, 1021, 1039] {
            wheel.insert(at(millis), millis);
        }
        assert_eq!(wheel.next(), Some(at(1000)));
        assert_eq!(wheel.take_due(at(999)), Vec::<i64>::new());
        assert_eq!(wheel.take_due(at(1039)), [1000]);
        assert_eq!(wheel.take_due(at(1040)), [1021, 1039]);
        assert_eq!(wheel.take_due(at(5000)), [1041]);
        assert_eq!(wheel.next(), None);
    }
}
