//! A node takes a pod only if what is left covers its requests; of those that can, the emptiest is best
//! (LeastAllocated, the default strategy, over CPU and memory alike).

use crate::framework::{Check, Plugin, Rejection, SCORE_MAX, Wake};
use crate::{NodeInfo, PodInfo, Snapshot};

pub struct NodeResourcesFit;

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _snapshot: &'a Snapshot) -> Option<Box<dyn Check + 'a>> {
        Some(Box::new(Fit(pod)))
    }

    fn wakes(&self) -> &'static [Wake] {
        &[Wake::NodeAdded, Wake::NodeAllocatable, Wake::PodGone]
    }
}

struct Fit<'a>(&'a PodInfo);

impl Check for Fit<'_> {
    fn filter(&self, node: &NodeInfo) -> Vec<Rejection> {
        let (asked, used, whole) = (&self.0.requests, &node.requested, &node.allocatable);
        let mut against = Vec::new();
        if node.pods.len() as i64 + 1 > node.pods_max {
            against.push(Rejection::new("Too many pods"));
        }
        let mut need = |name: &str, asked: i64, used: i64, whole: i64| {
            if asked > 0 && asked > whole - used {
                // A node too small when empty stays too small whoever is removed.
                against.push(Rejection { reason: format!("Insufficient {name}"), preemptible: asked <= whole });
            }
        };
        need("cpu", asked.cpu_milli, used.cpu_milli, whole.cpu_milli);
        need("memory", asked.memory, used.memory, whole.memory);
        need("ephemeral-storage", asked.ephemeral_storage, used.ephemeral_storage, whole.ephemeral_storage);
        for (name, amount) in &asked.others {
            let of = |held: &crate::resources::Resources| held.others.get(name).copied().unwrap_or(0);
            need(name, *amount, of(used), of(whole));
        }
        against
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let left =
            |used: i64, whole: i64| if whole <= 0 || used > whole { 0 } else { (whole - used) * SCORE_MAX / whole };
        let cpu = left(node.assumed.cpu_milli + self.0.assumed.cpu_milli, node.allocatable.cpu_milli);
        let memory = left(node.assumed.memory + self.0.assumed.memory, node.allocatable.memory);
        (cpu + memory) / 2
    }
}
