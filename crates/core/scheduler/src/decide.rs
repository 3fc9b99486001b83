//! A decision about one pod: find a node and set it aside, or say why there is none and make room where that helps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use crate::class::{Class, Refusal};
use crate::counts::Outcome;
use crate::cycle::{Found, Search, choose, find, find_anywhere, rejectors};
use crate::framework::{Nomination, Permit, Point, PostFilter, Status};
use crate::message::{Reasons, for_all};
use crate::pod::PodInfo;
use crate::preemption::{Attempt, Choice};
use crate::profile::Profile;
use crate::queue::{Rejectors, Tries};
use crate::scheduler::{Effect, Reason, Scheduler, Underway};

impl Scheduler {
    pub(crate) fn decide(&mut self, pod: Arc<PodInfo>, attempts: Tries, now: Timestamp) {
        let Some(profile) = self.profile_of(&pod) else { return };
        self.turn = self.turn.wrapping_add(1);
        if self.cluster.nodes().is_empty() {
            let refused = Refused { message: "no nodes available to schedule pods".into(), by: Rejectors::new() };
            return self.fail((pod, profile, attempts), refused, Some(Nomination::Clear), now);
        }
        let mut class = self.class_of(&pod, profile);
        self.decide_by(&mut class, (pod.clone(), profile, attempts), now);
        self.profiles[profile].classes.keep(&pod, class);
    }

    /// Takes the class of the pod's shape out, up to date.
    pub(crate) fn class_of(&mut self, pod: &PodInfo, profile: usize) -> Class {
        self.cluster.track(&pod.shape);
        let shape = self.shapes.reduced(&pod.shape, &self.cluster);
        let Profile { plugins, classes, .. } = &mut self.profiles[profile];
        classes.take((pod, shape), plugins, &self.cluster)
    }

    fn decide_by(&mut self, class: &mut Class, (pod, profile, attempts): Tried, now: Timestamp) {
        if pod.nominated().is_empty()
            && let Some(refusal) = class.refusal()
            && refusal.mark == self.cluster.mark()
            && refusal.nominations == self.cluster.nominations.version
        {
            let refused = Refused { message: refusal.message.clone(), by: refusal.by.clone() };
            return self.fail((pod, profile, attempts), refused, Some(Nomination::Clear), now);
        }
        *class.refusal() = None;
        let found = match class.rejection() {
            Some(_) => Found::default(),
            None => self.search(&pod, class, self.profiles[profile].percent),
        };
        if found.feasible.is_empty() {
            return self.refuse(class, &found, (pod, profile, attempts), now);
        }
        if self.consult(&(pod.clone(), profile, attempts), &found, now) {
            return;
        }
        let at = choose(class, &self.cluster, &found.feasible, self.turn);
        let node = self.cluster.nodes()[at as usize].name.clone();
        self.commit((pod, profile, attempts), node, now);
    }

    /// What every node is to a pod that waits: its score, or the reasons against it. Changes nothing.
    pub fn survey(&mut self, pod: &PodInfo) -> BTreeMap<String, Result<i64, Vec<String>>> {
        let Some(profile) = self.profile_of(pod) else { return BTreeMap::new() };
        let mut class = Class::new(pod, &self.profiles[profile].plugins, &self.cluster);
        let places: Vec<u32> = (0..self.cluster.nodes().len() as u32).collect();
        let search = Search { percent: 100, start: 0, turn: 0 };
        let found = match class.rejection() {
            Some(_) => Found::default(),
            None => find(pod, &mut class, &self.cluster, &places, search),
        };
        let name = |at: u32| self.cluster.nodes()[at as usize].name.clone();
        let totals = class.totals(&found.feasible, self.cluster.nodes());
        let feasible = found.feasible.iter().zip(totals).map(|(at, total)| (name(*at), Ok(total)));
        let reasons = |verdict| class.status(verdict).1.reasons.iter().map(ToString::to_string).collect();
        feasible.chain(found.rejected.iter().map(|(at, verdict)| (name(*at), Err(reasons(*verdict))))).collect()
    }

    pub(crate) fn search(&mut self, pod: &PodInfo, class: &mut Class, percent: u32) -> Found {
        let order = self.cluster.order();
        let search = Search { percent, start: self.start, turn: self.turn };
        let found = find(pod, class, &self.cluster, &order, search);
        self.start = (self.start + found.looked_at()) % order.len().max(1);
        self.cluster.keep_order(order);
        found
    }

    /// The same without regard to where the pod is nominated to.
    pub(crate) fn search_anywhere(&mut self, pod: &PodInfo, class: &mut Class, profile: usize) -> Found {
        let order = self.cluster.order();
        let search = Search { percent: self.profiles[profile].percent, start: self.start, turn: self.turn };
        class.begin();
        let found = match class.rejection() {
            Some(_) => Found::default(),
            None => find_anywhere(pod, class, &self.cluster, &order, search),
        };
        self.cluster.keep_order(order);
        found
    }

    /// Sets the node aside for the pod and sends it on its way.
    pub(crate) fn commit(&mut self, (pod, profile, attempts): Tried, node: String, now: Timestamp) {
        self.cluster.put(pod.clone(), &node);
        self.cluster.nominations.remove(&pod.key);
        if let Err((plugin, status)) =
            self.reserve(&pod, profile, &node).and_then(|()| self.permit(&pod, profile, &node))
        {
            for plugin in self.profiles[profile].at(Point::Reserve) {
                plugin.unreserve(&pod, &mut self.cluster);
            }
            self.cluster.lift(&pod.key);
            let refused = Refused::by(plugin, &status);
            return self.fail((pod, profile, attempts), refused, Some(Nomination::Clear), now);
        }
        self.send((pod, profile, attempts), node);
    }

    /// Sends a pod that counts on a node on its way there.
    pub(crate) fn send(&mut self, (pod, profile, attempts): Tried, node: String) {
        let deeds: Vec<_> =
            self.profiles[profile].at(Point::PreBind).flat_map(|plugin| plugin.pre_bind(&pod, &self.cluster)).collect();
        let waits = !self.profiles[profile].at(Point::PreBind).all(|plugin| plugin.is_bound(&pod, &self.cluster));
        let underway = Underway { pod: pod.clone(), node: node.clone(), tries: attempts, volumes_by: None };
        self.underway.insert(pod.key.clone(), underway);
        self.effects.push_back(match waits {
            true => Effect::Prepare { pod, node, deeds },
            false => self.binding(pod, node),
        });
    }

    pub(crate) fn reserve(&mut self, pod: &PodInfo, profile: usize, node: &str) -> Result<(), (&'static str, Status)> {
        let profile = &self.profiles[profile];
        for plugin in profile.at(Point::Reserve) {
            plugin.reserve(pod, node, &mut self.cluster).map_err(|status| (plugin.name(), status))?;
        }
        Ok(())
    }

    /// A pod that is decided about by itself has nobody to wait for.
    fn permit(&self, pod: &PodInfo, profile: usize, node: &str) -> Result<(), (&'static str, Status)> {
        match self.profiles[profile].permit(pod, node, &self.cluster) {
            (_, Permit::Allow | Permit::Wait(_)) => Ok(()),
            (plugin, Permit::Reject(status)) => Err((plugin, status)),
            (plugin, Permit::Fail(why)) => Err((plugin, Status::new(why))),
        }
    }

    /// Says why no node will do, after trying to make room.
    pub(crate) fn refuse(&mut self, class: &mut Class, found: &Found, (pod, profile, attempts): Tried, now: Timestamp) {
        let mut refused = Refused::of(class, found, self.cluster.nodes().len());
        let (cluster, turn) = (&self.cluster, self.turn);
        let choice = if self.consults_on_room(&pod) { Choice::All } else { Choice::Best };
        let after = self.profiles[profile].post_filter(&mut Attempt { pod: &pod, cluster, class, found, turn, choice });
        self.counts.preemptions += u64::from(after.is_some());
        match after {
            Some(PostFilter::Made { node, victims }) => {
                self.make_room((pod, profile, attempts), refused, (node, victims), now);
            }
            Some(PostFilter::Candidates(room)) => {
                self.consult_on_room((pod, profile, attempts), refused, room, now);
            }
            Some(PostFilter::Helpless { message, nomination }) => {
                refused.message = format!("{} {message}", refused.message);
                if nomination == Nomination::Clear {
                    *class.refusal() = Some(Refusal {
                        mark: self.cluster.mark(),
                        nominations: self.cluster.nominations.version,
                        message: refused.message.clone(),
                        by: refused.by.clone(),
                    });
                }
                self.fail((pod, profile, attempts), refused, Some(nomination), now);
            }
            Some(PostFilter::Stuck { message }) => {
                refused.message = format!("{} {message}", refused.message);
                self.fail((pod, profile, attempts), refused, Some(Nomination::Keep), now);
            }
            None => self.fail((pod, profile, attempts), refused, Some(Nomination::Clear), now),
        }
    }

    pub(crate) fn make_room(
        &mut self,
        (pod, profile, attempts): Tried,
        refused: Refused,
        room: (String, Vec<Arc<PodInfo>>),
        now: Timestamp,
    ) {
        self.counts.ended(profile, Outcome::Unschedulable, &attempts, now);
        let rank = self.profiles[profile].rank(&pod);
        self.queue.unschedulable((pod.clone(), rank), attempts, refused.by, now);
        self.make_way(pod, refused.message, room);
    }

    /// Nominates a pod that is back in the queue to a node, and lets the victims there go.
    pub(crate) fn make_way(
        &mut self,
        pod: Arc<PodInfo>,
        message: String,
        (node, victims): (String, Vec<Arc<PodInfo>>),
    ) {
        let lesser = |other: &&Arc<PodInfo>| other.priority < pod.priority;
        self.counts.victims.observe(victims.len() as f64);
        let displaced: Vec<_> = self.cluster.nominations.at(&node).iter().filter(lesser).cloned().collect();
        displaced.iter().for_each(|other| self.cluster.nominations.remove(&other.key));
        self.cluster.nominate(pod.clone(), &node);
        let (reason, nominate) = (Reason::Unschedulable, Some(node.clone()));
        self.effects.push_back(Effect::Failed { pod: pod.clone(), reason, message, nominate });
        let victims: Vec<_> = victims.into_iter().filter(|victim| !victim.deleting).collect();
        if !victims.is_empty() {
            self.preempting.insert(pod.key.clone(), false);
            self.effects.push_back(Effect::Preempt { pod, node, victims, displaced });
        }
    }

    pub(crate) fn fail(&mut self, tried: Tried, refused: Refused, nomination: Option<Nomination>, now: Timestamp) {
        let (pod, profile, attempts) = tried;
        self.counts.ended(profile, Outcome::Unschedulable, &attempts, now);
        let clears = nomination == Some(Nomination::Clear);
        let nominate = (clears && !pod.nominated().is_empty()).then(String::new);
        if clears {
            self.cluster.nominations.remove(&pod.key);
        }
        let rank = self.profiles[profile].rank(&pod);
        self.queue.unschedulable((pod.clone(), rank), attempts, refused.by, now);
        let (reason, message) = (Reason::Unschedulable, refused.message);
        self.effects.push_back(Effect::Failed { pod, reason, message, nominate });
    }

    /// Something else than the pod and the nodes is to blame. It is tried again after a back-off.
    pub(crate) fn fail_by_error(&mut self, (pod, profile, attempts): Tried, message: String, now: Timestamp) {
        self.counts.ended(profile, Outcome::Error, &attempts, now);
        self.cluster.nominations.remove(&pod.key);
        let nominate = (!pod.nominated().is_empty()).then(String::new);
        let rank = self.profiles[profile].rank(&pod);
        self.queue.failed((pod.clone(), rank), attempts, now);
        self.effects.push_back(Effect::Failed { pod, reason: Reason::SchedulerError, message, nominate });
    }
}

/// A pod, its profile, and how often it was tried.
pub(crate) type Tried = (Arc<PodInfo>, usize, Tries);

pub(crate) struct Refused {
    pub message: String,
    pub by: Rejectors,
}

impl Refused {
    /// By a plugin that has something against the one node that was chosen.
    pub fn by(plugin: &'static str, status: &Status) -> Refused {
        let mut reasons = Reasons::default();
        status.reasons.iter().for_each(|reason| reasons.count(reason.as_ref(), 1));
        Refused { message: reasons.over(1), by: Rejectors::from([plugin]) }
    }

    pub fn of(class: &Class, found: &Found, nodes: usize) -> Refused {
        if let Some((plugin, status)) = class.rejection() {
            let message = for_all(nodes, &status.reasons.join(", "));
            return Refused { message, by: Rejectors::from([*plugin]) };
        }
        let mut reasons = Reasons::default();
        let mut counts = BTreeMap::<u32, usize>::new();
        found.rejected.iter().for_each(|(_, verdict)| *counts.entry(*verdict).or_default() += 1);
        for (verdict, count) in &counts {
            class.status(*verdict).1.reasons.iter().for_each(|reason| reasons.count(reason.as_ref(), *count));
        }
        if let Some((_, by)) = class.among() {
            let absent = nodes - found.rejected.len();
            // Kube-scheduler names here whoever it has heard by now.
            let by: BTreeSet<&str> = by.iter().copied().chain(found.against_nominated).collect();
            let by: Vec<&str> = by.into_iter().collect();
            reasons.count(format!("node(s) didn't satisfy plugin(s) [{}]", by.join(" ")), absent);
        }
        Refused { message: reasons.over(nodes), by: rejectors(class, found) }
    }
}
