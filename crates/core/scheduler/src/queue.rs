//! Pods waiting for a node: ready ones by rank and age, failed ones waiting out their back-off, unschedulable ones
//! until a change may help them, gated ones until their gates are lifted.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::pod::{PodInfo, PodKey};

/// However little changed, a pod is tried again after this long.
const STALE_MAX: SignedDuration = SignedDuration::from_mins(5);

/// So many seconds, but not so many that time would end.
pub fn bounded(seconds: i64) -> SignedDuration {
    const SECONDS_MAX: i64 = 10 * 365 * 24 * 3600;
    SignedDuration::from_secs(seconds.min(SECONDS_MAX))
}

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

/// How often a pod was tried, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    /// Those before the one under way.
    pub made: u32,
    /// When the pod could be tried for the first time.
    pub first: Timestamp,
    /// When it took its place in the queue.
    pub since: Timestamp,
    /// When the one under way began.
    pub began: Timestamp,
    /// Only time brought the pod up again, and no change of the cluster.
    pub flushed: bool,
}

/// Queues by the names that metrics give them.
const ACTIVE: &str = "active";
const BACKOFF: &str = "backoff";
const UNSCHEDULABLE: &str = "unschedulable";

/// What moves pods between queues beside changes of the cluster, by the names that metrics give it.
const ADDED: &str = "UnschedulablePodAdd";
const FAILED: &str = "ScheduleAttemptFailure";
const WAITED: &str = "BackoffComplete";
const ACTIVATED: &str = "ForceActivate";
const POPPED_EARLY: &str = "PopFromBackoffQ";
const TIMED_OUT: &str = "UnschedulableTimeout";

#[derive(Clone, Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    rank: i64,
    attempts: u32,
    /// When it came, or was last tried.
    since: Timestamp,
    /// When it could be tried for the first time.
    first: Option<Timestamp>,
    flushed: bool,
    /// The plugins that rejected it when it was last tried, or keep it from being tried.
    by: Rejectors,
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
    Unschedulable,
    /// Extenders are asked about it.
    Asked,
    /// It waits until they were asked about another.
    Held,
}

/// How many pods wait, by what they wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depths {
    pub active: usize,
    pub backoff: usize,
    pub unschedulable: usize,
    pub gated: usize,
}

/// Pods of one shape and one scheduler, which a change helps alike; by where the shape lies, which each of them holds on
/// to.
type Alike = (usize, Arc<str>);

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
    /// Those that wait until extenders can be asked.
    held: BTreeSet<Order>,
    gated: usize,
    /// How many are unschedulable.
    stuck: usize,
    /// How often a pod entered a queue, by queue and what made it.
    incoming: BTreeMap<(&'static str, &'static str), u64>,
    /// How many waiting pods each plugin rejected, by scheduler.
    rejected: BTreeMap<String, BTreeMap<&'static str, u64>>,
}

impl Queue {
    pub fn new(backoff: Backoff) -> Queue {
        Queue { backoff, ..Queue::default() }
    }

    /// Adds a pod that was not known.
    pub fn add(&mut self, pod: Arc<PodInfo>, rank: i64, now: Timestamp) {
        self.count(ACTIVE, ADDED);
        self.insert(Waiting::new((pod, rank), State::Ready, now));
    }

    /// Adds a pod that a plugin keeps from being tried.
    pub fn add_gated(&mut self, (pod, rank): (Arc<PodInfo>, i64), by: &'static str, now: Timestamp) {
        self.count(UNSCHEDULABLE, ADDED);
        let waiting = Waiting::new((pod, rank), State::Gated, now);
        self.insert(Waiting { by: Rejectors::from([by]), first: None, ..waiting });
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
    pub fn pop(&mut self, now: Timestamp) -> Option<(Arc<PodInfo>, Tries)> {
        self.release(now);
        let key = match self.ready.first() {
            Some((_, _, key)) => key.clone(),
            None => {
                let key = self.eager.first()?.1.clone();
                self.count(ACTIVE, POPPED_EARLY);
                key
            }
        };
        let Waiting { pod, attempts, first, since, flushed, .. } = self.remove(&key)?;
        Some((pod, Tries { made: attempts, first: first.unwrap_or(now), since, began: now, flushed }))
    }

    /// Takes a pod out that another of its group was taken for, unless it is kept from being tried.
    pub fn take(&mut self, key: &PodKey, now: Timestamp) -> Option<(Arc<PodInfo>, Tries)> {
        match self.pods.get(key)?.state {
            State::Gated | State::Asked => return None,
            State::Ready | State::Held => (),
            State::Backoff { .. } | State::Unschedulable => self.count(ACTIVE, ACTIVATED),
        }
        let Waiting { pod, attempts, first, since, flushed, .. } = self.remove(key)?;
        Some((pod, Tries { made: attempts, first: first.unwrap_or(now), since, began: now, flushed }))
    }

    /// Keeps a pod while extenders are asked about it.
    pub fn ask(&mut self, pod: (Arc<PodInfo>, i64), tries: Tries) {
        self.insert(Waiting::untried(pod, tries, State::Asked));
    }

    /// Takes out a pod that extenders were asked about, as it is now; `None` where it is gone or another took its name.
    pub fn take_asked(&mut self, key: &PodKey) -> Option<Arc<PodInfo>> {
        self.pods.get(key).filter(|waiting| waiting.state == State::Asked)?;
        self.remove(key).map(|waiting| waiting.pod)
    }

    /// Puts a pod back where it stood, to be tried again.
    pub fn again(&mut self, pod: (Arc<PodInfo>, i64), tries: Tries) {
        self.insert(Waiting::untried(pod, tries, State::Ready));
    }

    /// Keeps a pod in its place until extenders can be asked about it.
    pub fn hold(&mut self, pod: (Arc<PodInfo>, i64), tries: Tries) {
        self.insert(Waiting::untried(pod, tries, State::Held));
    }

    /// Lets the first of those that are held be tried.
    pub fn release_held(&mut self) {
        if let Some((_, _, key)) = self.held.first().cloned()
            && let Some(waiting) = self.remove(&key)
        {
            self.insert(Waiting { state: State::Ready, ..waiting });
        }
    }

    /// Puts a pod back that no node could take.
    pub fn unschedulable(&mut self, (pod, rank): (Arc<PodInfo>, i64), tries: Tries, by: Rejectors, now: Timestamp) {
        self.count(UNSCHEDULABLE, FAILED);
        let waiting = Waiting::tried((pod, rank), tries, State::Unschedulable, now);
        self.insert(Waiting { by, ..waiting });
    }

    /// Puts a pod back whose binding failed.
    pub fn failed(&mut self, (pod, rank): (Arc<PodInfo>, i64), tries: Tries, now: Timestamp) {
        self.count(BACKOFF, FAILED);
        let until = now + self.backoff.after(tries.made + 1);
        let state = State::Backoff { until, error: true };
        self.insert(Waiting::tried((pod, rank), tries, state, now));
    }

    /// Puts a pod back whose group came to nothing or had no place for it: time alone brings it up again, or another of
    /// the group, unless a plugin keeps it from being tried.
    pub fn set_back(
        &mut self,
        (pod, rank): (Arc<PodInfo>, i64),
        tries: Tries,
        (by, gate): (Rejectors, Option<&'static str>),
        now: Timestamp,
    ) {
        let until = now + self.backoff.after(tries.made + 1);
        let (queue, state, by) = match gate {
            Some(plugin) => (UNSCHEDULABLE, State::Gated, Rejectors::from([plugin])),
            None => (BACKOFF, State::Backoff { until, error: true }, by),
        };
        self.count(queue, FAILED);
        let waiting = Waiting::tried((pod, rank), tries, state, now);
        self.insert(Waiting { by, ..waiting });
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
        self.pods.get(key).filter(|waiting| waiting.state == State::Unschedulable).map(|waiting| &waiting.by)
    }

    pub fn is_gated(&self, key: &PodKey) -> bool {
        self.gated_by(key).is_some()
    }

    /// The pod and the plugin that keeps it from being tried.
    pub fn gated_by(&self, key: &PodKey) -> Option<(&Arc<PodInfo>, &Rejectors)> {
        let gated = self.pods.get(key).filter(|waiting| waiting.state == State::Gated);
        gated.map(|waiting| (&waiting.pod, &waiting.by))
    }

    /// Lets an unschedulable or gated pod go as far as its back-off allows.
    pub fn move_on(&mut self, key: &PodKey, event: &'static str, now: Timestamp) {
        let Some(waiting) = self.remove(key) else { return };
        let until = waiting.since + self.backoff.after(waiting.attempts);
        let (state, queue) = match waiting.state {
            State::Gated | State::Unschedulable if waiting.attempts == 0 || until <= now => {
                (State::Ready, Some(ACTIVE))
            }
            State::Gated | State::Unschedulable => (State::Backoff { until, error: false }, Some(BACKOFF)),
            other => (other, None),
        };
        if let Some(queue) = queue {
            self.count(queue, event);
        }
        let first = waiting.first.or((state == State::Ready).then_some(now));
        self.insert(Waiting { state, first, ..waiting });
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

    pub fn depths(&self) -> Depths {
        let active = self.ready.len() + self.held.len();
        let Queue { gated, stuck, due, .. } = self;
        Depths { active, backoff: due.len() - stuck, unschedulable: *stuck, gated: *gated }
    }

    /// How often a pod entered a queue, by queue and what made it.
    pub fn incoming(&self) -> &BTreeMap<(&'static str, &'static str), u64> {
        &self.incoming
    }

    /// How many waiting pods each plugin rejected, by scheduler.
    pub fn rejected(&self) -> &BTreeMap<String, BTreeMap<&'static str, u64>> {
        &self.rejected
    }

    fn count(&mut self, queue: &'static str, event: &'static str) {
        *self.incoming.entry((queue, event)).or_default() += 1;
    }

    fn blame(&mut self, waiting: &Waiting, count: fn(u64) -> u64) {
        if waiting.by.is_empty() {
            return;
        }
        let scheduler = &*waiting.pod.scheduler_name;
        if !self.rejected.contains_key(scheduler) {
            self.rejected.insert(scheduler.to_owned(), BTreeMap::new());
        }
        let Some(plugins) = self.rejected.get_mut(scheduler) else { return };
        for plugin in &waiting.by {
            let pods = plugins.entry(plugin).or_default();
            *pods = count(*pods);
        }
    }

    fn release(&mut self, now: Timestamp) {
        while let Some((due, key)) = self.due.first()
            && *due <= now
        {
            let key = key.clone();
            let waiting = self.remove(&key).expect("what is due waits");
            let flushed = waiting.state == State::Unschedulable;
            self.count(ACTIVE, if flushed { TIMED_OUT } else { WAITED });
            self.insert(Waiting { state: State::Ready, flushed: waiting.flushed || flushed, ..waiting });
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
            State::Unschedulable => {
                self.stuck += 1;
                let groups = self.unschedulable.entry(waiting.by.clone()).or_default();
                groups.entry(waiting.alike()).or_default().insert(key.clone());
            }
            State::Held => {
                self.held.insert(waiting.order());
            }
            State::Gated => self.gated += 1,
            State::Asked | State::Backoff { .. } => (),
        }
        self.blame(&waiting, |pods| pods + 1);
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
            State::Unschedulable => {
                self.stuck -= 1;
                let groups = self.unschedulable.get_mut(&waiting.by).expect("those who rejected a pod have groups");
                let group = groups.get_mut(&waiting.alike()).expect("an unschedulable pod is in a group");
                group.remove(key);
                if group.is_empty() {
                    groups.remove(&waiting.alike());
                }
                if groups.is_empty() {
                    self.unschedulable.remove(&waiting.by);
                }
            }
            State::Held => {
                self.held.remove(&waiting.order());
            }
            State::Gated => self.gated -= 1,
            State::Asked | State::Backoff { .. } => (),
        }
        self.blame(&waiting, |pods| pods - 1);
        Some(waiting)
    }
}

impl Waiting {
    fn new((pod, rank): (Arc<PodInfo>, i64), state: State, now: Timestamp) -> Waiting {
        let by = Rejectors::new();
        Waiting { pod, rank, attempts: 0, since: now, first: Some(now), flushed: false, by, state }
    }

    /// After the try under way came to nothing.
    fn tried((pod, rank): (Arc<PodInfo>, i64), tries: Tries, state: State, now: Timestamp) -> Waiting {
        let waiting = Waiting::new((pod, rank), state, now);
        Waiting { attempts: tries.made + 1, first: Some(tries.first), ..waiting }
    }

    /// Before the try under way came to anything.
    fn untried((pod, rank): (Arc<PodInfo>, i64), tries: Tries, state: State) -> Waiting {
        let Tries { made, first, since, flushed, .. } = tries;
        let by = Rejectors::new();
        Waiting { pod, rank, attempts: made, since, first: Some(first), flushed, by, state }
    }

    /// When time alone ends it.
    fn due(&self) -> Option<Timestamp> {
        match &self.state {
            State::Ready | State::Gated | State::Asked | State::Held => None,
            State::Backoff { until, .. } => Some(*until),
            State::Unschedulable => Some(self.since + STALE_MAX),
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

    fn tried(made: u32) -> Tries {
        Tries { made, first: at(0), since: at(0), began: at(0), flushed: false }
    }

    fn popped(queue: &mut Queue, seconds: i64) -> Option<String> {
        queue.pop(at(seconds)).map(|(pod, _)| pod.key.name.to_string())
    }

    fn wake(queue: &mut Queue, seconds: i64) {
        for key in queue.helped(|_| true, |_, _| true) {
            queue.move_on(&key, "NodeAdd", at(seconds));
        }
    }

    #[test]
    fn pods_alike_are_judged_once() {
        let (mut queue, mut shapes) = (Queue::default(), Shapes::default());
        for (name, scheduler) in [("a", "x"), ("b", "x"), ("c", "y")] {
            let text = format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"schedulerName":"{scheduler}"}}}}"#);
            let pod = PodInfo::read(text.as_bytes(), &mut shapes).unwrap();
            queue.unschedulable((pod, 0), tried(0), BTreeSet::new(), at(0));
        }
        let judged = std::cell::Cell::new(0);
        let helps = |pod: &PodInfo, _: &Rejectors| {
            judged.set(judged.get() + 1);
            &*pod.scheduler_name == "x"
        };
        let mut names: Vec<_> = queue.helped(|_| true, helps).into_iter().map(|key| key.name.to_string()).collect();
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
        queue.unschedulable((pod("p"), 0), tried(0), BTreeSet::from(["TaintToleration"]), at(0));
        assert!(queue.helped(|by| by.contains("NodePorts"), |_, _| true).is_empty());
        assert!(queue.helped(|_| true, |_, _| false).is_empty());
        assert_eq!(popped(&mut queue, 60), None);
        wake(&mut queue, 60);
        assert_eq!(popped(&mut queue, 60).as_deref(), Some("p"));
    }

    #[test]
    fn a_pod_in_back_off_goes_when_nobody_else_is_ready() {
        let mut queue = Queue::default();
        queue.unschedulable((pod("p"), 9), tried(0), BTreeSet::new(), at(0));
        wake(&mut queue, 0);
        queue.add(pod("fresh"), 0, at(0));
        assert_eq!(popped(&mut queue, 0).as_deref(), Some("fresh"));
        assert_eq!(queue.next_wake(), Some(at(1)));
        assert_eq!(popped(&mut queue, 0).as_deref(), Some("p"));
    }

    #[test]
    fn back_off_after_an_error_is_not_cut_short_and_grows() {
        let mut queue = Queue::default();
        queue.failed((pod("p"), 0), tried(2), at(0));
        assert_eq!(popped(&mut queue, 3), None);
        assert_eq!(popped(&mut queue, 4).as_deref(), Some("p"));
        queue.failed((pod("p"), 0), tried(30), at(0));
        assert_eq!(queue.next_wake(), Some(at(10)));
    }

    #[test]
    fn what_nothing_wakes_is_tried_again_after_five_minutes() {
        let mut queue = Queue::default();
        queue.unschedulable((pod("p"), 0), tried(0), BTreeSet::from(["x"]), at(0));
        assert_eq!(popped(&mut queue, 299), None);
        assert_eq!(popped(&mut queue, 300).as_deref(), Some("p"));
    }

    #[test]
    fn a_pod_that_is_gone_leaves_nothing_behind() {
        let mut queue = Queue::default();
        queue.failed((pod("p"), 0), tried(0), at(0));
        queue.unschedulable((pod("q"), 0), tried(0), BTreeSet::new(), at(0));
        queue.forget(&pod("p").key);
        queue.forget(&pod("q").key);
        assert!(queue.next_wake().is_none() && queue.is_empty() && !queue.has_unschedulable());
    }

    #[test]
    fn what_waits_and_why_it_came_is_counted() {
        let mut queue = Queue::default();
        queue.add(pod("ready"), 0, at(0));
        queue.add_gated((pod("gated"), 0), "SchedulingGates", at(0));
        queue.unschedulable((pod("p"), 0), tried(0), BTreeSet::from(["NodePorts"]), at(0));
        queue.failed((pod("q"), 0), tried(0), at(0));
        assert_eq!(queue.depths(), Depths { active: 1, backoff: 1, unschedulable: 1, gated: 1 });
        let of = |queue: &Queue, plugin| queue.rejected()["default-scheduler"].get(plugin).copied();
        assert_eq!((of(&queue, "NodePorts"), of(&queue, "SchedulingGates")), (Some(1), Some(1)));
        wake(&mut queue, 0);
        assert_eq!((queue.depths().backoff, of(&queue, "NodePorts")), (2, Some(1)), "it is rejected until it is tried");
        while queue.pop(at(1)).is_some() {}
        assert_eq!((queue.depths().backoff, of(&queue, "NodePorts")), (0, Some(0)));
        let incoming: Vec<_> =
            queue.incoming().iter().map(|((queue, event), times)| (*queue, *event, *times)).collect();
        assert_eq!(
            incoming,
            [
                ("active", "BackoffComplete", 2),
                ("active", "UnschedulablePodAdd", 1),
                ("backoff", "NodeAdd", 1),
                ("backoff", "ScheduleAttemptFailure", 1),
                ("unschedulable", "ScheduleAttemptFailure", 1),
                ("unschedulable", "UnschedulablePodAdd", 1),
            ]
        );
    }

    #[test]
    fn tries_remember_when_they_began_and_that_only_time_passed() {
        let mut queue = Queue::default();
        queue.add(pod("p"), 0, at(5));
        let (first, tries) = queue.pop(at(7)).unwrap();
        assert_eq!(tries, Tries { made: 0, first: at(5), since: at(5), began: at(7), flushed: false });
        queue.unschedulable((first, 0), tries, BTreeSet::from(["x"]), at(8));
        let (_, tries) = queue.pop(at(308)).unwrap();
        assert_eq!(tries, Tries { made: 1, first: at(5), since: at(8), began: at(308), flushed: true });
    }

    #[test]
    fn those_held_until_extenders_can_be_asked_keep_their_places() {
        let mut queue = Queue::default();
        for (name, rank) in [("one", 5), ("two", 5), ("late", 0)] {
            queue.add(pod(name), rank, at(0));
        }
        let (one, tries) = queue.pop(at(1)).unwrap();
        queue.ask((one, 5), tries);
        let (two, tries) = queue.pop(at(1)).unwrap();
        queue.hold((two, 5), tries);
        queue.add(pod("higher"), 9, at(1));
        assert_eq!(queue.depths(), Depths { active: 3, ..Depths::default() });
        assert_eq!(queue.take_asked(&pod("one").key).map(|pod| pod.key.name.to_string()).as_deref(), Some("one"));
        assert!(queue.take_asked(&pod("two").key).is_none());
        queue.release_held();
        let order: Vec<_> = std::iter::from_fn(|| popped(&mut queue, 2)).collect();
        assert_eq!(order, ["higher", "two", "late"]);
    }
}
