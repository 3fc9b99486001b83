//! What a deployment tells of itself: counts, availability, progress and failure.

use std::time::Duration;

use serde_json::{Value, json};

use super::{DEPLOYMENTS, Rollout};
use crate::shape::{condition, remove, remove_condition, rfc3339, set_count, time};

impl Rollout<'_> {
    pub(super) fn progressing(&self) -> Option<&Value> {
        condition(&self.status, "Progressing")
    }

    pub(super) fn set_progressing(&mut self, status: &str, reason: &str, message: &str) {
        self.set("Progressing", status, reason, message);
    }

    /// A condition of the same status and reason stays as it is.
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let old = condition(&self.status, kind);
        if old.is_some_and(|old| old["status"] == status && old["reason"] == reason) {
            return;
        }
        let now = json!(rfc3339(self.now));
        let kept = old.filter(|old| old["status"] == status).map(|old| old["lastTransitionTime"].clone());
        let new = json!({"type": kind, "status": status, "lastUpdateTime": now,
            "lastTransitionTime": kept.unwrap_or_else(|| now.clone()), "reason": reason, "message": message});
        self.push(kind, new);
    }

    /// Conditions that change go to the end, as upstream writes them.
    fn push(&mut self, kind: &str, new: Value) {
        remove_condition(&mut self.status, kind);
        if !self.status["conditions"].is_array() {
            self.status["conditions"] = json!([]);
        }
        if let Some(list) = self.status["conditions"].as_array_mut() {
            list.push(new);
        }
    }

    /// Pausing and resuming is told, so that nobody takes a paused rollout for a stuck one.
    pub(super) fn note_pause(&mut self) {
        let reason = self.progressing().and_then(|progressing| progressing["reason"].as_str()).unwrap_or_default();
        if self.deadline().is_none() || reason == "ProgressDeadlineExceeded" {
            return;
        }
        match (self.is_paused(), reason == "DeploymentPaused") {
            (true, false) => self.set_progressing("Unknown", "DeploymentPaused", "Deployment is paused"),
            (false, true) => self.set_progressing("Unknown", "DeploymentResumed", "Deployment is resumed"),
            _ => {}
        }
    }

    /// Counts and availability.
    pub(super) fn tell_status(&mut self) {
        self.count();
        let status = std::mem::take(&mut self.status);
        self.plan.writes.extend(self.item.status_write(&DEPLOYMENTS, &status));
    }

    fn count(&mut self) {
        let available = self.total("availableReplicas");
        let unavailable = (self.total_replicas() - available).max(0);
        let updated = self.new.as_ref().map_or(0, |new| new.status("replicas"));
        let (replicas, ready) = (self.total("replicas"), self.total("readyReplicas"));
        let terminating = self.terminating();
        let status = &mut self.status;
        set_count(status, "observedGeneration", self.item.meta().generation);
        set_count(status, "replicas", replicas);
        set_count(status, "updatedReplicas", updated);
        set_count(status, "readyReplicas", ready);
        set_count(status, "availableReplicas", available);
        set_count(status, "unavailableReplicas", unavailable);
        match terminating {
            Some(count) => status["terminatingReplicas"] = json!(count),
            None => remove(status, "terminatingReplicas"),
        }
        if available >= self.replicas() - self.max_unavailable() {
            self.set("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.");
        } else {
            let message = "Deployment does not have minimum availability.";
            self.set("Available", "False", "MinimumReplicasUnavailable", message);
        }
    }

    /// Unknown as long as one set that was seen by its controller does not tell.
    fn terminating(&self) -> Option<i64> {
        let mut sum = 0;
        for set in self.sets() {
            match set.item.at("/status/terminatingReplicas").as_i64() {
                Some(count) => sum += count,
                None if set.status("observedGeneration") == 0 => {}
                None => return None,
            }
        }
        Some(sum)
    }

    /// Counts, and whether the rollout gets on.
    pub(super) fn tell_rollout_status(&mut self) {
        let before = self.item.at("/status").clone();
        let was = condition(&before, "Progressing").cloned();
        self.count();
        let done = was.as_ref().is_some_and(|was| was["reason"] == "NewReplicaSetAvailable");
        let finished = done && count_of(&self.status, "replicas") == count_of(&self.status, "updatedReplicas");
        match self.deadline() {
            None => remove_condition(&mut self.status, "Progressing"),
            Some(deadline) if !finished => self.tell_progress(&before, was, deadline),
            Some(_) => {}
        }
        self.tell_failures();
        let status = std::mem::take(&mut self.status);
        let write = self.item.status_write(&DEPLOYMENTS, &status);
        if write.is_none() {
            self.wait_for_deadline();
        }
        self.plan.writes.extend(write);
    }

    fn tell_progress(&mut self, before: &Value, was: Option<Value>, deadline: i64) {
        let about = match &self.new {
            Some(new) => format!("ReplicaSet \"{}\"", new.item.name()),
            None => format!("Deployment \"{}\"", self.item.name()),
        };
        if self.completes(&self.status) {
            let message = format!("{about} has successfully progressed.");
            self.set_progressing("True", "NewReplicaSetAvailable", &message);
        } else if progressed(before, &self.status) {
            let now = json!(rfc3339(self.now));
            let kept = was.filter(|was| was["status"] == "True").map(|was| was["lastTransitionTime"].clone());
            let new = json!({"type": "Progressing", "status": "True", "lastUpdateTime": now,
                "lastTransitionTime": kept.unwrap_or_else(|| now.clone()), "reason": "ReplicaSetUpdated",
                "message": format!("{about} is progressing.")});
            self.push("Progressing", new);
        } else if self.timed_out(deadline) {
            let message = format!("{about} has timed out progressing.");
            self.set_progressing("False", "ProgressDeadlineExceeded", &message);
        }
    }

    fn timed_out(&self, deadline: i64) -> bool {
        let Some(progressing) = self.progressing() else { return false };
        match progressing["reason"].as_str() {
            Some("NewReplicaSetAvailable") => false,
            Some("ProgressDeadlineExceeded") => true,
            _ => time(&progressing["lastUpdateTime"])
                .is_some_and(|at| self.now.duration_since(at).as_secs_f64() > deadline as f64),
        }
    }

    /// A set's failure to make pods is the deployment's.
    fn tell_failures(&mut self) {
        let failure = |set: &super::Set| condition(set.item.at("/status"), "ReplicaFailure").cloned();
        match self.new.as_ref().and_then(failure).or_else(|| self.old.iter().find_map(failure)) {
            None => remove_condition(&mut self.status, "ReplicaFailure"),
            Some(mut failure) => {
                let old = condition(&self.status, "ReplicaFailure");
                if old.is_some_and(|old| old["status"] == failure["status"] && old["reason"] == failure["reason"]) {
                    return;
                }
                failure["lastUpdateTime"] = failure["lastTransitionTime"].clone();
                self.push("ReplicaFailure", failure);
            }
        }
    }

    /// Looks again when a rollout that stands still would have timed out.
    fn wait_for_deadline(&mut self) {
        let status = self.item.at("/status");
        let (Some(deadline), Some(progressing)) = (self.deadline(), condition(status, "Progressing")) else { return };
        if self.completes(status) || progressing["reason"] == "ProgressDeadlineExceeded" {
            return;
        }
        let Some(at) = time(&progressing["lastUpdateTime"]) else { return };
        let left = deadline as f64 - self.now.duration_since(at).as_secs_f64();
        self.plan.wake_by(Duration::from_secs_f64(left.max(0.0) + 1.0));
    }

    pub(super) fn completes(&self, status: &Value) -> bool {
        let all = ["updatedReplicas", "replicas", "availableReplicas"];
        all.iter().all(|field| count_of(status, field) == self.replicas())
            && count_of(status, "observedGeneration") >= self.item.meta().generation
    }
}

fn count_of(status: &Value, field: &str) -> i64 {
    status[field].as_i64().unwrap_or(0)
}

/// More of the new or fewer of the old than was told last.
fn progressed(before: &Value, after: &Value) -> bool {
    let old = |status: &Value| count_of(status, "replicas") - count_of(status, "updatedReplicas");
    let more = |field: &str| count_of(after, field) > count_of(before, field);
    more("updatedReplicas") || old(after) < old(before) || more("readyReplicas") || more("availableReplicas")
}
