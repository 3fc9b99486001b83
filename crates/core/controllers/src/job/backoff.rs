//! How long failed pods hold their replacements back, told from the pods themselves.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::pods::pod_condition;
use crate::shape::{Item, time};

const DELAY: Duration = Duration::from_secs(10);
const DELAY_MAX: Duration = Duration::from_secs(600);

/// When a pod finished, by its containers or the next best sign.
pub fn finished_at(pod: &Item) -> Timestamp {
    let not_ready = pod_condition(pod, "Ready").filter(|condition| condition["status"] == "False");
    by_containers(pod)
        .or_else(|| time(&not_ready?["lastTransitionTime"]))
        .or_else(|| {
            let grace = Duration::from_secs(pod.int("/metadata/deletionGracePeriodSeconds").unsigned_abs());
            time(pod.at("/metadata/deletionTimestamp"))?.checked_sub(grace).ok()
        })
        .unwrap_or_else(|| pod.created())
}

fn by_containers(pod: &Item) -> Option<Timestamp> {
    let is_sidecar = |status: &&Value| {
        let same = |container: &&Value| container["name"] == status["name"];
        pod.list("/spec/initContainers").iter().find(same).is_some_and(|found| found["restartPolicy"] == "Always")
    };
    let sidecars = pod.list("/status/initContainerStatuses").iter().filter(is_sidecar);
    let mut latest = None;
    for status in pod.list("/status/containerStatuses").iter().chain(sidecars) {
        latest = latest.max(Some(time(&status["state"]["terminated"]["finishedAt"])?));
    }
    latest
}

/// What is left of the delay after so many failures, the last of them at `at`.
pub fn remaining(failures: i64, at: Timestamp, now: Timestamp) -> Duration {
    if failures <= 0 {
        return Duration::ZERO;
    }
    let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(16);
    let delay = (DELAY * 2_u32.pow(doublings)).min(DELAY_MAX);
    let passed = now.duration_since(at).as_secs_f64().max(0.0);
    Duration::from_secs_f64((delay.as_secs_f64() - passed).max(0.0))
}

/// Failures since the last success, and what is left of their delay.
pub fn remaining_after(succeeded: &[&Item], failed: &[&Item], now: Timestamp) -> Duration {
    let success = succeeded.iter().map(|pod| finished_at(pod)).max();
    let times: Vec<Timestamp> =
        failed.iter().map(|pod| finished_at(pod)).filter(|at| success.is_none_or(|success| *at > success)).collect();
    match times.iter().max() {
        Some(last) => remaining(times.len() as i64, *last, now),
        None => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_ten_minutes() {
        let at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (failures, seconds) in [(0, 0), (1, 10), (2, 20), (4, 80), (7, 600), (900, 600)] {
            assert_eq!(remaining(failures, at, at).as_secs(), seconds, "{failures}");
        }
        assert_eq!(remaining(1, at, at + Duration::from_secs(4)).as_secs(), 6);
    }
}
