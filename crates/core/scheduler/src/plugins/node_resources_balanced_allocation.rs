//! Prefers nodes whose resources the pod brings closer to even use: half the score is how balanced the node is with
//! the pod compared to without.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::node_resources_fit::Weighted;
use crate::framework::{Plugin, Point, SCORE_MAX, Score};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::resources::{Which, is_scalar};
use crate::snapshot::Snapshot;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Args {
    resources: Vec<Weighted>,
}

impl Default for Args {
    fn default() -> Args {
        Args { resources: ["cpu", "memory"].map(|name| Weighted { name: name.into(), weight: 1 }).into() }
    }
}

pub struct NodeResourcesBalancedAllocation {
    resources: Arc<Vec<String>>,
}

impl NodeResourcesBalancedAllocation {
    pub fn make(args: Option<&Value>) -> Result<Arc<dyn Plugin>, String> {
        let resources = super::read::<Args>(args)?.resources;
        if resources.iter().any(|resource| resource.weight != 1) {
            return Err("resources: resource weight not in valid range [1, 1]".into());
        }
        let resources = Arc::new(resources.into_iter().map(|resource| resource.name).collect());
        Ok(Arc::new(NodeResourcesBalancedAllocation { resources }))
    }
}

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreScore, Point::Score]
    }

    /// A pod that asks for nothing of it balances nothing.
    fn pre_score(&self, pod: &PodInfo, _cluster: &Snapshot) -> Option<Box<dyn Score>> {
        let asks = self.resources.iter().any(|name| pod.requests.amount(name) != 0);
        let asked = self.resources.iter().filter_map(|name| {
            let asked = pod.requests.amount(name);
            (asked != 0 || !is_scalar(name)).then_some((Which::new(name), asked))
        });
        asks.then(|| Box::new(Balance { asked: asked.collect() }) as Box<dyn Score>)
    }
}

struct Balance {
    asked: Vec<(Which, i64)>,
}

impl Score for Balance {
    fn score(&self, _at: usize, node: &NodeInfo) -> i64 {
        let (mut with, mut without) = (Spread::default(), Spread::default());
        for (which, asked) in &self.asked {
            let capacity = node.allocatable.of(which);
            if capacity == 0 {
                continue;
            }
            let used = node.requested.of(which);
            with.take(used.saturating_add(*asked) as f64 / capacity as f64);
            without.take(used as f64 / capacity as f64);
        }
        SCORE_MAX / 2 + (SCORE_MAX / 2 + with.balance() - without.balance()) / 2
    }
}

/// The spread of a few shares.
#[derive(Default)]
struct Spread {
    count: f64,
    sum: f64,
    squares: f64,
    first: f64,
}

impl Spread {
    fn take(&mut self, share: f64) {
        let share = share.min(1.0);
        if self.count == 0.0 {
            self.first = share;
        }
        self.count += 1.0;
        self.sum += share;
        self.squares += share * share;
    }

    /// 100 where all shares are equal; the standard deviation takes away from it.
    fn balance(&self) -> i64 {
        let deviation = match self.count as usize {
            0 | 1 => 0.0,
            // Of two shares it is half their distance, exactly.
            2 => ((self.first - (self.sum - self.first)) / 2.0).abs(),
            _ => {
                let mean = self.sum / self.count;
                (self.squares / self.count - mean * mean).max(0.0).sqrt()
            }
        };
        ((1.0 - deviation) * SCORE_MAX as f64) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_use_is_balanced() {
        let balance = |shares: &[f64]| {
            let mut spread = Spread::default();
            shares.iter().for_each(|share| spread.take(*share));
            spread.balance()
        };
        assert_eq!(balance(&[0.5, 0.5]), 100);
        assert_eq!(balance(&[0.0, 1.0]), 50);
        assert_eq!(balance(&[0.25, 4.0]), 62);
        assert_eq!(balance(&[0.5]), 100);
    }
}
