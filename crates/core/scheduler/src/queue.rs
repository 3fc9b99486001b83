//! Pods waiting for a node: ready ones by rank and age, failed ones waiting out their back-off, unschedulable ones
//! until a change may help them, gated ones until their gates are lifted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::pod::{PodInfo, PodKey};

/// However little changed, a pod is tried again after this long.
const STALE_MAX: SignedDuration = SignedDuration::from_mins(5);

/// The plugins that rejected a pod.
pub type Rejectors = BTreeSet<&'static str>;

#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub first: SignedDuration,
    pub most: SignedDuration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff { first: SignedDuration::from_secs(1), most: SignedDuration::from_secs(10) }
    }
}

impl Backoff {
    /// Doubles with each attempt.
    fn after(&self, attempts: u32) -> SignedDuration {
        (self.first * 2i32.pow(attempts.saturating_sub(1).min(20))).min(self.most)
    }
}

#[derive(Clone, Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    rank: i64,
    attempts: u32,
    /// When it came, or was last tried.
    since: Timestamp,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Gated,
    Backoff {
        until: Timestamp,
        /// Waiting after an error, which is never cut short.
        error: bool,
    },
    Unschedulable {
        by: Rejectors,
    },
}

/// Pods of one shape and one scheduler, which a change helps alike; by where the shape lies, which each of them holds on
/// to.
type Alike = (usize, String);

/// Highest rank first, then the longest waiting; the key makes the order whole.
type Order = (Reverse<i64>, Timestamp, PodKey);

#[derive(Default)]
pub struct Queue {
    backoff: Backoff,
    pods: HashMap<PodKey, Waiting>,
    ready: BTreeSet<Order>,
    /// Those that time makes ready.
    due: BTreeSet<(Timestamp, PodKey)>,
    /// Those that a back-off holds though nothing went wrong: they go as soon as nobody else is ready.
    eager: BTreeSet<(Timestamp, PodKey)>,
    unschedulable: BTreeMap<Rejectors, HashMap<Alike, BTreeSet<PodKey>>>,
}

impl Queue {
    pub fn new(backoff: Backoff) -> Queue {
        Queue { backoff, ..Queue::default() }
    }

    /// Adds a pod that was not known.
    pub fn add(&mut self, pod: Arc<PodInfo>, rank: i64, now: Timestamp) {
        self.insert(Waiting { pod, rank, attempts: 0, since: now, state: State::Ready });
    }

    /// Adds a pod that may not be tried yet.
    pub fn add_gated(&mut self, pod: Arc<PodInfo>, rank: i64, now: Timestamp) {
        self.insert(Waiting { pod, rank, attempts: 0, since: now, state: State::Gated });
    }

    /// The pod as it is known here.
    pub fn get(&self, key: &PodKey) -> Option<&Arc<PodInfo>> {
        self.pods.get(key).map(|waiting| &waiting.pod)
    }

    /// Takes over a new version without moving the pod.
    pub fn update(&mut self, pod: Arc<PodInfo>, rank: i64) {
        if let Some(waiting) = self.remove(&pod.key) {
            self.insert(Waiting { pod, rank, ..waiting });
        }
    }

    pub fn forget(&mut self, key: &PodKey) {
        self.remove(key);
    }

    /// Takes the next pod out, with how often it has been tried before.
    pub fn pop(&mut self, now: Timestamp) -> Option<(Arc<PodInfo>, u32)> {
        self.release(now);
        let key = match self.ready.first() {
            Some((_, _, key)) => key.clone(),
            None => self.eager.first()?.1.clone(),
        };
        let waiting = self.remove(&key)?;
        Some((waiting.pod, waiting.attempts))
    }

    /// Puts a pod back that no node could take.
    pub fn unschedulable(&mut self, (pod, rank): (Arc<PodInfo>, i64), attempts: u32, by: Rejectors, now: Timestamp) {
        let state = State::Unschedulable { by };
        self.insert(Waiting { pod, rank, attempts: attempts + 1, since: now, state });
    }

    /// Puts a pod back whose binding failed.
    pub fn failed(&mut self, (pod, rank): (Arc<PodInfo>, i64), attempts: u32, now: Timestamp) {
        let until = now + self.backoff.after(attempts + 1);
        let state = State::Backoff { until, error: true };
        self.insert(Waiting { pod, rank, attempts: attempts + 1, since: now, state });
    }

    /// The unschedulable pods that a change may help.
    /// `listens` sorts out whole groups by who rejected them, `helps` judges one pod for all that are like it. Tells
    /// which pods to let go by `move_on`.
    pub fn helped(
        &self,
        listens: impl Fn(&Rejectors) -> bool,
        helps: impl Fn(&PodInfo, &Rejectors) -> bool,
    ) -> Vec<PodKey> {
        let mut keys = Vec::new();
        for (by, groups) in self.unschedulable.iter().filter(|(by, _)| listens(by)) {
            let helped = |group: &&BTreeSet<PodKey>| group.first().is_some_and(|key| helps(&self.pods[key].pod, by));
            keys.extend(groups.values().filter(helped).flatten().cloned());
        }
        keys
    }

    /// Whether any pod waits for a change.
    pub fn has_unschedulable(&self) -> bool {
        !self.unschedulable.is_empty()
    }

    /// The plugins that a pod waits for.
    pub fn rejectors(&self, key: &PodKey) -> Option<&Rejectors> {
        match &self.pods.get(key)?.state {
            State::Unschedulable { by } => Some(by),
            _ => None,
        }
    }

    pub fn is_gated(&self, key: &PodKey) -> bool {
        self.pods.get(key).is_some_and(|waiting| waiting.state == State::Gated)
    }

    /// Lets an unschedulable or gated pod go as far as its back-off allows.
    pub fn move_on(&mut self, key: &PodKey, now: Timestamp) {
        let Some(waiting) = self.remove(key) else { return };
        let until = waiting.since + self.backoff.after(waiting.attempts);
        let state = match waiting.state {
            State::Gated => State::Ready,
            State::Unschedulable { .. } if waiting.attempts == 0 || until <= now => State::Ready,
            State::Unschedulable { .. } => State::Backoff { until, error: false },
            other => other,
        };
        self.insert(Waiting { state, ..waiting });
    }

    /// When time alone makes another pod ready.
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Whether `pop` would give a pod now.
    pub fn is_ready(&self) -> bool {
        !self.ready.is_empty() || !self.eager.is_empty()
    }

    pub fn len(&self) -> usize {
        self.pods.len()
    }

    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
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
        if let Some(due) = waiting.due() {
            self.due.insert((due, key.clone()));
        }
        match &waiting.state {
            State::Ready => {
                self.ready.insert(waiting.order());
            }
            State::Backoff { until, error: false } => {
                self.eager.insert((*until, key.clone()));
            }
            State::Unschedulable { by } => {
                let groups = self.unschedulable.entry(by.clone()).or_default();
                groups.entry(waiting.alike()).or_default().insert(key.clone());
            }
            State::Gated | State::Backoff { .. } => (),
        }
        self.pods.insert(key, waiting);
    }

    fn remove(&mut self, key: &PodKey) -> Option<Waiting> {
        let waiting = self.pods.remove(key)?;
        if let Some(due) = waiting.due() {
            self.due.remove(&(due, key.clone()));
        }
        match &waiting.state {
            State::Ready => {
                self.ready.remove(&waiting.order());
            }
            State::Backoff { until, error: false } => {
                self.eager.remove(&(*until, key.clone()));
            }
            State::Unschedulable { by } => {
                let groups = self.unschedulable.get_mut(by).expect("those who rejected a pod have groups");
                let group = groups.get_mut(&waiting.alike()).expect("an unschedulable pod is in a group");
                group.remove(key);
                if group.is_empty() {
                    groups.remove(&waiting.alike());
                }
                if groups.is_empty() {
                    self.unschedulable.remove(by);
                }
            }
            State::Gated | State::Backoff { .. } => (),
        }
        Some(waiting)
    }
}

impl Waiting {
    /// When time alone ends it.
    fn due(&self) -> Option<Timestamp> {
        match &self.state {
            State::Ready | State::Gated => None,
            State::Backoff { until, .. } => Some(*until),
            State::Unschedulable { .. } => Some(self.since + STALE_MAX),
        }
    }

    fn alike(&self) -> Alike {
        (Arc::as_ptr(&self.pod.shape).addr(), self.pod.scheduler_name.clone())
    }

    fn order(&self) -> Order {
        (Reverse(self.rank), self.since, self.pod.key.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Shapes;

    fn pod(name: &str) -> Arc<PodInfo> {
        PodInfo::read(format!(r#"{{"metadata":{{"name":"{name}"}}}}"#).as_bytes(), &mut Shapes::default()).unwrap()
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn popped(queue: &mut Queue, seconds: i64) -> Option<String> {
        queue.pop(at(seconds)).map(|(pod, _)| pod.key.name.clone())
    }

    fn wake(queue: &mut Queue, seconds: i64) {
        for key in queue.helped(|_| true, |_, _| true) {
            queue.move_on(&key, at(seconds));
        }
    }

    #[test]
    fn pods_alike_are_judged_once() {
        let (mut queue, mut shapes) = (Queue::default(), Shapes::default());
        for (name, scheduler) in [("a", "x"), ("b", "x"), ("c", "y")] {
            let text = format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"schedulerName":"{scheduler}"}}}}"#);
            let pod = PodInfo::read(text.as_bytes(), &mut shapes).unwrap();
            queue.unschedulable((pod, 0), 0, BTreeSet::new(), at(0));
        }
        let judged = std::cell::Cell::new(0);
        let helps = |pod: &PodInfo, _: &Rejectors| {
            judged.set(judged.get() + 1);
            pod.scheduler_name == "x"
        };
        let mut names: Vec<_> = queue.helped(|_| true, helps).into_iter().map(|key| key.name).collect();
        names.sort();
        assert_eq!((names, judged.get()), (vec!["a".to_owned(), "b".to_owned()], 2));
    }

    #[test]
    fn higher_rank_goes_first_then_the_longest_waiting() {
        let mut queue = Queue::default();
        queue.add(pod("late"), 0, at(2));
        queue.add(pod("early"), 0, at(1));
        queue.add(pod("high"), 9, at(3));
        let order: Vec<_> = std::iter::from_fn(|| popped(&mut queue, 3)).collect();
        assert_eq!(order, ["high", "early", "late"]);
    }

    #[test]
    fn only_a_change_that_may_help_wakes_a_pod() {
        let mut queue = Queue::default();
        queue.unschedulable((pod("p"), 0), 0, BTreeSet::from(["TaintToleration"]), at(0));
        assert!(queue.helped(|by| by.contains("NodePorts"), |_, _| true).is_empty());
        assert!(queue.helped(|_| true, |_, _| false).is_empty());
        assert_eq!(popped(&mut queue, 60), None);
        wake(&mut queue, 60);
        assert_eq!(popped(&mut queue, 60).as_deref(), Some("p"));
    }

    #[test]
    fn a_pod_in_back_off_goes_when_nobody_else_is_ready() {
        let mut queue = Queue::default();
        queue.unschedulable((pod("p"), 9), 0, BTreeSet::new(), at(0));
        wake(&mut queue, 0);
        queue.add(pod("fresh"), 0, at(0));
        assert_eq!(popped(&mut queue, 0).as_deref(), Some("fresh"));
        assert_eq!(queue.next_wake(), Some(at(1)));
        assert_eq!(popped(&mut queue, 0).as_deref(), Some("p"));
    }

    #[test]
    fn back_off_after_an_error_is_not_cut_short_and_grows() {
        let mut queue = Queue::default();
        queue.failed((pod("p"), 0), 2, at(0));
        assert_eq!(popped(&mut queue, 3), None);
        assert_eq!(popped(&mut queue, 4).as_deref(), Some("p"));
        queue.failed((pod("p"), 0), 30, at(0));
        assert_eq!(queue.next_wake(), Some(at(10)));
    }

    #[test]
    fn what_nothing_wakes_is_tried_again_after_five_minutes() {
        let mut queue = Queue::default();
        queue.unschedulable((pod("p"), 0), 0, BTreeSet::from(["x"]), at(0));
        assert_eq!(popped(&mut queue, 299), None);
        assert_eq!(popped(&mut queue, 300).as_deref(), Some("p"));
    }

    #[test]
    fn a_pod_that_is_gone_leaves_nothing_behind() {
        let mut queue = Queue::default();
        queue.failed((pod("p"), 0), 0, at(0));
        queue.unschedulable((pod("q"), 0), 0, BTreeSet::new(), at(0));
        queue.forget(&pod("p").key);
        queue.forget(&pod("q").key);
        assert!(queue.next_wake().is_none() && queue.is_empty() && !queue.has_unschedulable());
    }
}
