//! Making room: which pods of less importance would have to go from a node, tried out on copies of it, and which node
//! hurts least. Rules: kube-scheduler `framework/preemption` and its DefaultPreemption plugin.

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::Timestamp;

use crate::class::Class;
use crate::cycle::{Found, with_nominated};
use crate::framework::{Nomination, PostFilter, Status};
use crate::message::Reasons;
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

/// A pod that no node can take, and all that is known about why.
pub struct Attempt<'a> {
    pub pod: &'a PodInfo,
    pub cluster: &'a Snapshot,
    pub class: &'a mut Class,
    pub found: &'a Found,
    /// Chooses where the search for candidates begins.
    pub turn: usize,
    /// Whether the best candidate is chosen here, or all are wanted.
    pub choice: Choice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Best,
    /// Extenders have a say first.
    All,
}

/// How many candidates are enough.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    pub percent: i64,
    pub least: i64,
}

impl Extent {
    fn of(&self, nodes: usize) -> usize {
        ((nodes as i64 * self.percent / 100).max(self.least) as usize).min(nodes)
    }
}

/// A node and the pods that would have to go from it, the most important first.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub node: String,
    pub victims: Vec<Arc<PodInfo>>,
    pub broken_budgets: usize,
}

/// Nodes on which no room can be made.
#[derive(Debug, Default)]
struct Failures {
    /// Those without a pod of less importance.
    without_victims: usize,
    others: Vec<Status>,
}

impl Attempt<'_> {
    /// Finds the node where room can be made at the least cost.
    pub fn preempt(&mut self, extent: Extent) -> PostFilter {
        if let Some(why) = self.ineligible() {
            return PostFilter::Helpless { message: why.into(), nomination: Nomination::Keep };
        }
        let potential: Vec<usize> = self.resolvable().collect();
        let (candidates, failures) = self.candidates(&potential, extent);
        match best(&candidates) {
            Some(_) if self.choice == Choice::All => {
                PostFilter::Candidates(candidates.into_iter().filter(|found| !found.victims.is_empty()).collect())
            }
            Some(best) => PostFilter::Made { node: best.node.clone(), victims: best.victims.clone() },
            None => PostFilter::Helpless { message: self.helpless(&failures), nomination: Nomination::Clear },
        }
    }

    fn ineligible(&self) -> Option<&'static str> {
        if self.pod.never_preempts {
            return Some("not eligible due to preemptionPolicy=Never.");
        }
        let at = self.cluster.place(self.pod.nominated())?;
        if !self.resolvable().any(|place| place == at) {
            return None;
        }
        let leaves = |other: &Arc<PodInfo>| other.priority < self.pod.priority && other.preempted;
        let leaving = self.cluster.nodes()[at].pods.iter().any(leaves);
        leaving.then_some("not eligible due to a terminating pod on the nominated node.")
    }

    fn resolvable(&self) -> impl Iterator<Item = usize> {
        let may_help = |(_, verdict): &&(u32, u32)| self.class.status(*verdict).1.resolvable;
        self.found.rejected.iter().filter(may_help).map(|(at, _)| *at as usize)
    }

    fn candidates(&mut self, potential: &[usize], extent: Extent) -> (Vec<Candidate>, Failures) {
        let (mut sparing, mut breaking, mut failures) = (Vec::new(), Vec::new(), Failures::default());
        let wanted = extent.of(potential.len());
        for index in 0..potential.len() {
            let at = potential[(self.turn + index) % potential.len()];
            if self.cluster.nodes()[at].least_priority >= self.pod.priority {
                failures.without_victims += 1;
                continue;
            }
            let tried = self.victims(at);
            self.class.pretend(at, &self.cluster.nodes()[at], self.cluster);
            match tried {
                Ok(candidate) if candidate.broken_budgets == 0 => sparing.push(candidate),
                Ok(candidate) => breaking.push(candidate),
                Err(status) => failures.others.push(status),
            }
            if !sparing.is_empty() && sparing.len() + breaking.len() >= wanted {
                break;
            }
        }
        sparing.append(&mut breaking);
        (sparing, failures)
    }

    /// The fewest pods to go so that the pod fits, sparing important ones and those that a budget protects.
    fn victims(&mut self, at: usize) -> Result<Candidate, Status> {
        let mut node = self.cluster.nodes()[at].clone();
        let lesser = |other: &&Arc<PodInfo>| other.priority < self.pod.priority;
        let mut potential: Vec<_> = node.pods.iter().filter(lesser).cloned().collect();
        for pod in &potential {
            node.remove(&pod.key);
        }
        if let Some(status) = self.unfit(at, &node) {
            return Err(status);
        }
        potential.sort_by_key(|pod| importance(pod));
        let (breaking, sparing) = self.cluster.budgets.part(&potential);
        let (mut victims, mut broken_budgets) = (Vec::new(), 0);
        for (pod, breaks) in breaking.iter().map(|pod| (pod, 1)).chain(sparing.iter().map(|pod| (pod, 0))) {
            node.add(pod.clone());
            if self.unfit(at, &node).is_some() {
                node.remove(&pod.key);
                victims.push(pod.clone());
                broken_budgets += breaks;
            }
        }
        victims.sort_by_key(|pod| importance(pod));
        Ok(Candidate { node: node.name.clone(), victims, broken_budgets })
    }

    fn unfit(&mut self, at: usize, node: &NodeInfo) -> Option<Status> {
        let crowded = with_nominated(self.pod, self.class, self.cluster, at, node);
        self.class.pretend(at, node, self.cluster);
        crowded.or_else(|| self.class.judge(at, node)).map(|(_, status)| status)
    }

    fn helpless(&self, failures: &Failures) -> String {
        let nodes = self.cluster.nodes().len();
        let mut reasons = Reasons::default();
        for reason in failures.others.iter().flat_map(|status| &status.reasons) {
            reasons.count(reason.as_ref(), 1);
        }
        reasons.count(NO_VICTIMS, failures.without_victims);
        reasons.count(NOT_HELPFUL, nodes - failures.others.len() - failures.without_victims);
        reasons.over(nodes)
    }
}

/// Sorts the more important pod first: by priority, then the one that started earlier. One that has not started counts
/// as starting now.
fn importance(pod: &PodInfo) -> (Reverse<i32>, Timestamp) {
    (Reverse(pod.priority), pod.started.unwrap_or(Timestamp::MAX))
}

/// The candidate that hurts least: fewest broken budgets, least important first victim, smallest sum of priorities,
/// fewest victims, and the latest start of the most important ones.
pub fn best(candidates: &[Candidate]) -> Option<&Candidate> {
    let candidates = candidates.iter().filter(|candidate| !candidate.victims.is_empty());
    candidates.min_by_key(|candidate| {
        let highest = candidate.victims[0].priority;
        // All priorities are lifted above zero, so that few victims of negative priority beat many of the same.
        let sum: i64 = candidate.victims.iter().map(|pod| i64::from(pod.priority) + (1 << 31)).sum();
        let foremost = candidate.victims.iter().filter(|pod| pod.priority == highest);
        let earliest = foremost.map(|pod| pod.started.unwrap_or(Timestamp::MAX)).min();
        (candidate.broken_budgets, highest, sum, candidate.victims.len(), Reverse(earliest))
    })
}
