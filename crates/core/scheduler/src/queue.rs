//! Pods waiting for a node: ready ones by priority and age, failed ones waiting out their back-off, unschedulable ones
//! until a change may help them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::framework::Wake;
use crate::plugins::PLUGINS;
use crate::pod::{PodInfo, PodKey};

const BACKOFF_FIRST: SignedDuration = SignedDuration::from_secs(1);
const BACKOFF_MAX: SignedDuration = SignedDuration::from_secs(10);
/// However little changed, a pod is tried again after this long.
const STALE_MAX: SignedDuration = SignedDuration::from_mins(5);

#[derive(Clone, Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    attempts: u32,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Ready,
    /// Held by its scheduling gates.
    Gated,
    Backoff {
        until: Timestamp,
    },
    Unschedulable {
        since: Timestamp,
        by: BTreeSet<&'static str>,
    },
}

/// Highest priority first, then the oldest; the key makes the order whole.
type Rank = (std::cmp::Reverse<i32>, Option<Timestamp>, PodKey);

#[derive(Default)]
pub struct Queue {
    pods: HashMap<PodKey, Waiting>,
    ready: BTreeSet<Rank>,
    /// The others that time or a change makes ready; the many that are ready or gated need not be looked at for them.
    due: BTreeSet<(Timestamp, PodKey)>,
}

impl Queue {
    /// Adds a pod or takes over its new version. A pod whose own change may help it is ready again.
    pub fn set(&mut self, pod: Arc<PodInfo>) {
        let attempts = self.remove(&pod.key).map_or(0, |was| was.attempts);
        let state = if pod.gates.is_empty() { State::Ready } else { State::Gated };
        self.insert(Waiting { pod, attempts, state });
    }

    pub fn contains(&self, key: &PodKey) -> bool {
        self.pods.contains_key(key)
    }

    /// The pod as it is known here.
    pub fn get(&self, key: &PodKey) -> Option<&Arc<PodInfo>> {
        self.pods.get(key).map(|waiting| &waiting.pod)
    }

    pub fn forget(&mut self, key: &PodKey) {
        self.remove(key);
    }

    /// Takes the next ready pod out, with how often it has been tried before.
    pub fn pop(&mut self, now: Timestamp) -> Option<(Arc<PodInfo>, u32)> {
        self.release(now);
        let key = self.ready.first()?.2.clone();
        let waiting = self.remove(&key)?;
        Some((waiting.pod, waiting.attempts))
    }

    /// Puts a pod back that no node could take.
    pub fn unschedulable(&mut self, pod: Arc<PodInfo>, attempts: u32, by: BTreeSet<&'static str>, now: Timestamp) {
        self.insert(Waiting { pod, attempts: attempts + 1, state: State::Unschedulable { since: now, by } });
    }

    /// Puts a pod back whose binding failed.
    pub fn failed(&mut self, pod: Arc<PodInfo>, attempts: u32, now: Timestamp) {
        let until = now + backoff(attempts + 1);
        self.insert(Waiting { pod, attempts: attempts + 1, state: State::Backoff { until } });
    }

    /// Moves the pods that a change may help to back-off, from which time lets them go.
    pub fn wake(&mut self, change: Wake) {
        let helped = |key: &PodKey| self.pods.get(key).is_some_and(|waiting| waiting.state.may_end_by(change));
        let keys: Vec<_> = self.due.iter().map(|(_, key)| key).filter(|key| helped(key)).cloned().collect();
        for waiting in keys.iter().filter_map(|key| self.remove(key)).collect::<Vec<_>>() {
            let State::Unschedulable { since, .. } = waiting.state else { continue };
            let state = State::Backoff { until: since + backoff(waiting.attempts) };
            self.insert(Waiting { state, ..waiting });
        }
    }

    /// When time alone makes another pod ready.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.due.first().map(|(due, _)| *due)
    }

    fn release(&mut self, now: Timestamp) {
        while let Some((due, key)) = self.due.first()
            && *due <= now
        {
            let key = key.clone();
            let waiting = self.remove(&key).expect("what is due waits");
            self.insert(Waiting { state: State::Ready, ..waiting });
        }
    }

    fn insert(&mut self, waiting: Waiting) {
        let key = waiting.pod.key.clone();
        self.remove(&key);
        match waiting.state.due() {
            Some(due) => self.due.insert((due, key.clone())),
            None => waiting.state == State::Ready && self.ready.insert(rank(&waiting.pod)),
        };
        self.pods.insert(key, waiting);
    }

    fn remove(&mut self, key: &PodKey) -> Option<Waiting> {
        let waiting = self.pods.remove(key)?;
        match waiting.state.due() {
            Some(due) => self.due.remove(&(due, key.clone())),
            None => self.ready.remove(&rank(&waiting.pod)),
        };
        Some(waiting)
    }
}

impl State {
    /// When time alone ends it.
    fn due(&self) -> Option<Timestamp> {
        match self {
            State::Ready | State::Gated => None,
            State::Backoff { until } => Some(*until),
            State::Unschedulable { since, .. } => Some(*since + STALE_MAX),
        }
    }

    fn may_end_by(&self, change: Wake) -> bool {
        let State::Unschedulable { by, .. } = self else { return false };
        by.is_empty() || by.iter().any(|name| plugin_wakes(name, change))
    }
}

fn rank(pod: &PodInfo) -> Rank {
    (std::cmp::Reverse(pod.priority), pod.created, pod.key.clone())
}

fn plugin_wakes(name: &str, change: Wake) -> bool {
    PLUGINS.iter().any(|plugin| plugin.name() == name && plugin.wakes().contains(&change))
}

/// Doubles from a second to ten.
fn backoff(attempts: u32) -> SignedDuration {
    (BACKOFF_FIRST * 2i32.pow(attempts.saturating_sub(1).min(10))).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
        let text = format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"containers":[],"priority":{priority}}}}}"#);
        PodInfo::new(&serde_json::from_str(&text).unwrap())
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn higher_priority_goes_first() {
        let mut queue = Queue::default();
        queue.set(pod("low", 0));
        queue.set(pod("high", 9));
        assert_eq!(queue.pop(at(0)).unwrap().0.key.name, "high");
    }

    #[test]
    fn only_a_change_that_may_help_wakes_a_pod_and_only_after_its_backoff() {
        let mut queue = Queue::default();
        queue.unschedulable(pod("p", 0), 0, BTreeSet::from(["TaintToleration"]), at(0));
        queue.wake(Wake::PodGone);
        assert!(queue.pop(at(60)).is_none());
        queue.wake(Wake::NodeTaints);
        assert!(queue.pop(at(0)).is_none());
        assert_eq!(queue.next_wake(), Some(at(1)));
        assert!(queue.pop(at(1)).is_some());
    }

    #[test]
    fn a_pod_whose_binding_failed_is_not_due_once_it_is_gone() {
        let mut queue = Queue::default();
        queue.failed(pod("p", 0), 0, at(0));
        queue.forget(&pod("p", 0).key);
        assert_eq!(queue.next_wake(), None);
        assert!(queue.pop(at(60)).is_none());
    }
}
