//! What happens next in a set, and in which order: missing pods are made upwards, surplus and outdated ones go downwards.

use std::time::Duration;

use coracle_reconcile::Write;

use super::claims::Claims;
use super::identity::{REVISION_LABEL, ordinal_of};
use super::{Decision, Replica};
use crate::pods::{self, PODS};
use crate::shape::{Item, Rounding, scaled};

/// Whether the next pod may be looked at.
#[derive(Clone, Copy, PartialEq)]
enum Next {
    GoOn,
    Stop,
}

/// Pods created or deleted by one decision.
pub const BURST_MAX: usize = 500;
/// How often a claim is looked at that is still to go.
const CLAIM_CHECK: Duration = Duration::from_secs(5);

impl Decision<'_> {
    pub(super) fn put_in_order(&mut self) {
        if self.bring_up() == Next::GoOn && self.scale_down() == Next::GoOn {
            self.roll();
        }
    }

    /// Each place gets a healthy pod; a set with ordered pods waits at the first that is not.
    fn bring_up(&mut self) -> Next {
        let mut changes = 0;
        for replica in self.replicas.clone() {
            if self.bring_up_one(&replica) == Next::Stop {
                changes += 1;
                if self.is_ordered() || changes >= BURST_MAX {
                    return Next::Stop;
                }
            }
        }
        Next::GoOn
    }

    fn bring_up_one(&mut self, replica: &Replica) -> Next {
        let Some(pod) = &replica.pod else {
            self.create(replica.ordinal);
            return Next::Stop;
        };
        if matches!(pods::phase(pod), "Failed" | "Succeeded") {
            if !pod.meta().is_deleting() {
                self.delete(pod);
            }
            return Next::Stop;
        }
        if pods::phase(pod) == "Pending" && !pod.meta().is_deleting() {
            self.make_claims(replica.ordinal);
        }
        let waits = pod.meta().is_deleting() || !is_running_and_ready(pod) || !self.is_available(pod);
        if waits && self.is_ordered() {
            return Next::Stop;
        }
        if let Some(patch) = self.identity_patch(pod, replica.ordinal) {
            if let Some(error) = self.refused.change.filter(|_| self.refused.name == pod.name()) {
                self.note_of_failure("FailedUpdate", &format!("Update Pod {}", pod.name()), error);
            }
            self.note_of_pod("SuccessfulUpdate", "Update", pod.name());
            self.plan.writes.push(pod.patch(&PODS, None, patch));
        }
        self.own_claims(pod, replica.ordinal);
        Next::GoOn
    }

    fn create(&mut self, ordinal: i64) {
        let name = self.pod_name(ordinal);
        if let Some(error) = self.refused.create.filter(|_| self.refused.name == name) {
            self.note_of_failure("FailedCreate", &format!("Create Pod {name}"), error);
        }
        if self.make_claims(ordinal) == Claims::Wait {
            self.plan.wake_by(CLAIM_CHECK);
            return;
        }
        let (namespace, object) = (self.set.namespace().to_owned(), self.pod(ordinal));
        self.counts.made(
            self.revision_for(ordinal).name == self.current.name,
            self.revision_for(ordinal).name == self.update.name,
        );
        self.note_of_pod("SuccessfulCreate", "Create", &name);
        self.plan.writes.push(Write::Create { resource: PODS, namespace, object });
    }

    fn delete(&mut self, pod: &Item) {
        if let Some(error) = self.refused.delete.filter(|_| self.refused.name == pod.name()) {
            self.note_of_failure("FailedDelete", &format!("Delete Pod {}", pod.name()), error);
        }
        self.note_of_pod("SuccessfulDelete", "Delete", pod.name());
        self.plan.writes.push(pod.delete(&PODS));
    }

    /// Pods beyond the range go, the highest first and one at a time where pods are ordered, unless another than the
    /// first that is unhealthy would be the next.
    fn scale_down(&mut self) -> Next {
        let condemned = self.condemned.clone();
        for pod in &condemned {
            if let Some(ordinal) = ordinal_of(pod) {
                self.own_claims(pod, ordinal);
            }
        }
        let mut changed = Next::GoOn;
        for pod in condemned.iter().take(BURST_MAX) {
            if pod.meta().is_deleting() {
                if self.is_ordered() {
                    return Next::Stop;
                }
                continue;
            }
            let healthy = is_running_and_ready(pod) && self.is_available(pod);
            if self.is_ordered() && !healthy && self.first_unavailable().as_deref() != Some(pod.name()) {
                return Next::Stop;
            }
            self.delete(pod);
            changed = Next::Stop;
            if self.is_ordered() {
                return Next::Stop;
            }
        }
        if self.is_ordered() { changed } else { Next::GoOn }
    }

    fn first_unavailable(&self) -> Option<String> {
        let replica = self.replicas.iter().find(|replica| self.is_unavailable(replica.pod.as_ref()));
        let condemned = || self.condemned.iter().rev().find(|pod| self.is_unavailable(Some(*pod)));
        replica.map(|replica| self.pod_name(replica.ordinal)).or_else(|| condemned().map(|pod| pod.name().to_owned()))
    }

    /// Pods of the former template go, the highest ordinal first, as many as may be unavailable.
    fn roll(&mut self) {
        if self.set.at("/spec/updateStrategy/type") == "OnDelete" {
            return;
        }
        let rolling = self.set.at("/spec/updateStrategy/rollingUpdate").clone();
        let partition = usize::try_from(rolling["partition"].as_i64().unwrap_or(0)).unwrap_or(0);
        let targets: Vec<Replica> = self.replicas.iter().skip(partition).rev().cloned().collect();
        if rolling["maxUnavailable"].is_null() {
            return self.roll_one(&targets);
        }
        let bound = scaled(&rolling["maxUnavailable"], self.size(), Rounding::Down).unwrap_or(1).max(1) as usize;
        let unavailable = self.replicas.iter().filter(|replica| self.is_unavailable(replica.pod.as_ref())).count();
        let outdated: Vec<Item> =
            targets.into_iter().filter_map(|replica| replica.pod).filter(|pod| self.is_outdated(pod)).collect();
        for pod in outdated.iter().take(bound.saturating_sub(unavailable)) {
            self.delete(pod);
            self.counts.current -= 1;
        }
    }

    /// The first outdated pod goes, unless a pod above it is still to become available.
    fn roll_one(&mut self, targets: &[Replica]) {
        for replica in targets {
            let Some(pod) = &replica.pod else { return };
            if self.is_outdated(pod) {
                self.delete(pod);
                self.counts.current -= 1;
                return;
            }
            if self.is_unavailable(Some(pod)) {
                return;
            }
        }
    }

    fn is_outdated(&self, pod: &Item) -> bool {
        pod.meta().label(REVISION_LABEL) != Some(&self.update.name) && !pod.meta().is_deleting()
    }
}

pub fn is_running_and_ready(pod: &Item) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}
