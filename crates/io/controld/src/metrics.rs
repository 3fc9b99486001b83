//! What controllers' queues and the scheduler do, under the names that client-go and kube-scheduler give it: an
//! operator sees there whether a controller is behind or tries the same in vain, how long pods wait for a node, and why.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::time::Duration;

use coracle_scheduler::Scheduler;
use coracle_scheduler::counts::{Counts as Tallied, GroupResult, Histogram, ProfileCounts};
use coracle_scheduler::queue::Depths;
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

/// What the scheduler does. Durations are seconds.
#[derive(Debug, Default)]
pub struct SchedulerMetrics(Mutex<Option<Numbers>>);

#[derive(Debug)]
struct Numbers {
    tallied: Tallied,
    depths: Depths,
    incoming: BTreeMap<(&'static str, &'static str), u64>,
    rejected: BTreeMap<String, BTreeMap<&'static str, u64>>,
    /// Nodes, pods that count on them, and those of them that are still to be bound.
    cached: [usize; 3],
    durations: Durations,
}

/// How many seconds decisions and deeds took.
#[derive(Clone, Debug)]
pub struct Durations {
    algorithm: Histogram<15>,
    /// Of groups of pods, by profile's place and result, and how many seconds of that extenders were asked.
    groups: BTreeMap<(usize, GroupResult), (Histogram<15>, f64)>,
    /// By profile's place.
    deeds: BTreeMap<(DeedKind, Success, usize), Histogram<12>>,
    evictions: BTreeMap<Success, Histogram<20>>,
    /// How many pods are being bound.
    binding: usize,
}

/// What of the scheduler's deeds is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeedKind {
    Bind,
    PreBind,
    /// The victims of a pod are evicted.
    Evict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Success {
    Yes,
    No,
}

impl Default for Durations {
    fn default() -> Durations {
        Durations {
            algorithm: Histogram::new(0.001),
            groups: BTreeMap::new(),
            deeds: BTreeMap::new(),
            evictions: BTreeMap::new(),
            binding: 0,
        }
    }
}

impl Durations {
    /// A decision was made, of which the counts tell.
    pub fn observe(&mut self, counts: &Tallied, took: Duration) {
        self.algorithm.observe(took.as_secs_f64());
        self.observe_groups(counts, took);
    }

    /// A step was made by which the tries of groups may have ended of which the counts tell.
    pub fn observe_groups(&mut self, counts: &Tallied, took: Duration) {
        for (of, tries) in &counts.groups {
            let (known, asked) = self.groups.entry(*of).or_insert_with(|| (Histogram::new(0.001), 0.0));
            if known.count < tries.made {
                known.observe(took.as_secs_f64() + tries.asked_seconds - *asked);
                *asked = tries.asked_seconds;
            }
        }
    }

    /// A deed begins.
    pub fn begin(&mut self, kind: DeedKind) {
        self.binding += usize::from(kind != DeedKind::Evict);
    }

    /// A deed for a pod of the profile at this place is done.
    pub fn end(&mut self, (kind, success): (DeedKind, Success), profile: usize, took: Duration) {
        let seconds = took.as_secs_f64();
        if kind == DeedKind::Evict {
            return self.evictions.entry(success).or_insert_with(|| Histogram::new(0.01)).observe(seconds);
        }
        self.binding = self.binding.saturating_sub(1);
        self.deeds.entry((kind, success, profile)).or_insert_with(|| Histogram::new(0.0001)).observe(seconds);
    }
}

impl SchedulerMetrics {
    /// Takes over how things stand, and how long decisions took.
    pub fn set(&self, scheduler: &Scheduler, durations: &Durations) {
        let (queue, cluster) = (scheduler.queue(), scheduler.cluster());
        let numbers = Numbers {
            tallied: scheduler.counts().clone(),
            depths: queue.depths(),
            incoming: queue.incoming().clone(),
            rejected: queue.rejected().clone(),
            cached: [cluster.nodes().len(), cluster.pods(), scheduler.underway()],
            durations: durations.clone(),
        };
        *self.0.lock() = Some(numbers);
    }

    /// The text form of Prometheus; nothing while the scheduler has not begun.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if let Some(numbers) = &*self.0.lock() {
            numbers.tries(&mut out);
            numbers.groups(&mut out);
            numbers.deeds(&mut out);
            numbers.queues(&mut out);
        }
        out
    }
}

impl Numbers {
    /// How tries ended, and how long they and the waiting took.
    fn tries(&self, out: &mut String) {
        let profiles = &self.tallied.profiles;
        let results: [(&str, fn(&ProfileCounts) -> &Histogram<15>); 3] = [
            ("error", |profile| &profile.error),
            ("scheduled", |profile| &profile.scheduled),
            ("unschedulable", |profile| &profile.unschedulable),
        ];
        let of = |profile: &ProfileCounts, result: &str| format!("profile=\"{}\",result=\"{result}\"", profile.name);
        let all =
            || profiles.iter().flat_map(|profile| results.map(|(result, read)| (of(profile, result), read(profile))));
        let seen = || all().filter(|(_, histogram)| histogram.count > 0);
        let name = family(out, "scheduler_schedule_attempts_total", "counter");
        seen().for_each(|(labels, histogram)| line(out, name, &labels, histogram.count));
        let name = family(out, "scheduler_scheduling_attempt_duration_seconds", "histogram");
        seen().for_each(|(labels, durations)| spread(out, name, &labels, durations));
        let name = family(out, "scheduler_scheduling_algorithm_duration_seconds", "histogram");
        spread(out, name, "", &self.durations.algorithm);
        let name = family(out, "scheduler_pod_scheduling_sli_duration_seconds", "histogram");
        for (tries, waits) in &self.tallied.waits {
            let more = if *tries < 15 { "" } else { "+" };
            spread(out, name, &format!("attempts=\"{tries}{more}\""), waits);
        }
        let name = family(out, "scheduler_pod_scheduling_attempts", "histogram");
        spread(out, name, "", &self.tallied.tries);
        let name = family(out, "scheduler_pod_scheduled_after_flush_total", "counter");
        line(out, name, "", self.tallied.flushed);
        let name = family(out, "scheduler_preemption_attempts_total", "counter");
        line(out, name, "", self.tallied.preemptions);
        let name = family(out, "scheduler_preemption_victims", "histogram");
        spread(out, name, "", &self.tallied.victims);
    }

    /// How tries of groups of pods ended; nothing where none was tried.
    fn groups(&self, out: &mut String) {
        let groups = &self.durations.groups;
        if groups.is_empty() {
            return;
        }
        let labels = |(profile, result): &(usize, GroupResult)| {
            format!("profile=\"{}\",result=\"{}\"", self.tallied.profiles[*profile].name, result.as_str())
        };
        let name = family(out, "scheduler_podgroup_schedule_attempts_total", "counter");
        groups.iter().for_each(|(of, (durations, _))| line(out, name, &labels(of), durations.count));
        let name = family(out, "scheduler_podgroup_scheduling_attempt_duration_seconds", "histogram");
        groups.iter().for_each(|(of, (durations, _))| spread(out, name, &labels(of), durations));
        let name = family(out, "scheduler_podgroup_scheduling_algorithm_duration_seconds", "histogram");
        let all = groups.values().fold(Histogram::new(0.001), |sum, (durations, _)| sum.with(durations));
        spread(out, name, "", &all);
    }

    /// How long bindings and evictions took.
    fn deeds(&self, out: &mut String) {
        let Durations { deeds, evictions, binding, .. } = &self.durations;
        let name = family(out, "scheduler_framework_extension_point_duration_seconds", "histogram");
        for ((kind, success, profile), durations) in deeds {
            let point = if *kind == DeedKind::Bind { "Bind" } else { "PreBind" };
            let status = if *success == Success::Yes { "Success" } else { "Error" };
            let profile = &self.tallied.profiles[*profile].name;
            let labels = format!("extension_point=\"{point}\",profile=\"{profile}\",status=\"{status}\"");
            spread(out, name, &labels, durations);
        }
        let result = |success: &Success| match success {
            Success::Yes => "result=\"success\"",
            Success::No => "result=\"error\"",
        };
        let name = family(out, "scheduler_preemption_goroutines_execution_total", "counter");
        evictions.iter().for_each(|(success, durations)| line(out, name, result(success), durations.count));
        let name = family(out, "scheduler_preemption_goroutines_duration_seconds", "histogram");
        evictions.iter().for_each(|(success, durations)| spread(out, name, result(success), durations));
        let name = family(out, "scheduler_goroutines", "gauge");
        line(out, name, "operation=\"binding\"", binding);
    }

    /// What waits and why, and what is known of the cluster.
    fn queues(&self, out: &mut String) {
        let name = family(out, "scheduler_pending_pods", "gauge");
        let Depths { active, backoff, unschedulable, gated } = self.depths;
        for (queue, pods) in
            [("active", active), ("backoff", backoff), ("gated", gated), ("unschedulable", unschedulable)]
        {
            line(out, name, &format!("queue=\"{queue}\""), pods);
        }
        let name = family(out, "scheduler_queue_incoming_pods_total", "counter");
        for ((queue, event), times) in &self.incoming {
            line(out, name, &format!("event=\"{event}\",queue=\"{queue}\""), times);
        }
        let name = family(out, "scheduler_unschedulable_pods", "gauge");
        for (profile, plugins) in &self.rejected {
            for (plugin, pods) in plugins {
                line(out, name, &format!("plugin=\"{plugin}\",profile=\"{profile}\""), pods);
            }
        }
        let name = family(out, "scheduler_cache_size", "gauge");
        for (kind, size) in ["nodes", "pods", "assumed_pods"].iter().zip(self.cached) {
            line(out, name, &format!("type=\"{kind}\""), size);
        }
    }
}

fn family<'a>(out: &mut String, name: &'a str, kind: &str) -> &'a str {
    let _ = writeln!(out, "# TYPE {name} {kind}");
    name
}

fn line(out: &mut String, name: &str, labels: &str, value: impl Display) {
    let _ = match labels {
        "" => writeln!(out, "{name} {value}"),
        labels => writeln!(out, "{name}{{{labels}}} {value}"),
    };
}

fn spread<const N: usize>(out: &mut String, name: &str, labels: &str, histogram: &Histogram<N>) {
    let comma = if labels.is_empty() { "" } else { "," };
    for (bound, count) in histogram.cumulated() {
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}");
    }
    let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {}", histogram.count);
    line(out, &format!("{name}_sum"), labels, histogram.sum);
    line(out, &format!("{name}_count"), labels, histogram.count);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn counts_are_told_by_controller() {
        let metrics = Metrics::default();
        metrics.set("job-controller", Counts { depth: 2, adds: 9, retries: 1 });
        assert!(metrics.text().contains("workqueue_depth{name=\"job-controller\"} 2\n"));
        assert!(metrics.text().contains("workqueue_retries_total{name=\"job-controller\"} 1\n"));
    }

    #[test]
    fn the_scheduler_tells_its_numbers_under_the_names_of_kube_scheduler() {
        let metrics = SchedulerMetrics::default();
        assert_eq!(metrics.text(), "");
        let mut scheduler = Scheduler::standard("default-scheduler");
        let pod = r#"{"metadata":{"name":"p","namespace":"n","uid":"u"},"spec":{"schedulerName":"default-scheduler"}}"#;
        let object = Arc::new(coracle_meta::Object::new(pod.to_owned().into(), 1).unwrap());
        let now = jiff::Timestamp::UNIX_EPOCH;
        scheduler.observe(coracle_scheduler::Event::Set { resource: "pods", object }, now);
        assert!(scheduler.next(now).is_some());
        let mut took = Durations::default();
        took.observe(scheduler.counts(), Duration::from_millis(3));
        let bound = (DeedKind::Bind, Success::Yes);
        [DeedKind::Bind, DeedKind::PreBind, DeedKind::Evict].into_iter().for_each(|kind| took.begin(kind));
        took.end(bound, 0, Duration::from_micros(150));
        took.end((DeedKind::Evict, Success::No), 0, Duration::from_millis(15));
        metrics.set(&scheduler, &took);
        let text = metrics.text();
        for line in [
            "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"unschedulable\"} 1",
            "scheduler_scheduling_algorithm_duration_seconds_bucket{le=\"0.002\"} 0",
            "scheduler_scheduling_algorithm_duration_seconds_bucket{le=\"0.004\"} 1",
            "scheduler_scheduling_algorithm_duration_seconds_sum 0.003",
            "scheduler_pending_pods{queue=\"unschedulable\"} 1",
            "scheduler_queue_incoming_pods_total{event=\"UnschedulablePodAdd\",queue=\"active\"} 1",
            "scheduler_preemption_victims_count 0",
            "scheduler_framework_extension_point_duration_seconds_bucket{extension_point=\"Bind\",\
             profile=\"default-scheduler\",status=\"Success\",le=\"0.0002\"} 1",
            "scheduler_preemption_goroutines_execution_total{result=\"error\"} 1",
            "scheduler_preemption_goroutines_duration_seconds_bucket{result=\"error\",le=\"0.02\"} 1",
            "scheduler_goroutines{operation=\"binding\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn tries_of_groups_count_with_the_time_that_extenders_took() {
        let mut scheduler = Scheduler::standard("default-scheduler").counts().clone();
        let mut took = Durations::default();
        for (asked, milliseconds) in [(0, 3), (2, 4)] {
            scheduler.group_ended((0, GroupResult::Scheduled), jiff::SignedDuration::from_secs(asked));
            took.observe_groups(&scheduler, Duration::from_millis(milliseconds));
            took.observe_groups(&scheduler, Duration::from_millis(9));
        }
        scheduler.group_ended((0, GroupResult::Error), jiff::SignedDuration::ZERO);
        took.observe_groups(&scheduler, Duration::from_millis(1));
        let metrics = SchedulerMetrics::default();
        metrics.set(&Scheduler::standard("default-scheduler"), &took);
        let text = metrics.text();
        let scheduled = "{profile=\"default-scheduler\",result=\"scheduled\"}";
        for line in [
            format!("scheduler_podgroup_schedule_attempts_total{scheduled} 2"),
            format!("scheduler_podgroup_scheduling_attempt_duration_seconds_sum{scheduled} 2.007"),
            "scheduler_podgroup_scheduling_algorithm_duration_seconds_bucket{le=\"0.004\"} 2".into(),
            "scheduler_podgroup_scheduling_algorithm_duration_seconds_count 3".into(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
