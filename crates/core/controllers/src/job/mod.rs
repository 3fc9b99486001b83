//! Jobs: pods run until enough of them succeeded or too many failed. What finished is counted exactly once, by a
//! finalizer on each pod and the uids in `status.uncountedTerminatedPods`.

mod backoff;
mod finish;
mod indexes;
mod manage;
mod policy;
#[cfg(test)]
mod tests;
mod track;

use std::collections::BTreeMap;

use coracle_meta::{Object, Resource};
use coracle_reconcile::{Controller, EventKind, Key, Outcome, Plan, View, Watch};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::claim::{Claim, Claimed, finalizers_without, has_finalizer};
use crate::pods::{self, PODS, Refused};
use crate::selector::Selector;
use crate::shape::{Item, condition, controller_key, rfc3339, status_of};
use indexes::{Indexes, index_of};
use policy::Verdict;

pub const JOBS: Resource = Resource::new("batch", "jobs");
const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const JOB_NAME_LABEL: &str = "batch.kubernetes.io/job-name";

pub struct Job;

impl Controller for Job {
    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::itself(JOBS), Watch { resource: PODS, keys: pod_keys }]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, now: Timestamp) -> Plan {
        let Some(job) = Item::get(view, &JOBS, key) else { return forget(view, key) };
        let manager = job.text("/spec/managedBy");
        if !manager.is_empty() && manager != "kubernetes.io/job-controller" {
            return Plan::default();
        }
        if !["", "Indexed", "NonIndexed"].contains(&job.text("/spec/completionMode")) {
            let message = "Skipped Job sync because completion mode is unknown";
            let events = vec![job.note(EventKind::Warning, "UnknownCompletionMode", message)];
            return Plan { events, ..Plan::default() };
        }
        if is_finished(&job) {
            return forget(view, key);
        }
        match Decision::new(view, job, last, now) {
            Ok(decision) => decision.decide(),
            Err(wait) => wait,
        }
    }
}

/// The owner, or all that might adopt an orphan, or the job that an orphan with the tracking finalizer once had.
fn pod_keys(view: &dyn View, pod: &Object) -> Vec<Key> {
    if pod.meta.controller().is_some() {
        return controller_key(pod, "batch", "Job").into_iter().collect();
    }
    let jobs = Item::all(view.list(&JOBS, Some(&pod.meta.namespace)));
    let adopting = jobs.iter().filter(|job| Selector::parse(job.at("/spec/selector")).matches(&pod.meta));
    let mut keys: Vec<Key> = adopting.map(|job| Key::of(&job.object)).collect();
    if keys.is_empty() && pod.meta.finalizers.iter().any(|held| held == FINALIZER) {
        keys.extend(pod.meta.label(JOB_NAME_LABEL).map(|name| Key::new(pod.meta.namespace.clone(), name)));
    }
    keys
}

/// Nobody counts the pods of a job that is gone or finished: the finalizer must not hold them.
fn forget(view: &dyn View, key: &Key) -> Plan {
    let held = view.list(&PODS, Some(&key.namespace)).into_iter().filter(|pod| {
        pod.meta.finalizers.iter().any(|held| held == FINALIZER)
            && match pod.meta.controller() {
                Some(_) => controller_key(pod, "batch", "Job").as_ref() == Some(key),
                None => pod.meta.label(JOB_NAME_LABEL) == Some(&key.name),
            }
    });
    let writes = Item::all(held.collect()).iter().map(without_finalizer).collect();
    Plan { writes, ..Plan::default() }
}

/// Tracked pods of a job that had the name before: nobody counts them any more.
fn of_predecessors(view: &dyn View, job: &Item) -> Vec<Item> {
    let key = Key::of(&job.object);
    let pods = view.list(&PODS, Some(&key.namespace)).into_iter().filter(|pod| {
        pod.meta.finalizers.iter().any(|held| held == FINALIZER)
            && !job.controls(&pod.meta)
            && controller_key(pod, "batch", "Job").as_ref() == Some(&key)
    });
    Item::all(pods.collect())
}

fn without_finalizer(pod: &Item) -> coracle_reconcile::Write {
    pod.patch_this_version(&PODS, json!({"metadata": {"finalizers": finalizers_without(pod, FINALIZER)}}))
}

fn is_true(status: &Value, kind: &str) -> bool {
    condition(status, kind).is_some_and(|condition| condition["status"] == "True")
}

fn is_finished(job: &Item) -> bool {
    ["Complete", "Failed"].iter().any(|kind| is_true(job.at("/status"), kind))
}

/// One look at a job: what was seen, what was concluded, and the plan as it grows.
struct Decision<'a> {
    job: Item,
    pods: Vec<Item>,
    active: Vec<Item>,
    status: Value,
    counts: Counts,
    indexed: Option<Indexed>,
    /// The condition that ends the job, interim or final.
    finished: Option<Value>,
    refused: Refused<'a>,
    now: Timestamp,
    plan: Plan,
}

/// Counts as they will be when the plan is carried out.
struct Counts {
    active: i64,
    ready: i64,
    terminating: i64,
    succeeded: i64,
    failed: i64,
}

/// What completion indexes came to.
struct Indexed {
    completions: i64,
    /// As status had it.
    before: Indexes,
    succeeded: Indexes,
    /// With `backoffLimitPerIndex` only.
    failed: Option<Indexes>,
    /// The last failed pod of each index that waits for its replacement, whose annotations carry the failures on.
    waiting: BTreeMap<i64, Item>,
}

impl<'a> Decision<'a> {
    /// Otherwise what there is to wait for.
    fn new(view: &dyn View, job: Item, last: &'a Outcome, now: Timestamp) -> Result<Decision<'a>, Plan> {
        let selector = Selector::parse(job.at("/spec/selector"));
        let claim = Claim {
            owner: &job,
            owners: &JOBS,
            api_version: "batch/v1",
            kind: "Job",
            selector: &selector,
            resource: &PODS,
            finalizer: Some(FINALIZER),
            last,
        };
        let Claimed { items: mut pods, mut writes, wait } = claim.run(view, |_| true);
        if let Some(wait) = wait {
            return Err(wait);
        }
        writes.extend(of_predecessors(view, &job).iter().map(without_finalizer));
        let active: Vec<Item> = pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let mut status = status_of(&job);
        if !status["uncountedTerminatedPods"].is_object() {
            status["uncountedTerminatedPods"] = json!({});
        }
        let counts = Counts {
            active: active.len() as i64,
            ready: active.iter().filter(|pod| pods::is_ready(pod)).count() as i64,
            terminating: pods.iter().filter(|pod| pods::is_terminating(pod)).count() as i64,
            succeeded: 0,
            failed: 0,
        };
        if job.at("/spec/completionMode") == "Indexed" {
            pods.sort_by_key(index_of);
        }
        let refused = Refused::of(last);
        let plan = Plan { writes, ..Plan::default() };
        let (indexed, finished) = (None, None);
        Ok(Decision { job, pods, active, status, counts, indexed, finished, refused, now, plan })
    }

    fn decide(mut self) -> Plan {
        self.count_finished();
        if self.status["startTime"].is_null() && !self.is_suspended() {
            self.status["startTime"] = json!(rfc3339(self.now));
        }
        self.finished = self.find_end();
        let act = match self.finished {
            Some(_) => manage::Act::delete(self.active.clone(), manage::Finalizers::Tracked),
            None => self.manage(),
        };
        self.foresee(&act);
        if self.finished.is_none() {
            self.finish_or_suspend();
        }
        self.track(act);
        self.plan
    }

    /// Pods not yet counted in status, added to those that are.
    fn count_finished(&mut self) {
        let uncounted = |list: &str| self.status["uncountedTerminatedPods"][list].as_array().map_or(0, Vec::len) as i64;
        let succeeded = self.newly("succeeded", |pod| pods::phase(pod) == "Succeeded");
        let failed = self.newly("failed", |pod| self.is_failed(pod) && self.judge(pod) != Verdict::Ignore);
        let counts = (succeeded.len() as i64, failed.len() as i64);
        self.counts.succeeded = self.job.int("/status/succeeded") + counts.0 + uncounted("succeeded");
        self.counts.failed = self.job.int("/status/failed") + counts.1 + uncounted("failed");
        if self.job.at("/spec/completionMode") == "Indexed" {
            let indexed = self.read_indexes();
            self.counts.succeeded = indexed.succeeded.total();
            self.indexed = Some(indexed);
        }
    }

    /// Tracked pods that are not in this list of uncounted ones yet.
    fn newly(&self, list: &str, wanted: impl Fn(&Item) -> bool) -> Vec<&Item> {
        let uncounted = self.status["uncountedTerminatedPods"][list].clone();
        let listed = |pod: &Item| uncounted.as_array().is_some_and(|uids| uids.iter().any(|uid| *uid == pod.uid()));
        self.pods.iter().filter(|pod| self.is_tracked(pod) && !listed(pod) && wanted(pod)).collect()
    }

    /// Holds the finalizer and, in an indexed job, stands for one of its indexes.
    fn is_tracked(&self, pod: &Item) -> bool {
        has_finalizer(pod, FINALIZER) && self.is_valid(pod)
    }

    fn is_valid(&self, pod: &Item) -> bool {
        let indexed = self.job.at("/spec/completionMode") == "Indexed";
        !indexed || index_of(pod).is_some_and(|index| index < self.job.int("/spec/completions"))
    }

    fn read_indexes(&self) -> Indexed {
        let completions = self.job.int("/spec/completions");
        let before = Indexes::parse(self.job.text("/status/completedIndexes"), completions);
        let all = |wanted: &dyn Fn(&Item) -> bool| -> Vec<i64> {
            self.pods.iter().filter(|pod| self.is_tracked(pod) && wanted(pod)).filter_map(index_of).collect()
        };
        let succeeded = before.with(all(&|pod| pods::phase(pod) == "Succeeded"));
        let limit = self.job.at("/spec/backoffLimitPerIndex").as_i64();
        let failed = limit.map(|limit| {
            let known = Indexes::parse(self.job.text("/status/failedIndexes"), completions);
            known.with(all(&|pod| self.fails_index(pod, limit)))
        });
        let waiting = failed.as_ref().map(|failed| self.waiting(&succeeded.union(failed))).unwrap_or_default();
        Indexed { completions, before, succeeded, failed, waiting }
    }

    fn fails_index(&self, pod: &Item, limit: i64) -> bool {
        let verdict = self.judge(pod);
        let counted = verdict != Verdict::Ignore && manage::failures(pod).0 >= limit;
        self.is_failed(pod) && (verdict == Verdict::FailIndex || counted)
    }

    fn waiting(&self, done: &Indexes) -> BTreeMap<i64, Item> {
        let done = done.with(self.active.iter().filter_map(index_of));
        let mut waiting: BTreeMap<i64, Item> = BTreeMap::new();
        for pod in self.pods.iter().filter(|pod| self.is_tracked(pod) && self.is_failed(pod)) {
            let Some(index) = index_of(pod).filter(|index| !done.has(*index)) else { continue };
            let rank = |pod: &Item| (manage::failures(pod).0 + manage::failures(pod).1, backoff::finished_at(pod));
            let later = waiting.get(&index).is_none_or(|known| {
                let (a, b) = (rank(known), rank(pod));
                a.0 <= b.0 && a.1 <= b.1
            });
            if later {
                waiting.insert(index, pod.clone());
            }
        }
        waiting
    }

    fn is_suspended(&self) -> bool {
        self.job.at("/spec/suspend") == true
    }

    /// Pods on their way out count as failed unless only what really failed is replaced.
    fn is_failed(&self, pod: &Item) -> bool {
        let phase = pods::phase(pod);
        phase == "Failed" || (!self.replaces_failed_only() && pod.meta().is_deleting() && phase != "Succeeded")
    }

    fn replaces_failed_only(&self) -> bool {
        self.job.at("/spec/podReplacementPolicy") == "Failed" || !self.job.at("/spec/podFailurePolicy").is_null()
    }

    fn judge(&self, pod: &Item) -> Verdict {
        policy::judge(self.job.at("/spec/podFailurePolicy"), pod)
    }

    fn condition(&self, kind: &str, reason: &str, message: &str) -> Value {
        let now = rfc3339(self.now);
        json!({"type": kind, "status": "True", "lastProbeTime": now, "lastTransitionTime": now,
            "reason": reason, "message": message})
    }
}
