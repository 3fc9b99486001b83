//! Prefers nodes that have the pod's images already, the larger and the wider spread the better.

use std::sync::Arc;

use crate::framework::{Plugin, Point, SCORE_MAX, Score};
use crate::images::Holders;
use crate::node::NodeInfo;
use crate::pod::{PodInfo, Shape};
use crate::snapshot::Snapshot;

/// Below this many bytes an image counts nothing, above the other as much as can be; per container.
const BYTES_MIN: i64 = 23 << 20;
const BYTES_MAX_PER_CONTAINER: i64 = 1000 << 20;

pub struct ImageLocality;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Score]
    }

    fn pre_score(&self, pod: &PodInfo, cluster: &Snapshot) -> Option<Box<dyn Score>> {
        let nodes = cluster.nodes().len();
        Some(Box::new(Local { shape: pod.shape.clone(), nodes, held: Vec::new(), version: None }))
    }
}

struct Local {
    shape: Arc<Shape>,
    nodes: usize,
    /// Those of the pod's images that some node holds.
    held: Vec<Holders>,
    /// Of the images that this was read from.
    version: Option<u64>,
}

impl Score for Local {
    fn is_local(&self) -> bool {
        false
    }

    fn observe_all(&mut self, cluster: &Snapshot) {
        self.version = Some(cluster.images.version);
        self.held = self.shape.images.iter().filter_map(|name| cluster.images.holders(name).cloned()).collect();
    }

    fn follow(&mut self, _places: &[u32], cluster: &Snapshot) {
        if self.version != Some(cluster.images.version) {
            self.observe_all(cluster);
        }
    }

    fn is_idle(&self) -> bool {
        self.held.is_empty()
    }

    fn score(&self, _at: usize, node: &NodeInfo) -> i64 {
        let scaled = |holders: &Holders| {
            let spread = holders.len() as f64 / self.nodes.max(1) as f64;
            Some((*holders.get(&node.serial)? as f64 * spread) as i64)
        };
        let sum = self.held.iter().filter_map(scaled).fold(0, i64::saturating_add);
        let most = BYTES_MAX_PER_CONTAINER * self.shape.containers.max(1) as i64;
        SCORE_MAX * (sum.clamp(BYTES_MIN, most) - BYTES_MIN) / (most - BYTES_MIN)
    }
}
