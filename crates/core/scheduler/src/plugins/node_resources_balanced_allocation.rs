//! Prefers nodes on which the pod leaves CPU and memory used in even proportion.

use crate::framework::{Check, Plugin, SCORE_MAX, Wake};
use crate::{NodeInfo, PodInfo, Snapshot};

pub struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn weight(&self) -> i64 {
        1
    }

    /// A pod that asks for neither CPU nor memory balances nothing.
    fn prepare<'a>(&self, pod: &'a PodInfo, _snapshot: &'a Snapshot) -> Option<Box<dyn Check + 'a>> {
        let asks = pod.requests.cpu_milli > 0 || pod.requests.memory > 0;
        asks.then(|| Box::new(Balance(pod)) as Box<dyn Check>)
    }

    fn wakes(&self) -> &'static [Wake] {
        &[]
    }
}

struct Balance<'a>(&'a PodInfo);

impl Check for Balance<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let share = |used: i64, whole: i64| if whole <= 0 { 1.0 } else { (used as f64 / whole as f64).min(1.0) };
        let cpu = share(node.requested.cpu_milli + self.0.requests.cpu_milli, node.allocatable.cpu_milli);
        let memory = share(node.requested.memory + self.0.requests.memory, node.allocatable.memory);
        // Of two shares the standard deviation is half their distance.
        ((1.0 - (cpu - memory).abs() / 2.0) * SCORE_MAX as f64) as i64
    }
}
