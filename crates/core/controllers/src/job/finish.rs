//! What ends a job, in upstream's order: what was concluded before, failures, then success; and suspension, which
//! only pauses it.

use std::time::Duration;

use coracle_reconcile::EventKind;
use serde_json::{Value, json};

use super::policy::{self, Verdict};
use super::{Decision, is_true};
use crate::pods;
use crate::shape::{Item, condition, remove, rfc3339, time};

impl Decision<'_> {
    /// The condition that ends the job, apart from reaching its completions.
    pub(super) fn find_end(&mut self) -> Option<Value> {
        for (kind, becomes) in [("SuccessCriteriaMet", "SuccessCriteriaMet"), ("FailureTarget", "Failed")] {
            if let Some(met) = condition(&self.status, kind).filter(|_| is_true(&self.status, kind)) {
                let text = |key: &str| met[key].as_str().unwrap_or_default();
                return Some(self.condition(becomes, text("reason"), text("message")));
            }
        }
        let (reason, message) = self
            .find_failure()
            .or_else(|| self.find_index_failure().map(|(reason, message)| (reason, message.to_owned())))
            .map_or_else(|| (None, None), |(reason, message)| (Some(reason), Some(message)));
        if let (Some(reason), Some(message)) = (reason, message) {
            return Some(self.condition("FailureTarget", reason, &message));
        }
        let indexed = self.indexed.as_ref()?;
        let message = policy::success(self.job.at("/spec/successPolicy"), indexed.completions, &indexed.succeeded)?;
        Some(self.condition("SuccessCriteriaMet", "SuccessPolicy", &message))
    }

    fn find_failure(&mut self) -> Option<(&'static str, String)> {
        let by_policy = self.pods.iter().filter(|pod| self.is_failed(pod)).find_map(|pod| match self.judge(pod) {
            Verdict::FailJob(message) => Some(message),
            _ => None,
        });
        if let Some(message) = by_policy {
            return Some(("PodFailurePolicy", message));
        }
        let limit = self.job.at("/spec/backoffLimit").as_i64().unwrap_or(6);
        if self.counts.failed > limit || self.restarts_exceed(limit) {
            return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit".into()));
        }
        let deadline = self.job.at("/spec/activeDeadlineSeconds").as_i64().filter(|_| !self.is_suspended())?;
        let started = time(&self.status["startTime"])?;
        let left = deadline as f64 - self.now.duration_since(started).as_secs_f64();
        if left <= 0.0 {
            return Some(("DeadlineExceeded", "Job was active longer than specified deadline".into()));
        }
        self.plan.wake_by(Duration::from_secs_f64(left));
        None
    }

    fn find_index_failure(&self) -> Option<(&'static str, &'static str)> {
        let indexed = self.indexed.as_ref()?;
        let failed = indexed.failed.as_ref()?.total();
        if self.job.at("/spec/maxFailedIndexes").as_i64().is_some_and(|bound| failed > bound) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(("MaxFailedIndexesExceeded", message));
        }
        let over = failed > 0 && failed + indexed.succeeded.total() >= indexed.completions;
        over.then_some(("FailedIndexes", "Job has failed indexes"))
    }

    /// Containers restarted in place count as failures where the restart policy is OnFailure.
    fn restarts_exceed(&self, limit: i64) -> bool {
        if self.job.text("/spec/template/spec/restartPolicy") != "OnFailure" {
            return false;
        }
        let running = self.pods.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
        let restarts: i64 = running.map(restarts).sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    /// Completion, or the conditions that tell of suspension.
    pub(super) fn finish_or_suspend(&mut self) {
        let enough = self.job.at("/spec/completions").as_i64().unwrap_or(1);
        if self.counts.succeeded >= enough && self.counts.active == 0 {
            let message = "Reached expected number of succeeded pods";
            self.finished = Some(self.condition("SuccessCriteriaMet", "CompletionsReached", message));
            return;
        }
        if self.job.meta().is_deleting() {
            return;
        }
        let known = condition(&self.status, "Suspended").map(|known| known["status"] == "True");
        match (self.is_suspended(), known) {
            (true, None | Some(false)) => {
                self.tell_suspension("True", "JobSuspended", "Job suspended");
                remove(&mut self.status, "startTime");
                self.plan.events.push(self.job.note(EventKind::Normal, "Suspended", "Job suspended"));
            }
            (false, Some(true)) => {
                self.tell_suspension("False", "JobResumed", "Job resumed");
                self.status["startTime"] = json!(rfc3339(self.now));
                self.plan.events.push(self.job.note(EventKind::Normal, "Resumed", "Job resumed"));
            }
            _ => {}
        }
    }

    fn tell_suspension(&mut self, status: &str, reason: &str, message: &str) {
        let mut condition = self.condition("Suspended", reason, message);
        condition["status"] = json!(status);
        self.put_condition(condition);
    }

    /// Replaces the condition of this type, or adds it at the end.
    pub(super) fn put_condition(&mut self, new: Value) {
        if !self.status["conditions"].is_array() {
            self.status["conditions"] = json!([]);
        }
        if let Some(list) = self.status["conditions"].as_array_mut() {
            match list.iter_mut().find(|condition| condition["type"] == new["type"]) {
                Some(old) => *old = new,
                None => list.push(new),
            }
        }
    }
}

fn restarts(pod: &Item) -> i64 {
    let lists = [pod.list("/status/initContainerStatuses"), pod.list("/status/containerStatuses")];
    lists.into_iter().flatten().map(|status| status["restartCount"].as_i64().unwrap_or(0)).sum()
}
