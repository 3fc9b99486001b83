//! Prefers nodes that have the pod's images already, the larger and the wider spread the better.

use std::sync::Arc;

use crate::framework::{Plugin, Point, SCORE_MAX, Score};
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
        let having = vec![0; pod.images.len()];
        let holders = 0;
        Some(Box::new(Local { shape: pod.shape.clone(), nodes, having, holders, sizes: vec![Vec::new(); nodes] }))
    }
}

struct Local {
    shape: Arc<Shape>,
    nodes: usize,
    /// How many nodes have each image of the pod.
    having: Vec<i64>,
    /// How many nodes have any.
    holders: usize,
    /// The pod's images at each node, as number and size.
    sizes: Vec<Vec<(u32, i64)>>,
}

impl Score for Local {
    fn is_local(&self) -> bool {
        false
    }

    fn observe(&mut self, at: usize, node: &NodeInfo, _cluster: &Snapshot) {
        let was = std::mem::take(&mut self.sizes[at]);
        self.holders -= usize::from(!was.is_empty());
        was.iter().for_each(|(image, _)| self.having[*image as usize] -= 1);
        if node.images.is_empty() {
            return;
        }
        let size = |wanted: &String| node.images.iter().find(|(name, _)| name == wanted).map(|(_, size)| *size);
        let found = self.shape.images.iter().enumerate();
        let found: Vec<_> = found.filter_map(|(image, name)| Some((image as u32, size(name)?))).collect();
        found.iter().for_each(|(image, _)| self.having[*image as usize] += 1);
        self.holders += usize::from(!found.is_empty());
        self.sizes[at] = found;
    }

    fn is_idle(&self) -> bool {
        self.holders == 0
    }

    fn score(&self, at: usize, _node: &NodeInfo) -> i64 {
        let scaled = |(image, size): &(u32, i64)| {
            let spread = self.having[*image as usize] as f64 / self.nodes.max(1) as f64;
            (*size as f64 * spread) as i64
        };
        let sum: i64 = self.sizes[at].iter().map(scaled).sum();
        let most = BYTES_MAX_PER_CONTAINER * self.shape.containers.max(1) as i64;
        SCORE_MAX * (sum.clamp(BYTES_MIN, most) - BYTES_MIN) / (most - BYTES_MIN)
    }
}
