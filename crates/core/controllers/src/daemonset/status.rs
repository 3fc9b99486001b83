//! What a daemon set tells of itself: how many nodes want, have and lack a pod.

use std::time::Duration;

use serde_json::{Value, json};

use super::Decision;
use crate::pods;
use crate::shape::{set_count, status_of};

impl Decision<'_> {
    pub(super) fn status(&self) -> Value {
        let (mut desired, mut current, mut misscheduled) = (0, 0, 0);
        let (mut ready, mut updated, mut available) = (0, 0, 0);
        for (node, fit) in &self.nodes {
            let pod = self.pods.get(node.name()).and_then(|pods| pods.first());
            if !fit.should_run {
                misscheduled += i64::from(pod.is_some());
                continue;
            }
            desired += 1;
            let Some(pod) = pod else { continue };
            current += 1;
            ready += i64::from(pods::is_ready(pod));
            available += i64::from(self.is_available(pod));
            updated += i64::from(self.is_updated(pod));
        }
        let mut status = status_of(&self.set);
        status["currentNumberScheduled"] = json!(current);
        status["numberMisscheduled"] = json!(misscheduled);
        status["desiredNumberScheduled"] = json!(desired);
        status["numberReady"] = json!(ready);
        set_count(&mut status, "observedGeneration", self.set.meta().generation);
        set_count(&mut status, "updatedNumberScheduled", updated);
        set_count(&mut status, "numberAvailable", available);
        set_count(&mut status, "numberUnavailable", desired - available);
        status
    }

    pub(super) fn wait_for_availability(&mut self) {
        let min_ready = self.set.int("/spec/minReadySeconds");
        let waits = self.pods.values().flatten().filter_map(|pod| pods::until_available(pod, min_ready, self.now));
        if let Some(wait) = waits.filter(|wait| !wait.is_zero()).min() {
            self.plan.wake_by(wait + Duration::from_millis(1));
        }
    }
}
