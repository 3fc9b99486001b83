//! A decision about all waiting pods of a group at once: each is given a node as if the others before it had theirs
//! already, and only when the group as a whole may go does any of them go. What was set aside for a group that may not
//! is given back before anybody else is decided about, so that two groups never hold parts of what each needs. Source
//! of rules and words: kube-scheduler's `schedule_one_podgroup.go`.

use std::cmp::Reverse;
use std::sync::Arc;

use coracle_meta::Gate;
use jiff::{SignedDuration, Timestamp};

use crate::counts::{GroupResult, Outcome};
use crate::decide::{Refused, Tried};
use crate::framework::{Change, Nomination};
use crate::group_trial::{Fate, Spot, Trial};
use crate::pod::{PodInfo, PodKey};
use crate::queue::{Rejectors, Tries};
use crate::scheduler::{Effect, Reason, Scheduler};

const UNSCHEDULABLE: &str = "pod group is unschedulable";
const FOR_ROOM: &str = "pod group is unschedulable, pod group is waiting for preemption to complete";
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

/// What comes of the group.
pub(crate) enum Verdict {
    Goes,
    /// It could go if the victims did.
    NeedsRoom,
    Cannot,
    Failed(String),
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
        self.go_through(Trial::new(key.clone(), profile, members), None, now);
    }

    /// Sends the members of a group that may go on their way, and says of the others why they do not.
    pub(crate) fn end_trial(&mut self, mut trial: Trial, now: Timestamp) {
        let verdict = trial.verdict();
        if !matches!(verdict, Verdict::Goes) {
            self.take_all_back(&mut trial);
        }
        let Trial { group, profile, members, fates, .. } = trial;
        let Some((_, first)) = members.first() else { return };
        let outcome = self.tell_group(&verdict, profile, now.duration_since(first.began));
        let mut fates = fates.into_iter();
        for (pod, tries) in members {
            self.settle_member((pod, profile, tries), &verdict, fates.next(), now);
        }
        self.effects.push_back(Effect::Group { group, outcome });
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

    /// Counts what came of a group, and says it.
    fn tell_group(&mut self, verdict: &Verdict, profile: usize, asked: SignedDuration) -> GroupOutcome {
        let (result, said) = match verdict {
            Verdict::Goes => (GroupResult::Scheduled, None),
            Verdict::NeedsRoom => (GroupResult::WaitingOnPreemption, Some((Reason::Unschedulable, FOR_ROOM))),
            Verdict::Cannot => (GroupResult::Unschedulable, Some((Reason::Unschedulable, UNSCHEDULABLE))),
            Verdict::Failed(why) => (GroupResult::Error, Some((Reason::SchedulerError, why.as_str()))),
        };
        self.counts.group_ended((profile, result), asked);
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
        let nominate = (clears && !pod.nominated().is_empty()).then(String::new);
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
        let nominate = (!pod.nominated().is_empty()).then(String::new);
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
