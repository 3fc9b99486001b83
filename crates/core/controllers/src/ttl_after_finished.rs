//! Finished Jobs go when the time they set for themselves has passed.

use std::time::Duration;

use coracle_meta::Resource;
use coracle_reconcile::{Controller, Key, Outcome, Plan, Propagation, View, Watch, Write};
use jiff::Timestamp;

use crate::shape::{Item, time};

const JOBS: Resource = Resource::new("batch", "jobs");

pub struct TtlAfterFinished;

impl Controller for TtlAfterFinished {
    fn name(&self) -> &'static str {
        "ttl-after-finished-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::itself(JOBS)]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, now: Timestamp) -> Plan {
        let job = Item::get(view, &JOBS, key).filter(|job| !job.meta().is_deleting());
        let Some(left) = job.as_ref().and_then(|job| seconds_left(job, now)) else { return Plan::default() };
        if left > 0.0 {
            return Plan::wake(Duration::from_secs_f64(left));
        }
        let mut plan = Plan::default();
        if let Some(job) = job {
            let mut delete = job.delete(&JOBS);
            if let Write::Delete { propagation, resource_version, .. } = &mut delete {
                *propagation = Some(Propagation::Foreground);
                *resource_version = Some(job.object.revision.to_string());
            }
            plan.writes.push(delete);
        }
        plan
    }
}

/// `None` for a job that has not finished or sets no time.
fn seconds_left(job: &Item, now: Timestamp) -> Option<f64> {
    let seconds = job.at("/spec/ttlSecondsAfterFinished").as_i64()?;
    let finished = job.list("/status/conditions").iter().find(|condition| {
        (condition["type"] == "Complete" || condition["type"] == "Failed") && condition["status"] == "True"
    })?;
    Some(seconds as f64 - now.duration_since(time(&finished["lastTransitionTime"])?).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::{FakeView, Witness};
    use serde_json::json;

    #[test]
    fn a_finished_job_waits_out_its_time() {
        let job = json!({"metadata": {"name": "j", "namespace": "n"}, "spec": {"ttlSecondsAfterFinished": 60},
            "status": {"conditions": [
                {"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        let view = FakeView::new().with(JOBS, job);
        let (key, start) = (Key::new("n", "j"), "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap());
        let early = TtlAfterFinished.decide(&view, &key, &Outcome::default(), start + Duration::from_secs(20));
        assert_eq!(early, Plan::wake(Duration::from_secs(40)));
        view.settle(&TtlAfterFinished, &key, start + Duration::from_secs(60));
        assert!(view.names(&JOBS).is_empty());
    }
}
