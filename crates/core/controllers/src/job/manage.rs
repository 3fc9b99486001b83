//! How many pods of a job should run now: which to delete and which to create, and when.

use std::collections::HashMap;
use std::time::Duration;

use coracle_reconcile::{EventKind, Write};
use serde_json::{Value, json};

use super::indexes::{INDEX, index_of};
use super::policy::Verdict;
use super::{Decision, FINALIZER, backoff, without_finalizer};
use crate::claim::has_finalizer;
use crate::pods::{self, PODS};
use crate::shape::Item;

const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Pods created or deleted by one decision.
const BURST_MAX: usize = 500;
/// Of a generated name, without its random end.
const NAME_BYTES_MAX: usize = 58;

/// What happens to pods.
pub enum Act {
    Delete(Vec<Item>, Finalizers),
    /// One pod each, with its index in an indexed job.
    Create(Vec<Option<i64>>),
}

/// Whether deleted pods are counted as failed, by tracking, or forgotten.
#[derive(Clone, Copy, PartialEq)]
pub enum Finalizers {
    Tracked,
    Dropped,
}

impl Act {
    pub fn delete(pods: Vec<Item>, finalizers: Finalizers) -> Act {
        Act::Delete(pods, finalizers)
    }
}

/// Counted and ignored failures of the index before this pod, as its annotations carry them on.
pub fn failures(pod: &Item) -> (i64, i64) {
    let read = |key: &str| pod.annotation(key).and_then(|count| count.parse::<i32>().ok()).unwrap_or(0).max(0);
    (read(FAILURES).into(), read(IGNORED_FAILURES).into())
}

impl Decision<'_> {
    pub(super) fn manage(&mut self) -> Act {
        if self.job.meta().is_deleting() {
            return Act::Create(Vec::new());
        }
        if self.is_suspended() {
            return Act::delete(self.surplus(self.active.len()), Finalizers::Dropped);
        }
        let active = self.active.len() as i64;
        let wanted = self.wanted(active);
        let mut surplus = self.surplus((active - wanted).max(0) as usize);
        if !surplus.is_empty() {
            surplus.truncate(BURST_MAX);
            return Act::delete(surplus, Finalizers::Dropped);
        }
        let terminating = if self.replaces_failed_only() { self.counts.terminating } else { 0 };
        let missing = (wanted - terminating - active).clamp(0, BURST_MAX as i64) as usize;
        Act::Create(if missing == 0 { Vec::new() } else { self.creations(missing) })
    }

    fn wanted(&self, active: i64) -> i64 {
        let parallelism = self.job.at("/spec/parallelism").as_i64().unwrap_or(1);
        match self.job.at("/spec/completions").as_i64() {
            Some(completions) => (completions - self.counts.succeeded).min(parallelism).max(0),
            None if self.counts.succeeded > 0 => active,
            None => parallelism,
        }
    }

    /// Pods without an index of their own go first, then those that lose least.
    fn surplus(&self, at_least: usize) -> Vec<Item> {
        let rank = |a: &Item, b: &Item| pods::deletion_order((a, 0), (b, 0), self.now);
        let mut left: Vec<Item> = self.active.clone();
        left.sort_by(rank);
        let mut surplus = Vec::new();
        if self.indexed.is_some() {
            let mut seen: HashMap<i64, usize> = HashMap::new();
            let mut kept = Vec::new();
            for pod in left.into_iter().rev() {
                let index = index_of(&pod).filter(|_| self.is_valid(&pod));
                let first = index.is_some_and(|index| seen.insert(index, 1).is_none());
                if first { kept.push(pod) } else { surplus.push(pod) }
            }
            kept.reverse();
            left = kept;
        }
        let more = at_least.saturating_sub(surplus.len());
        surplus.extend(left.into_iter().take(more));
        surplus
    }

    fn creations(&mut self, missing: usize) -> Vec<Option<i64>> {
        let per_index = self.indexed.as_ref().is_some_and(|indexed| indexed.failed.is_some());
        let wait = if per_index { Duration::ZERO } else { self.delay() };
        if !wait.is_zero() {
            self.plan.wake_by(wait);
            return Vec::new();
        }
        let Some(indexed) = &self.indexed else { return vec![None; missing] };
        let mut taken = indexed.succeeded.with(self.active.iter().filter_map(index_of));
        if self.replaces_failed_only() {
            taken = taken.with(self.pods.iter().filter(|pod| pods::is_terminating(pod)).filter_map(index_of));
        }
        if let Some(failed) = &indexed.failed {
            taken = taken.union(failed);
        }
        let mut now = Vec::new();
        let mut waits = Vec::new();
        for index in taken.missing(missing, indexed.completions) {
            let left = indexed.waiting.get(&index).map_or(Duration::ZERO, |pod| {
                let (counted, ignored) = failures(pod);
                backoff::remaining(counted + ignored + 1, backoff::finished_at(pod), self.now)
            });
            if left.is_zero() { now.push(Some(index)) } else { waits.push(left) }
        }
        if let Some(wait) = waits.into_iter().min() {
            self.plan.wake_by(wait);
        }
        now
    }

    /// What failures since the last success hold replacements back. Pods deleted without being counted are no failures.
    fn delay(&self) -> Duration {
        let tracked = |pod: &&Item| has_finalizer(pod, FINALIZER) || !pod.meta().is_deleting();
        let all = || self.pods.iter().filter(|pod| self.is_valid(pod)).filter(tracked);
        let succeeded: Vec<&Item> = all().filter(|pod| pods::phase(pod) == "Succeeded").collect();
        let failed: Vec<&Item> = all().filter(|pod| self.is_failed(pod)).collect();
        backoff::remaining_after(&succeeded, &failed, self.now)
    }

    /// Counts as they will be. After a failed plan only what is there counts, since the next may fail as well.
    pub(super) fn foresee(&mut self, act: &Act) {
        match act {
            Act::Delete(pods, _) => {
                self.counts.active -= pods.len() as i64;
                self.counts.ready -= pods.iter().filter(|pod| pods::is_ready(pod)).count() as i64;
                self.counts.terminating += pods.len() as i64;
            }
            Act::Create(indexes) if self.refused.create.is_none() => self.counts.active += indexes.len() as i64,
            Act::Create(_) => {}
        }
    }

    pub(super) fn act(&mut self, act: Act) {
        match act {
            Act::Delete(pods, finalizers) => {
                if finalizers == Finalizers::Dropped {
                    let held = pods.iter().filter(|pod| has_finalizer(pod, FINALIZER));
                    self.plan.writes.extend(held.map(without_finalizer));
                }
                if let Some(error) = self.refused.delete.filter(|_| !pods.is_empty()) {
                    let message = format!("Error deleting: {}", error.message);
                    self.plan.events.push(self.job.note(EventKind::Warning, "FailedDelete", message));
                }
                for pod in pods {
                    self.write(pod.delete(&PODS), "SuccessfulDelete", "Deleted pod: {name}");
                }
            }
            Act::Create(indexes) => {
                if let Some(error) = self.refused.create.filter(|_| !indexes.is_empty()) {
                    if pods::is_namespace_terminating(error) {
                        return;
                    }
                    let message = format!("Error creating: {}", error.message);
                    self.plan.events.push(self.job.note(EventKind::Warning, "FailedCreate", message));
                }
                for index in indexes {
                    let (namespace, object) = (self.job.namespace().to_owned(), self.pod(index));
                    let create = Write::Create { resource: PODS, namespace, object };
                    self.write(create, "SuccessfulCreate", "Created pod: {name}");
                }
            }
        }
    }

    fn write(&mut self, write: Write, reason: &'static str, message: &str) {
        let mut note = self.job.note(EventKind::Normal, reason, message);
        note.of_write = Some(self.plan.writes.len());
        self.plan.events.push(note);
        self.plan.writes.push(write);
    }

    fn pod(&self, index: Option<i64>) -> Value {
        let owner = self.job.controller_reference("batch/v1", "Job");
        let mut pod = pods::from_template(self.job.at("/spec/template"), &self.job, owner);
        if !pod["metadata"]["finalizers"].is_array() {
            pod["metadata"]["finalizers"] = json!([]);
        }
        if let Some(list) =
            pod["metadata"]["finalizers"].as_array_mut().filter(|list| !list.contains(&json!(FINALIZER)))
        {
            list.push(json!(FINALIZER));
        }
        if let Some(index) = index {
            self.stamp(&mut pod, index);
        }
        pod
    }

    /// What tells a pod its index: annotation, label, environment, host name and name.
    fn stamp(&self, pod: &mut Value, index: i64) {
        let end = format!("-{index}-");
        let mut start = self.job.name();
        if start.len() + end.len() > NAME_BYTES_MAX {
            start = &start[..NAME_BYTES_MAX - end.len()];
        }
        pod["metadata"]["generateName"] = json!(format!("{start}{end}"));
        pod["metadata"]["annotations"][INDEX] = json!(index.to_string());
        pod["metadata"]["labels"][INDEX] = json!(index.to_string());
        pod["spec"]["hostname"] = json!(format!("{}-{index}", self.job.name()));
        for list in ["initContainers", "containers"] {
            pod["spec"][list].as_array_mut().into_iter().flatten().for_each(add_environment);
        }
        if pod["spec"]["initContainers"].is_null()
            && let Some(spec) = pod["spec"].as_object_mut()
        {
            spec.shift_remove("initContainers");
        }
        let Some(indexed) = self.indexed.as_ref().filter(|indexed| indexed.failed.is_some()) else { return };
        let (mut counted, mut ignored) = (0, 0);
        if let Some(before) = indexed.waiting.get(&index) {
            (counted, ignored) = failures(before);
            if self.judge(before) == Verdict::Ignore { ignored += 1 } else { counted += 1 }
        }
        pod["metadata"]["annotations"][FAILURES] = json!(counted.to_string());
        if ignored > 0 {
            pod["metadata"]["annotations"][IGNORED_FAILURES] = json!(ignored.to_string());
        }
    }
}

fn add_environment(container: &mut Value) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    if !container["env"].is_array() {
        container["env"] = json!([]);
    }
    let field = format!("metadata.labels['{INDEX}']");
    if let Some(list) = container["env"].as_array_mut().filter(|list| !list.iter().any(|env| env["name"] == NAME)) {
        list.push(json!({"name": NAME, "valueFrom": {"fieldRef": {"fieldPath": field}}}));
    }
}
