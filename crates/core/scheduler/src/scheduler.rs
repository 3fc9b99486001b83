//! The scheduler as a state machine: changes of the cluster go in, bindings, conditions and evictions come out. A pod
//! that was decided upon counts on its node at once; the shell tells later whether the binding held.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use coracle_meta::{Gates, Object};
use jiff::Timestamp;

use crate::consult::Conversation;
use crate::counts::{Counts, Outcome};
use crate::extender::{Answer, Extenders, Question};
use crate::framework::{Change, Deed, Point};
use crate::group_cycle::GroupOutcome;
use crate::node::NodeFacts;
use crate::pod::{PodInfo, PodKey, Shapes};
use crate::profile::Profile;
use crate::queue::{Backoff, Queue, Tries};
use crate::snapshot::Snapshot;

/// What happens to the cluster.
#[derive(Clone, Debug)]
pub enum Event {
    /// An object of one of the resources that it `watches` is there, in this version.
    Set { resource: &'static str, object: Arc<Object> },
    /// It is gone.
    Gone { resource: &'static str, object: Arc<Object> },
    /// A binding that this scheduler asked for was refused. It is about the pod of that uid, as all that follow are:
    /// another may have taken the name.
    BindFailed { key: PodKey, uid: String, message: String },
    /// What had to be written before a pod is bound was written, or could not be.
    Prepared { key: PodKey, uid: String, done: bool },
    /// Extenders answered, or did not.
    Answered { key: PodKey, uid: String, answer: Answer },
    /// The evictions for a pod were asked for, or could not be.
    Preempted { key: PodKey, uid: String, done: bool },
}

/// Why a pod is not scheduled, as its condition names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Unschedulable,
    SchedulerError,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Unschedulable => "Unschedulable",
            Reason::SchedulerError => "SchedulerError",
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Effect {
    Bind {
        pod: Arc<PodInfo>,
        node: String,
    },
    /// Let this extender, one of `Scheduler::extenders`, bind it; where it fails and may be ignored, bind as ever.
    BindBy {
        pod: Arc<PodInfo>,
        node: String,
        extender: usize,
    },
    /// Ask extenders, and tell by `Answered`.
    Ask {
        pod: Arc<PodInfo>,
        question: Question,
    },
    /// Write these first, and tell by `Prepared`.
    Prepare {
        pod: Arc<PodInfo>,
        node: String,
        deeds: Vec<Deed>,
    },
    /// Say so in the pod's PodScheduled condition and in an event; where `nominate` is given, write that too.
    Failed {
        pod: Arc<PodInfo>,
        reason: Reason,
        message: String,
        nominate: Option<String>,
    },
    /// Say so in the PodGroup's PodGroupScheduled condition, unless that says True already.
    Group {
        group: PodKey,
        outcome: GroupOutcome,
    },
    /// Evict the victims and take back the nominations of those who lose by it, and tell by `Preempted`.
    Preempt {
        pod: Arc<PodInfo>,
        node: String,
        victims: Vec<Arc<PodInfo>>,
        displaced: Vec<Arc<PodInfo>>,
    },
}

/// A pod on its way to its node.
pub(crate) struct Underway {
    /// As it is now.
    pub pod: Arc<PodInfo>,
    pub node: String,
    pub tries: Tries,
    /// Set while volumes are awaited.
    pub volumes_by: Option<Timestamp>,
}

pub struct Scheduler {
    pub(crate) gates: Gates,
    /// Pods that name none of them are left alone.
    pub(crate) profiles: Vec<Profile>,
    pub(crate) cluster: Snapshot,
    pub(crate) queue: Queue,
    pub(crate) shapes: Shapes,
    /// Where the next search begins.
    pub(crate) start: usize,
    pub(crate) turn: usize,
    pub(crate) underway: HashMap<PodKey, Underway>,
    /// Those of them whose volumes are awaited, by when that ends.
    pub(crate) awaited: BTreeSet<(Timestamp, PodKey)>,
    /// Pods whose victims are being evicted, and whether something happened meanwhile that may help them.
    pub(crate) preempting: HashMap<PodKey, bool>,
    pub(crate) extenders: Extenders,
    /// What extenders are being asked.
    pub(crate) conversation: Option<Conversation>,
    pub(crate) effects: VecDeque<Effect>,
    pub(crate) counts: Counts,
}

impl Scheduler {
    pub fn new(profiles: Vec<Profile>, backoff: Backoff) -> Scheduler {
        let mut cluster = Snapshot::default();
        profiles.iter().for_each(|profile| profile.track(&mut cluster));
        Scheduler {
            gates: Gates::default(),
            counts: Counts::new(profiles.iter().map(|profile| profile.name.as_str())),
            profiles,
            cluster,
            queue: Queue::new(backoff),
            shapes: Shapes::default(),
            start: 0,
            turn: 0,
            underway: HashMap::new(),
            awaited: BTreeSet::new(),
            preempting: HashMap::new(),
            extenders: Extenders::default(),
            conversation: None,
            effects: VecDeque::new(),
        }
    }

    pub fn with_extenders(self, extenders: Extenders) -> Scheduler {
        Scheduler { extenders, ..self }
    }

    /// Groups of pods are told from single pods only where their gate is on.
    pub fn with_gates(self, gates: Gates) -> Scheduler {
        Scheduler { gates, ..self }
    }

    pub fn gates(&self) -> Gates {
        self.gates
    }

    pub fn extenders(&self) -> &Extenders {
        &self.extenders
    }

    /// One profile with everything at its default.
    pub fn standard(name: &str) -> Scheduler {
        Scheduler::gated(name, Gates::default())
    }

    /// The same with these feature gates on.
    pub fn gated(name: &str, gates: Gates) -> Scheduler {
        Scheduler::new(vec![Profile::gated(name, gates)], Backoff::default()).with_gates(gates)
    }

    pub fn cluster(&self) -> &Snapshot {
        &self.cluster
    }

    /// What waits to be scheduled.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// How many pods are on their way to their nodes.
    pub fn underway(&self) -> usize {
        self.underway.len()
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Takes a change in. Decisions follow by `next`.
    pub fn observe(&mut self, event: Event, now: Timestamp) {
        match event {
            Event::Set { resource, object } => self.set(resource, &object, now),
            Event::Gone { resource, object } => self.gone(resource, &object, now),
            Event::BindFailed { key, uid, message } if self.is_underway(&key, &uid) => self.undo(&key, message, now),
            Event::Prepared { key, uid, done } if self.is_underway(&key, &uid) => match done {
                true => self.await_volumes(key, now),
                false => self.undo(&key, "binding volumes: a write was refused".into(), now),
            },
            Event::Answered { key, uid, answer } => self.answered((&key, &uid), answer, now),
            Event::Preempted { key, uid, done } if self.queue.get(&key).is_some_and(|pod| *pod.uid == *uid) => {
                if let Some(missed) = self.preempting.remove(&key)
                    && (missed || !done)
                {
                    self.queue.move_on(&key, "ForceActivate", now);
                }
            }
            // The pod they are about is gone.
            Event::BindFailed { .. } | Event::Prepared { .. } | Event::Preempted { .. } => (),
        }
    }

    fn is_underway(&self, key: &PodKey, uid: &str) -> bool {
        self.underway.get(key).is_some_and(|underway| *underway.pod.uid == *uid)
    }

    fn await_volumes(&mut self, key: PodKey, now: Timestamp) {
        let Some(underway) = self.underway.get_mut(&key) else { return };
        let profile = self.profiles.iter().find(|profile| *profile.name == *underway.pod.scheduler_name);
        let waits = profile.into_iter().flat_map(|profile| profile.at(Point::PreBind));
        let by = now + waits.filter_map(|plugin| plugin.bound_within()).max().unwrap_or_default();
        underway.volumes_by = Some(by);
        self.awaited.insert((by, key));
        self.bind_those_prepared();
    }

    /// The next thing to do; `None` when no pod is ready.
    pub fn next(&mut self, now: Timestamp) -> Option<Effect> {
        while self.effects.is_empty() {
            if self.conversation.is_none() {
                self.queue.release_held();
            }
            let (pod, tries) = self.queue.pop(now)?;
            if self.waits_for_answers(&pod) {
                let rank = self.profile_of(&pod).map_or(0, |profile| self.profiles[profile].rank(&pod));
                self.queue.hold((pod, rank), tries);
                continue;
            }
            self.counts.decisions += 1;
            match self.group_of(&pod) {
                Some(group) => self.decide_group((pod, tries), &group, now),
                None => self.decide(pod, tries, now),
            }
        }
        self.effects.pop_front()
    }

    /// When to ask again though nothing happened.
    pub fn wake_at(&self) -> Option<Timestamp> {
        let volumes = self.awaited.first().map(|(by, _)| *by);
        self.queue.next_wake().into_iter().chain(volumes).min()
    }

    /// Gives up on pods whose volumes were not bound in time.
    pub fn expire(&mut self, now: Timestamp) {
        while self.awaited.first().is_some_and(|(by, _)| *by <= now)
            && let Some((_, key)) = self.awaited.pop_first()
        {
            self.undo(&key, "binding volumes: context deadline exceeded".into(), now);
        }
    }

    pub(crate) fn profile_of(&self, pod: &PodInfo) -> Option<usize> {
        self.profiles.iter().position(|profile| *profile.name == *pod.scheduler_name)
    }

    /// Moves the pods that the change may help.
    pub(crate) fn wake(&mut self, change: &Change, now: Timestamp) {
        if let Some(conversation) = &mut self.conversation {
            conversation.miss(change.label());
        }
        if !self.queue.has_unschedulable() {
            return;
        }
        let (profiles, kind) = (&self.profiles, change.kind());
        let helps = |pod: &PodInfo, by: &crate::queue::Rejectors| {
            let own = profiles.iter().find(|profile| *profile.name == *pod.scheduler_name);
            own.is_none_or(|profile| profile.helps(pod, by, change))
        };
        let listens = |by: &crate::queue::Rejectors| profiles.iter().any(|profile| profile.listens(by, kind));
        for key in self.queue.helped(listens, helps) {
            match self.preempting.get_mut(&key) {
                Some(missed) => *missed = true,
                None => self.queue.move_on(&key, change.label(), now),
            }
        }
    }

    pub(crate) fn set_node(&mut self, facts: NodeFacts, now: Timestamp) {
        let name = facts.name.clone();
        let was = self.cluster.set_node(facts);
        let Some(new) = self.cluster.node(&name).map(|node| node.facts.clone()) else { return };
        match was {
            None => self.wake(&Change::NodeAdded(new), now),
            Some(old) if *old != *new => self.wake(&Change::NodeUpdated { old, new }, now),
            Some(_) => (),
        }
    }

    pub(crate) fn set_pod(&mut self, pod: Arc<PodInfo>, now: Timestamp) {
        // After a new list nobody tells that the pod which had the name is gone.
        let known = self.queue.get(&pod.key).or_else(|| self.cluster.placed(&pod.key));
        if known.is_some_and(|known| known.uid != pod.uid) {
            self.pod_gone(&pod.key, now);
        }
        if pod.finished {
            self.pod_gone(&pod.key, now);
        } else if !pod.node_name.is_empty() {
            self.set_placed(pod, now);
        } else {
            self.set_waiting(pod, now);
        }
    }

    fn set_placed(&mut self, pod: Arc<PodInfo>, now: Timestamp) {
        self.queue.forget(&pod.key);
        self.preempting.remove(&pod.key);
        self.cluster.nominations.remove(&pod.key);
        let confirmed = self.take_underway(&pod.key);
        if let Some(underway) = &confirmed
            && let Some(profile) = self.profile_of(&pod)
        {
            let outcome = if *underway.node == *pod.node_name { Outcome::Scheduled } else { Outcome::Error };
            self.counts.ended(profile, outcome, &underway.tries, now);
            self.profiles[profile].at(Point::PostBind).for_each(|plugin| plugin.post_bind(&pod, &underway.node));
        }
        let old = self.cluster.placed(&pod.key).cloned();
        let node = pod.node_name.clone();
        match old {
            Some(old) if self.cluster.place_of(&pod.key) == Some(&node) && old.uid == pod.uid => {
                self.cluster.renew(pod.clone());
                if confirmed.is_some() {
                    self.wake(&Change::PodPlaced(pod), now);
                } else if !Arc::ptr_eq(&old.shape, &pod.shape) {
                    self.wake(&Change::PodUpdated { old, new: pod }, now);
                }
            }
            _ => {
                self.cluster.put(pod.clone(), &node);
                if let Some(group) = self.group_of(&pod) {
                    self.wake_members(&group, &Change::PodPlaced(pod.clone()), now);
                }
                self.wake(&Change::PodPlaced(pod), now);
            }
        }
    }

    fn set_waiting(&mut self, pod: Arc<PodInfo>, now: Timestamp) {
        if pod.deleting {
            return self.pod_gone(&pod.key, now);
        }
        if let Some(underway) = self.underway.get_mut(&pod.key) {
            underway.pod = pod;
            return;
        }
        let Some(profile) = self.profile_of(&pod) else { return };
        if self.cluster.place_of(&pod.key).is_some() {
            return;
        }
        let joined = self.group_of(&pod).filter(|_| self.cluster.groups.wait(&pod));
        let (rank, gate) = (self.profiles[profile].rank(&pod), self.profiles[profile].gate(&pod, &self.cluster));
        match self.queue.get(&pod.key).cloned() {
            None => match gate {
                Some(plugin) => self.queue.add_gated((pod.clone(), rank), plugin, now),
                None => self.queue.add(pod.clone(), rank, now),
            },
            Some(old) => {
                self.queue.update(pod.clone(), rank);
                self.update_waiting(old, pod.clone(), now);
            }
        }
        if let Some(group) = joined {
            self.wake_members(&group, &Change::MemberAdded(pod.clone()), now);
        }
        if !pod.nominated().is_empty() {
            let node = pod.nominated().to_owned();
            self.cluster.nominate(pod, &node);
        }
    }

    fn update_waiting(&mut self, old: Arc<PodInfo>, new: Arc<PodInfo>, now: Timestamp) {
        let key = new.key.clone();
        if self.queue.is_gated(&key) {
            let ready =
                self.profile_of(&new).is_some_and(|profile| self.profiles[profile].gate(&new, &self.cluster).is_none());
            if ready {
                self.queue.move_on(&key, "UnschedulablePodUpdatePodSchedulingGatesEliminated", now);
            }
            return;
        }
        if !old.nominated().is_empty() && old.nominated() != new.nominated() {
            if new.nominated().is_empty() {
                self.cluster.nominations.remove(&key);
            }
            self.wake(&Change::PodGone(old.clone()), now);
        }
        if Arc::ptr_eq(&old.shape, &new.shape) {
            return;
        }
        let change = Change::PodUpdated { old, new: new.clone() };
        let worth = self.queue.rejectors(&key).is_some_and(|by| {
            self.profile_of(&new).is_some_and(|profile| self.profiles[profile].helps(&new, by, &change))
        });
        if worth {
            self.queue.move_on(&key, change.label(), now);
        }
    }

    fn drop_waiting(&mut self, key: &PodKey, now: Timestamp) {
        let known = self.queue.get(key).cloned();
        known.iter().for_each(|pod| self.cluster.groups.forget(pod));
        self.queue.forget(key);
        self.preempting.remove(key);
        let nominated = self.cluster.nominations.node_of(key).is_some();
        self.cluster.nominations.remove(key);
        if let Some(pod) = known.filter(|_| nominated) {
            self.wake(&Change::PodGone(pod), now);
        }
    }

    pub(crate) fn pod_gone(&mut self, key: &PodKey, now: Timestamp) {
        self.drop_waiting(key, now);
        let underway = self.take_underway(key);
        if let Some(underway) = underway {
            self.unreserve(&underway.pod);
            self.count_error(&underway, now);
        }
        if let Some(pod) = self.cluster.lift(key) {
            self.wake(&Change::PodGone(pod.placed_somewhere()), now);
        }
    }

    fn unreserve(&mut self, pod: &PodInfo) {
        let Some(profile) = self.profile_of(pod) else { return };
        self.profiles[profile].at(Point::Reserve).for_each(|plugin| plugin.unreserve(pod, &mut self.cluster));
    }

    fn count_error(&mut self, underway: &Underway, now: Timestamp) {
        if let Some(profile) = self.profile_of(&underway.pod) {
            self.counts.ended(profile, Outcome::Error, &underway.tries, now);
        }
    }

    /// Takes a decision back. The pod is tried again after a back-off.
    pub(crate) fn undo(&mut self, key: &PodKey, message: String, now: Timestamp) {
        let Some(underway) = self.take_underway(key) else { return };
        self.count_error(&underway, now);
        let Underway { pod, tries, .. } = underway;
        self.unreserve(&pod);
        self.cluster.lift(key);
        self.cluster.groups.wait(&pod);
        self.wake(&Change::PodGone(pod.clone().placed_somewhere()), now);
        if let Some(profile) = self.profile_of(&pod) {
            let rank = self.profiles[profile].rank(&pod);
            self.queue.failed((pod.clone(), rank), tries, now);
        }
        let nominate = (!pod.nominated().is_empty()).then(String::new);
        self.effects.push_back(Effect::Failed { pod, reason: Reason::SchedulerError, message, nominate });
    }

    /// Binds the pods whose volumes are bound by now.
    pub(crate) fn bind_those_prepared(&mut self) {
        let bound = |(_, key): &&(Timestamp, PodKey)| {
            let Some(Underway { pod, .. }) = self.underway.get(key) else { return false };
            self.profile_of(pod).is_some_and(|profile| {
                let mut plugins = self.profiles[profile].at(Point::PreBind);
                plugins.all(|plugin| plugin.is_bound(pod, &self.cluster))
            })
        };
        let ready: Vec<_> = self.awaited.iter().filter(bound).cloned().collect();
        for (by, key) in ready {
            self.awaited.remove(&(by, key.clone()));
            let Some(underway) = self.underway.get_mut(&key) else { continue };
            underway.volumes_by = None;
            let (pod, node) = (underway.pod.clone(), underway.node.clone());
            let effect = self.binding(pod, node);
            self.effects.push_back(effect);
        }
    }

    fn take_underway(&mut self, key: &PodKey) -> Option<Underway> {
        let underway = self.underway.remove(key)?;
        if let Some(by) = underway.volumes_by {
            self.awaited.remove(&(by, key.clone()));
        }
        Some(underway)
    }
}
