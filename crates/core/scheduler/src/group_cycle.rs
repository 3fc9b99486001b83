//! A decision about all waiting pods of a group at once: each is given a node as if the others before it had theirs
//! already, and only when the group as a whole may go does any of them go. What was set aside for a group that may not
//! is given back before anybody else is decided about, so that two groups never hold parts of what each needs. Source
//! of rules and words: kube-scheduler's `schedule_one_podgroup.go`.

use std::cmp::Reverse;
use std::sync::Arc;

use coracle_meta::Gate;
use jiff::Timestamp;

use crate::class::Class;
use crate::counts::{GroupResult, Outcome};
use crate::cycle::{Found, choose};
use crate::decide::{Refused, Tried};
use crate::framework::{Change, Nomination, Permit, Point, PostFilter};
use crate::pod::{PodInfo, PodKey};
use crate::preemption::{Attempt, Choice};
use crate::queue::{Rejectors, Tries};
use crate::scheduler::{Effect, Reason, Scheduler};

const UNSCHEDULABLE: &str = "pod group is unschedulable";
const FOR_ROOM: &str = "pod group is unschedulable, pod group is waiting for preemption to complete";
/// Added to what the plugins say that ask a pod to wait.
const NOBODY_REJECTED: &str = "one or more plugins asked to wait and no plugin rejected pod";

/// What a group's PodGroupScheduled condition is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupOutcome {
    Scheduled,
    Not { reason: Reason, message: String },
}

impl Effect {
    /// The pod, or the group, that was decided about.
    pub fn key(&self) -> &PodKey {
        match self {
            Effect::Bind { pod, .. }
            | Effect::BindBy { pod, .. }
            | Effect::Ask { pod, .. }
            | Effect::Prepare { pod, .. }
            | Effect::Failed { pod, .. }
            | Effect::Preempt { pod, .. } => &pod.key,
            Effect::Group { group, .. } => group,
        }
    }
}

/// Where a pod would go, and who has to go from there first.
struct Spot {
    node: String,
    victims: Vec<Arc<PodInfo>>,
    /// Set where there are victims: what stands in the way as yet.
    refused: Option<Refused>,
}

/// How a member fared.
enum Fate {
    /// It counts on the node, as if room had been made; what it is to wait for, if anything.
    Placed {
        spot: Spot,
        waits: Option<String>,
    },
    Refused {
        refused: Refused,
        nomination: Nomination,
    },
    Failed(String),
}

/// What comes of the group.
enum Verdict {
    Goes,
    /// It could go if the victims did.
    NeedsRoom,
    Cannot,
    Failed(String),
}

/// How to take back that a pod counts on a node.
struct Assumed {
    pod: Arc<PodInfo>,
    nominated: Option<String>,
    node: String,
    victims: Vec<Arc<PodInfo>>,
}

impl Scheduler {
    /// The group that the pod is decided about with.
    pub(crate) fn group_of(&self, pod: &PodInfo) -> Option<PodKey> {
        pod.group_key().filter(|_| self.gates.has(Gate::GenericWorkload))
    }

    /// Lets members of a group be tried that were kept from it and that the change may help.
    pub(crate) fn wake_members(&mut self, group: &PodKey, change: &Change, now: Timestamp) {
        for key in self.cluster.groups.waiting(group) {
            let Some((pod, by)) = self.queue.gated_by(&key) else { continue };
            let Some(profile) = self.profile_of(pod).map(|at| &self.profiles[at]) else { continue };
            if profile.helps(pod, by, change) && profile.gate(pod, &self.cluster).is_none() {
                self.queue.move_on(&key, change.label(), now);
            }
        }
    }

    /// Decides about the group of a pod that was taken from the queue.
    pub(crate) fn decide_group(&mut self, first: (Arc<PodInfo>, Tries), key: &PodKey, now: Timestamp) {
        let Some(profile) = self.profile_of(&first.0) else { return };
        let members = self.gather(first, key, now);
        let name = |member: &(Arc<PodInfo>, Tries)| member.0.scheduler_name.clone();
        let of_first = name(&members[0]);
        if let Some(other) = members.iter().map(name).find(|other| *other != of_first) {
            let message = format!(
                "all pods in a single pod group should have the same .spec.schedulerName set, got: {of_first:?} and \
                 {other:?}"
            );
            for (pod, tries) in members {
                let profile = self.profile_of(&pod).unwrap_or(profile);
                self.set_back_by_error((pod, profile, tries), message.clone(), now);
            }
            return;
        }
        let (verdict, fates) = self.try_members(&members, profile);
        let outcome = self.tell_group(&verdict, profile);
        let mut fates = fates.into_iter();
        for (pod, tries) in members {
            self.settle_member((pod, profile, tries), &verdict, fates.next(), now);
        }
        self.effects.push_back(Effect::Group { group: key.clone(), outcome });
    }

    /// All members that may be tried now, the most important and longest known first.
    fn gather(&mut self, first: (Arc<PodInfo>, Tries), key: &PodKey, now: Timestamp) -> Vec<(Arc<PodInfo>, Tries)> {
        let mut members = vec![first];
        for other in self.cluster.groups.waiting(key) {
            if !self.preempting.contains_key(&other) {
                members.extend(self.queue.take(&other, now));
            }
        }
        members.sort_by_cached_key(|(pod, tries)| (Reverse(pod.priority), tries.first, pod.key.clone()));
        members
    }

    /// Gives each its node in turn. They keep them where the group goes.
    fn try_members(&mut self, members: &[(Arc<PodInfo>, Tries)], profile: usize) -> (Verdict, Vec<Fate>) {
        let (mut verdict, mut fates, mut assumed) = (Verdict::Cannot, Vec::new(), Vec::new());
        let mut needs_room = false;
        for (pod, _) in members {
            let fate = self.try_member(pod, profile, &mut assumed);
            match &fate {
                Fate::Placed { spot, waits } => {
                    needs_room |= spot.refused.is_some();
                    match (waits, needs_room) {
                        (Some(_), _) => (),
                        (None, true) => verdict = Verdict::NeedsRoom,
                        (None, false) => verdict = Verdict::Goes,
                    }
                }
                Fate::Refused { .. } => (),
                Fate::Failed(why) => {
                    verdict = Verdict::Failed(format!("failed to schedule other pod from a pod group: {why}"));
                    fates.push(fate);
                    break;
                }
            }
            fates.push(fate);
        }
        if !matches!(verdict, Verdict::Goes) {
            while let Some(last) = assumed.pop() {
                self.take_back(last, profile);
            }
        }
        (verdict, fates)
    }

    fn try_member(&mut self, pod: &Arc<PodInfo>, profile: usize, assumed: &mut Vec<Assumed>) -> Fate {
        self.turn = self.turn.wrapping_add(1);
        if self.cluster.nodes().is_empty() {
            let refused = Refused { message: "no nodes available to schedule pods".into(), by: Rejectors::new() };
            return Fate::Refused { refused, nomination: Nomination::Clear };
        }
        let mut class = self.class_of(pod, profile);
        let found = match class.rejection() {
            Some(_) => Found::default(),
            None => self.search(pod, &mut class, self.profiles[profile].percent),
        };
        let spot = match found.feasible.is_empty() {
            true => self.find_room(pod, &mut class, &found, profile),
            false => {
                let at = choose(&mut class, &self.cluster, &found.feasible, self.turn);
                let node = self.cluster.nodes()[at as usize].name.clone();
                Ok(Spot { node, victims: Vec::new(), refused: None })
            }
        };
        self.profiles[profile].classes.keep(pod, class);
        match spot {
            Ok(spot) => self.assume(pod, profile, spot, assumed),
            Err(fate) => fate,
        }
    }

    fn find_room(&mut self, pod: &PodInfo, class: &mut Class, found: &Found, profile: usize) -> Result<Spot, Fate> {
        let mut refused = Refused::of(class, found, self.cluster.nodes().len());
        let (cluster, turn, choice) = (&self.cluster, self.turn, Choice::Best);
        let after = self.profiles[profile].post_filter(&mut Attempt { pod, cluster, class, found, turn, choice });
        self.counts.preemptions += u64::from(after.is_some());
        let (message, nomination) = match after {
            Some(PostFilter::Made { node, victims }) => return Ok(Spot { node, victims, refused: Some(refused) }),
            Some(PostFilter::Helpless { message, nomination }) => (message, nomination),
            Some(PostFilter::Stuck { message }) => (message, Nomination::Keep),
            Some(PostFilter::Candidates(_)) | None => {
                return Err(Fate::Refused { refused, nomination: Nomination::Clear });
            }
        };
        refused.message = format!("{} {message}", refused.message);
        Err(Fate::Refused { refused, nomination })
    }

    /// Lets a pod count on a node, without those who would have to go, and asks whether it may.
    fn assume(&mut self, pod: &Arc<PodInfo>, profile: usize, spot: Spot, assumed: &mut Vec<Assumed>) -> Fate {
        let Spot { node, victims, .. } = &spot;
        let nominated = self.cluster.nominations.node_of(&pod.key).map(str::to_owned);
        victims.iter().for_each(|victim| drop(self.cluster.lift(&victim.key)));
        self.cluster.put(pod.clone(), node);
        self.cluster.nominations.remove(&pod.key);
        let last = Assumed { pod: pod.clone(), nominated, node: node.clone(), victims: victims.clone() };
        if let Err((plugin, status)) = self.reserve(pod, profile, node) {
            self.take_back(last, profile);
            let refused = Refused::by(plugin, &status);
            return Fate::Refused { refused, nomination: Nomination::Clear };
        }
        let (plugin, permit) = self.profiles[profile].permit(pod, node, &self.cluster);
        let waits = match permit {
            Permit::Allow => None,
            Permit::Wait(why) => Some(format!("{why}, {NOBODY_REJECTED}")),
            Permit::Reject(status) => {
                self.take_back(last, profile);
                return Fate::Refused { refused: Refused::by(plugin, &status), nomination: Nomination::Clear };
            }
            Permit::Fail(why) => {
                self.take_back(last, profile);
                return Fate::Failed(format!("running Permit plugin {plugin:?}: {why}"));
            }
        };
        assumed.push(last);
        Fate::Placed { spot, waits }
    }

    fn take_back(&mut self, last: Assumed, profile: usize) {
        let Assumed { pod, nominated, node, victims } = last;
        for plugin in self.profiles[profile].at(Point::Reserve) {
            plugin.unreserve(&pod, &mut self.cluster);
        }
        self.cluster.lift(&pod.key);
        self.cluster.groups.wait(&pod);
        if let Some(node) = nominated {
            self.cluster.nominate(pod, &node);
        }
        victims.into_iter().for_each(|victim| self.cluster.put(victim, &node));
    }

    /// Counts what came of a group, and says it.
    fn tell_group(&mut self, verdict: &Verdict, profile: usize) -> GroupOutcome {
        let (result, said) = match verdict {
            Verdict::Goes => (GroupResult::Scheduled, None),
            Verdict::NeedsRoom => (GroupResult::WaitingOnPreemption, Some((Reason::Unschedulable, FOR_ROOM))),
            Verdict::Cannot => (GroupResult::Unschedulable, Some((Reason::Unschedulable, UNSCHEDULABLE))),
            Verdict::Failed(why) => (GroupResult::Error, Some((Reason::SchedulerError, why.as_str()))),
        };
        self.counts.group_ended(profile, result);
        match said {
            None => GroupOutcome::Scheduled,
            Some((reason, message)) => GroupOutcome::Not { reason, message: message.to_owned() },
        }
    }

    fn settle_member(&mut self, tried: Tried, verdict: &Verdict, fate: Option<Fate>, now: Timestamp) {
        let refused = |message: String| Refused { message, by: Rejectors::new() };
        match (verdict, fate) {
            (Verdict::Failed(_), Some(Fate::Failed(why))) => self.set_back_by_error(tried, why, now),
            (Verdict::Failed(why), _) => self.set_back_by_error(tried, why.clone(), now),
            (Verdict::Goes, Some(Fate::Placed { spot, .. })) => {
                let (pod, profile, tries) = tried;
                self.send((pod, profile, tries), spot.node);
            }
            (Verdict::NeedsRoom, Some(Fate::Placed { spot: Spot { node, victims, refused }, .. })) => {
                let pod = tried.0.clone();
                let Refused { message, by } =
                    refused.unwrap_or_else(|| Refused { message: FOR_ROOM.into(), by: Rejectors::new() });
                self.put_back(tried, by, now);
                self.make_way(pod, message, (node, victims));
            }
            (_, Some(Fate::Placed { waits, .. })) => {
                let message = match waits {
                    Some(why) => format!("{UNSCHEDULABLE}, {why}"),
                    None => UNSCHEDULABLE.into(),
                };
                self.set_back(tried, refused(message), Nomination::Clear, now);
            }
            (_, Some(Fate::Refused { refused, nomination })) => self.set_back(tried, refused, nomination, now),
            (_, Some(Fate::Failed(_)) | None) => {
                self.set_back(tried, refused(UNSCHEDULABLE.into()), Nomination::Clear, now);
            }
        }
    }

    /// As `fail`, for a member of a group.
    fn set_back(&mut self, tried: Tried, refused: Refused, nomination: Nomination, now: Timestamp) {
        let pod = tried.0.clone();
        let clears = nomination == Nomination::Clear;
        let nominate = (clears && !pod.nominated.is_empty()).then(String::new);
        if clears {
            self.cluster.nominations.remove(&pod.key);
        }
        let Refused { message, by } = refused;
        self.put_back(tried, by, now);
        self.effects.push_back(Effect::Failed { pod, reason: Reason::Unschedulable, message, nominate });
    }

    /// As `fail_by_error`, for a member of a group.
    fn set_back_by_error(&mut self, (pod, profile, tries): Tried, message: String, now: Timestamp) {
        self.counts.ended(profile, Outcome::Error, &tries, now);
        self.cluster.nominations.remove(&pod.key);
        let nominate = (!pod.nominated.is_empty()).then(String::new);
        let (rank, gate) = (self.profiles[profile].rank(&pod), self.profiles[profile].gate(&pod, &self.cluster));
        self.queue.set_back((pod.clone(), rank), tries, (Rejectors::new(), gate), now);
        self.effects.push_back(Effect::Failed { pod, reason: Reason::SchedulerError, message, nominate });
    }

    fn put_back(&mut self, (pod, profile, tries): Tried, by: Rejectors, now: Timestamp) {
        self.counts.ended(profile, Outcome::Unschedulable, &tries, now);
        let (rank, gate) = (self.profiles[profile].rank(&pod), self.profiles[profile].gate(&pod, &self.cluster));
        self.queue.set_back((pod, rank), tries, (by, gate), now);
    }
}
