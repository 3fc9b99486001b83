//! The clock as a value: the system's, one that a test moves, or the runtime's own, which a simulation pauses.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;
use tokio::time::Instant;

/// Tells the time. Cheap to clone; clones of a manual clock move together.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    /// Microseconds since the epoch.
    Manual(Arc<AtomicI64>),
    /// Goes with the runtime's timers from `since` on. `start` is the time it told then, in microseconds.
    Runtime {
        since: Instant,
        start: Arc<AtomicI64>,
    },
}

impl Clock {
    pub fn system() -> Clock {
        Clock(Source::System)
    }

    /// A clock that stands at `start` until it is moved.
    pub fn manual(start: Timestamp) -> Clock {
        Clock(Source::Manual(Arc::new(AtomicI64::new(start.as_microsecond()))))
    }

    /// A clock that tells `start` now and goes on as the timers of the runtime do: in a paused runtime both move
    /// together, by leaps and without waiting.
    pub fn of_runtime(start: Timestamp) -> Clock {
        Clock(Source::Runtime { since: Instant::now(), start: Arc::new(AtomicI64::new(start.as_microsecond())) })
    }

    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp::now(),
            Source::Manual(micros) => Timestamp::from_microsecond(micros.load(Ordering::SeqCst))
                .expect("a manual clock is only ever set from a timestamp"),
            Source::Runtime { since, start } => {
                Timestamp::from_microsecond(start.load(Ordering::SeqCst) + micros(since))
                    .expect("a runtime does not live for millennia")
            }
        }
    }

    /// Sets a clock of a test; the system's clock cannot be set and stays as it is.
    pub fn set(&self, to: Timestamp) {
        match &self.0 {
            Source::System => {}
            Source::Manual(micros) => micros.store(to.as_microsecond(), Ordering::SeqCst),
            Source::Runtime { since, start } => start.store(to.as_microsecond() - micros(since), Ordering::SeqCst),
        }
    }
}

fn micros(since: &Instant) -> i64 {
    i64::try_from(since.elapsed().as_micros()).unwrap_or(i64::MAX)
}
