//! What a stateful set tells of itself: how many pods there are, of which template, and the names of the revisions.

use std::time::Duration;

use serde_json::{Value, json};

use super::Decision;
use super::identity::REVISION_LABEL;
use super::order::is_running_and_ready;
use crate::pods;
use crate::shape::{Item, set_count, status_of};

/// Pods by what they are.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub replicas: i64,
    pub ready: i64,
    pub available: i64,
    pub current: i64,
    pub updated: i64,
}

impl Counts {
    /// A pod that is created now.
    pub fn made(&mut self, of_current: bool, of_update: bool) {
        self.replicas += 1;
        self.current += i64::from(of_current);
        self.updated += i64::from(of_update);
    }
}

impl Decision<'_> {
    pub(super) fn count(&self, pods: &[Item]) -> Counts {
        let mut counts = Counts { replicas: pods.len() as i64, ..Counts::default() };
        for pod in pods {
            let ready = is_running_and_ready(pod);
            counts.ready += i64::from(ready);
            counts.available += i64::from(ready && self.is_available(pod));
            let revision = pod.meta().label(REVISION_LABEL).filter(|_| !pod.meta().is_deleting());
            counts.current += i64::from(revision == Some(&self.current.name));
            counts.updated += i64::from(revision == Some(&self.update.name));
        }
        counts
    }

    pub(super) fn status(&self) -> Value {
        let counts = &self.counts;
        let (mut current, mut current_name) = (counts.current, &self.current.name);
        let all = [counts.updated, counts.ready, counts.replicas].iter().all(|count| *count == self.size());
        if all && self.set.at("/spec/updateStrategy/type") == "RollingUpdate" {
            (current, current_name) = (counts.updated, &self.update.name);
        }
        let mut status = status_of(&self.set);
        set_count(&mut status, "observedGeneration", self.set.meta().generation);
        status["replicas"] = json!(counts.replicas);
        set_count(&mut status, "readyReplicas", counts.ready);
        set_count(&mut status, "currentReplicas", current);
        set_count(&mut status, "updatedReplicas", counts.updated);
        status["currentRevision"] = json!(current_name);
        status["updateRevision"] = json!(self.update.name);
        status["collisionCount"] = json!(self.set.int("/status/collisionCount"));
        status["availableReplicas"] = json!(counts.available);
        status
    }

    pub(super) fn wait_for_availability(&mut self) {
        let min_ready = self.set.int("/spec/minReadySeconds");
        let pods = self.replicas.iter().filter_map(|replica| replica.pod.as_ref()).chain(&self.condemned);
        let waits = pods.filter_map(|pod| pods::until_available(pod, min_ready, self.now));
        if let Some(wait) = waits.filter(|wait| !wait.is_zero()).min() {
            self.plan.wake_by(wait + Duration::from_millis(1));
        }
    }
}
