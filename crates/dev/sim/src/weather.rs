//! How bad the world is in one run: latencies, lags and faults, drawn from the seed. The first seed is a calm day.

use std::time::Duration;

use coracle_rt::Dice;

/// Rates are of a thousand.
#[derive(Clone, Debug, Default)]
pub struct Weather {
    /// Of a request, there and back.
    pub latency_ms_max: u64,
    /// Of a view behind the store.
    pub lag_ms_max: u64,
    /// Writes that are refused as if another had come between.
    pub conflicts: u64,
    /// Requests that fail and do nothing.
    pub errors: u64,
    /// Writes that are done and whose answer is lost.
    pub lost_answers: u64,
    /// Changes that a view takes over together with the next of the same object, as after a list anew.
    pub merged_hints: u64,
    /// Changes told once more.
    pub repeated_hints: u64,
    /// Changes told after later ones.
    pub late_hints: u64,
    /// After how many writes of controllers their process dies, each counted from the one before.
    pub crashes: Vec<u64>,
}

impl Weather {
    pub fn of_seed(seed: u64) -> Weather {
        if seed == 0 {
            return Weather::calm();
        }
        let dice = Dice::seeded(seed ^ 0x7761_6574_6865_7221);
        let crashes = (0..dice.below(4)).map(|_| 1 + dice.below(40)).collect();
        let rate = |max: u64| if dice.below(2) == 0 { 0 } else { dice.below(max) };
        Weather {
            latency_ms_max: 2 + rate(60),
            lag_ms_max: 2 + rate(3000),
            conflicts: rate(150),
            errors: rate(100),
            lost_answers: rate(60),
            merged_hints: rate(500),
            repeated_hints: rate(300),
            late_hints: rate(300),
            crashes,
        }
    }

    pub fn calm() -> Weather {
        Weather { latency_ms_max: 2, lag_ms_max: 2, ..Weather::default() }
    }

    /// Whether every write that was done is known to whom asked for it: only then can a controller keep bounds at
    /// every moment, and not only in the end.
    pub fn tells_every_write(&self) -> bool {
        self.lost_answers == 0
    }
}

/// Whether something that befalls `rate` of a thousand happens now.
pub fn strikes(dice: &Dice, rate: u64) -> bool {
    rate > 0 && dice.below(1000) < rate
}

/// A time of 1 ms up to the bound.
pub fn millis(dice: &Dice, max: u64) -> Duration {
    Duration::from_millis(1 + dice.below(max))
}
