//! What the queues of controllers do, under the names that client-go gives it: an operator sees there whether a
//! controller is behind, or tries the same in vain.

use std::collections::BTreeMap;
use std::fmt::Write;

use parking_lot::Mutex;

/// Of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys that are due and not yet worked on.
    pub depth: usize,
    /// Keys that became due.
    pub adds: u64,
    /// Plans that failed and are tried again.
    pub retries: u64,
}

/// Counts by controller.
#[derive(Debug, Default)]
pub struct Metrics {
    queues: Mutex<BTreeMap<&'static str, Counts>>,
}

impl Metrics {
    pub fn set(&self, controller: &'static str, counts: Counts) {
        self.queues.lock().insert(controller, counts);
    }

    /// The text form of Prometheus.
    pub fn text(&self) -> String {
        let queues = self.queues.lock().clone();
        let mut out = String::new();
        let mut family = |name: &str, kind: &str, value: fn(&Counts) -> u64| {
            let _ = writeln!(out, "# TYPE {name} {kind}");
            for (controller, counts) in &queues {
                let _ = writeln!(out, "{name}{{name=\"{controller}\"}} {}", value(counts));
            }
        };
        family("workqueue_depth", "gauge", |counts| counts.depth as u64);
        family("workqueue_adds_total", "counter", |counts| counts.adds);
        family("workqueue_retries_total", "counter", |counts| counts.retries);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_told_by_controller() {
        let metrics = Metrics::default();
        metrics.set("job-controller", Counts { depth: 2, adds: 9, retries: 1 });
        assert!(metrics.text().contains("workqueue_depth{name=\"job-controller\"} 2\n"));
        assert!(metrics.text().contains("workqueue_retries_total{name=\"job-controller\"} 1\n"));
    }
}
