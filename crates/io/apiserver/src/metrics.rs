//! Counts of requests under the names that Kubernetes gives them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::request::RequestInfo;

/// Seconds; upper bounds of the buckets of `apiserver_request_duration_seconds`, a part of upstream's.
const BUCKETS: [f64; 10] = [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 1.0, 5.0, 15.0, 60.0];

#[derive(Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, &'static str, &'static str, u16), u64>>,
    durations: Mutex<BTreeMap<(&'static str, &'static str), Durations>>,
    pub watches: AtomicI64,
    pub conflicts: AtomicU64,
    /// What other components of this process count.
    others: Mutex<Vec<Source>>,
}

/// Counts of one component, in the text form of Prometheus.
pub type Source = Box<dyn Fn() -> String + Send + Sync>;

#[derive(Default)]
struct Durations {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    seconds: f64,
}

impl Metrics {
    pub fn count(&self, info: &RequestInfo, code: u16, took: Duration) {
        // Names that no kind has would grow the table without bound.
        let known = coracle_kinds::find_named(&info.group, &info.resource);
        let (group, resource) = known.map_or(("", ""), |kind| (kind.group, kind.plural));
        *self.requests.lock().entry((info.verb, group, resource, code)).or_default() += 1;
        if info.verb != "watch" {
            let mut durations = self.durations.lock();
            let entry = durations.entry((info.verb, resource)).or_default();
            let seconds = took.as_secs_f64();
            for (bound, bucket) in BUCKETS.iter().zip(&mut entry.buckets) {
                *bucket += u64::from(seconds <= *bound);
            }
            entry.count += 1;
            entry.seconds += seconds;
        }
    }

    /// Shows the counts of another component of this process beside the server's own.
    pub fn add(&self, source: Source) {
        self.others.lock().push(source);
    }

    /// The text form of Prometheus.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let name = "apiserver_request_total";
        let _ = writeln!(out, "# TYPE {name} counter");
        for ((verb, group, resource, code), count) in self.requests.lock().iter() {
            let verb = verb.to_uppercase();
            let labels = format!("code=\"{code}\",group=\"{group}\",resource=\"{resource}\",verb=\"{verb}\"");
            let _ = writeln!(out, "{name}{{{labels}}} {count}");
        }
        let name = "apiserver_request_duration_seconds";
        let _ = writeln!(out, "# TYPE {name} histogram");
        for ((verb, resource), entry) in self.durations.lock().iter() {
            let labels = format!("resource=\"{resource}\",verb=\"{}\"", verb.to_uppercase());
            for (bound, count) in BUCKETS.iter().zip(entry.buckets) {
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
            }
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", entry.count);
            let _ = writeln!(out, "{name}_sum{{{labels}}} {}", entry.seconds);
            let _ = writeln!(out, "{name}_count{{{labels}}} {}", entry.count);
        }
        let watches = self.watches.load(Ordering::Relaxed);
        let _ = writeln!(out, "# TYPE apiserver_longrunning_requests gauge");
        let _ = writeln!(out, "apiserver_longrunning_requests{{verb=\"WATCH\"}} {watches}");
        out.extend(self.others.lock().iter().map(|source| source()));
        out
    }
}
