//! Tells each kubelet, by an annotation on its Node, how long secrets and config maps may be kept: the larger the
//! cluster, the longer. Limits for growing and shrinking differ, so that no cluster flaps between two.

use std::sync::{Mutex, PoisonError};

use coracle_reconcile::{Controller, Key, Outcome, Plan, View, Watch};
use jiff::Timestamp;
use serde_json::json;

use crate::shape::Item;
use crate::taint_eviction::NODES;

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";
/// Nodes from which and to which each number of seconds holds.
const STEPS: [(usize, usize, u32); 5] =
    [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, 10_000, 300)];

/// Remembers the step, whose bounds overlap its neighbours'.
#[derive(Default)]
pub struct Ttl {
    step: Mutex<usize>,
}

impl Controller for Ttl {
    fn name(&self) -> &'static str {
        "ttl-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::itself(NODES)]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, _now: Timestamp) -> Plan {
        let Some(node) = Item::get(view, &NODES, key) else { return Plan::default() };
        let seconds = self.seconds(view.count(&NODES)).to_string();
        if node.annotation(ANNOTATION) == Some(&seconds) {
            return Plan::default();
        }
        let patch = json!({"metadata": {"annotations": {ANNOTATION: seconds}}});
        Plan { writes: vec![node.patch(&NODES, None, patch)], ..Plan::default() }
    }
}

impl Ttl {
    fn seconds(&self, nodes: usize) -> u32 {
        let mut step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        while nodes > STEPS[*step].1 && *step + 1 < STEPS.len() {
            *step += 1;
        }
        while nodes < STEPS[*step].0 && *step > 0 {
            *step -= 1;
        }
        STEPS[*step].2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::FakeView;

    #[test]
    fn nodes_are_told_once() {
        let view = FakeView::new().with(NODES, json!({"metadata": {"name": "a"}}));
        view.settle(&Ttl::default(), &Key::new("", "a"), Timestamp::UNIX_EPOCH);
        assert_eq!(view.json(&NODES, "", "a")["metadata"]["annotations"][ANNOTATION], "0");
    }

    #[test]
    fn steps_overlap() {
        let ttl = Ttl::default();
        let nodes = [1, 100, 101, 95, 89, 1200, 950, 899, 20_000];
        assert_eq!(nodes.map(|nodes| ttl.seconds(nodes)), [0, 0, 15, 15, 0, 60, 60, 30, 300]);
    }
}
