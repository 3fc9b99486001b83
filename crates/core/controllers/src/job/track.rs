//! Counting each finished pod exactly once: its uid goes into status, then its finalizer goes, then it is counted.

use coracle_reconcile::plan::merge_patch;
use coracle_reconcile::{EventKind, Write};
use serde_json::{Value, json};

use super::indexes::index_of;
use super::manage::Act;
use super::policy::Verdict;
use super::{Decision, FINALIZER, JOBS, is_finished, without_finalizer};
use crate::claim::has_finalizer;
use crate::pods;
use crate::shape::{Item, remove, set_count};

/// Uids in status at a time.
const UNCOUNTED_MAX: usize = 500;

/// The pods whose finalizer goes now; `more` when the bound left some for the next decision.
struct Removals {
    pods: Vec<Item>,
    more: bool,
}

impl Decision<'_> {
    pub(super) fn track(&mut self, act: Act) {
        self.set_counts();
        let held: Vec<String> = self.held().map(|pod| pod.uid().to_owned()).collect();
        self.count_released(&|uid| held.iter().any(|held| held == uid));
        let removals = self.collect();
        self.tell_interim();
        let before = self.status.clone();
        let first = self.job.status_write(&JOBS, &before);
        let must_tell_first = first.is_some() && !removals.pods.is_empty();
        if must_tell_first {
            self.plan.writes.extend(first.clone());
        }
        self.plan.writes.extend(removals.pods.iter().map(without_finalizer));
        self.count_released(&|uid| {
            held.iter().any(|held| held == uid) && !removals.pods.iter().any(|pod| pod.uid() == uid)
        });
        let finished = !removals.more && self.end();
        let last =
            if must_tell_first { self.second_write(&before) } else { self.job.status_write(&JOBS, &self.status) };
        let creates_again = self.refused.create.is_some() && matches!(act, Act::Create(_));
        if creates_again {
            self.plan.writes.extend(last.clone());
        }
        self.act(act);
        if !creates_again {
            self.plan.writes.extend(last);
        }
        if finished {
            self.tell_end();
        }
    }

    fn held(&self) -> impl Iterator<Item = &Item> {
        self.pods.iter().filter(|pod| has_finalizer(pod, FINALIZER))
    }

    fn second_write(&self, before: &Value) -> Option<Write> {
        let patch = merge_patch(before, &self.status)?;
        Some(self.job.patch(&JOBS, Some("status"), json!({"status": patch})))
    }

    fn set_counts(&mut self) {
        set_count(&mut self.status, "active", self.counts.active);
        self.status["ready"] = json!(self.counts.ready);
        self.status["terminating"] = json!(self.counts.terminating);
    }

    /// Uids in status whose pods hold the finalizer no more become counts.
    fn count_released(&mut self, still_held: &dyn Fn(&str) -> bool) {
        for list in ["succeeded", "failed"] {
            let uids = self.status["uncountedTerminatedPods"][list].as_array().cloned().unwrap_or_default();
            let (kept, gone): (Vec<Value>, Vec<Value>) =
                uids.into_iter().partition(|uid| uid.as_str().is_some_and(still_held));
            let count = self.status[list].as_i64().unwrap_or(0) + gone.len() as i64;
            set_count(&mut self.status, list, count);
            self.set_uncounted(list, kept);
        }
    }

    fn set_uncounted(&mut self, list: &str, uids: Vec<Value>) {
        let uncounted = &mut self.status["uncountedTerminatedPods"];
        if uids.is_empty() {
            remove(uncounted, list);
        } else {
            uncounted[list] = json!(uids);
        }
    }

    /// Finds the pods to count and to let go, and notes them in status.
    fn collect(&mut self) -> Removals {
        let mut removals = Removals { pods: Vec::new(), more: false };
        let list = |name: &str| self.status["uncountedTerminatedPods"][name].as_array().cloned().unwrap_or_default();
        let (mut succeeded, mut failed, mut indexes) = (list("succeeded"), list("failed"), Vec::new());
        let failing = self.finished.as_ref().is_some_and(|finished| finished["type"] != "SuccessCriteriaMet");
        for pod in self.held() {
            let is_failed = self.is_failed(pod);
            if !self.may_let_go(pod, is_failed) {
                continue;
            }
            removals.pods.push(pod.clone());
            let uid = json!(pod.uid());
            if pods::phase(pod) == "Succeeded" && !failed.contains(&uid) {
                match &self.indexed {
                    Some(indexed) => {
                        let index = index_of(pod).filter(|_| self.is_valid(pod));
                        indexes.extend(index.filter(|index| !indexed.before.has(*index)));
                    }
                    None if !succeeded.contains(&uid) => succeeded.push(uid),
                    None => {}
                }
            } else if (is_failed || failing) && !failed.contains(&uid) && self.is_valid(pod) {
                failed.extend((self.judge(pod) != Verdict::Ignore).then_some(uid));
            }
            if indexes.len() + succeeded.len() + failed.len() >= UNCOUNTED_MAX {
                removals.more = true;
                break;
            }
        }
        self.set_uncounted("succeeded", succeeded);
        self.set_uncounted("failed", failed);
        self.set_indexes(indexes);
        removals
    }

    fn set_indexes(&mut self, new: Vec<i64>) {
        let Some(indexed) = &self.indexed else { return };
        let succeeded = indexed.before.with(new);
        set_count(&mut self.status, "succeeded", succeeded.total());
        if succeeded.is_empty() {
            remove(&mut self.status, "completedIndexes");
        } else {
            self.status["completedIndexes"] = json!(succeeded.to_string());
        }
        if let Some(failed) = &indexed.failed {
            self.status["failedIndexes"] = json!(failed.to_string());
        }
    }

    /// A failed pod whose annotations its replacement still needs is kept.
    fn may_let_go(&self, pod: &Item, is_failed: bool) -> bool {
        if self.job.meta().is_deleting() || self.finished.is_some() || pods::phase(pod) == "Succeeded" {
            return true;
        }
        let waits = self.indexed.as_ref().is_some_and(|indexed| {
            index_of(pod).and_then(|index| indexed.waiting.get(&index)).is_some_and(|kept| kept.uid() == pod.uid())
        });
        is_failed && !waits
    }

    /// The interim condition is in status before any finalizer goes.
    fn tell_interim(&mut self) {
        let Some(finished) = self.finished.clone() else { return };
        let becomes = match finished["type"].as_str() {
            Some("FailureTarget") => "Failed",
            Some("SuccessCriteriaMet") => "Complete",
            _ => return,
        };
        let text = |key: &str| finished[key].as_str().unwrap_or_default();
        let end = self.condition(becomes, text("reason"), text("message"));
        if !super::is_true(&self.status, text("type")) {
            self.put_condition(finished);
        }
        self.finished = Some(end);
    }

    /// Ends the job when all is counted and nothing runs.
    fn end(&mut self) -> bool {
        let uncounted = |list: &str| self.status["uncountedTerminatedPods"][list].is_array();
        let waits = uncounted("succeeded") || uncounted("failed") || self.counts.terminating > 0;
        let Some(finished) = self.finished.clone().filter(|_| !waits) else { return false };
        if finished["type"] == "Complete" {
            self.status["completionTime"] = finished["lastTransitionTime"].clone();
        }
        self.put_condition(finished);
        !is_finished(&self.job)
    }

    fn tell_end(&mut self) {
        let Some(finished) = self.finished.clone() else { return };
        let mut notes = Vec::new();
        if finished["type"] == "Complete" {
            let completions = self.job.at("/spec/completions").as_i64();
            if completions.is_some_and(|bound| self.status["succeeded"].as_i64().unwrap_or(0) > bound) {
                let message = "Too many succeeded pods running after completion count reached";
                notes.push((EventKind::Warning, "TooManySucceededPods", message.to_owned()));
            }
            notes.push((EventKind::Normal, "Completed", "Job completed".to_owned()));
        } else {
            let message = finished["message"].as_str().unwrap_or_default();
            notes.push((EventKind::Warning, reason(&finished), message.to_owned()));
        }
        let written = self.plan.writes.len().checked_sub(1);
        for (kind, reason, message) in notes {
            let mut note = self.job.note(kind, reason, message);
            note.of_write = written;
            self.plan.events.push(note);
        }
    }
}

/// The reasons for which jobs fail.
fn reason(finished: &Value) -> &'static str {
    const REASONS: [&str; 5] =
        ["PodFailurePolicy", "BackoffLimitExceeded", "DeadlineExceeded", "MaxFailedIndexesExceeded", "FailedIndexes"];
    REASONS.into_iter().find(|reason| finished["reason"] == *reason).unwrap_or("Failed")
}
