//! Prefers nodes that have the pod's images already, the larger and the wider spread the better.

use crate::framework::{Check, Plugin, SCORE_MAX, Wake};
use crate::{NodeInfo, PodInfo, Snapshot};

/// Below this many bytes an image counts nothing, above the other as much as can be; per container.
const BYTES_MIN: i64 = 23 << 20;
const BYTES_MAX_PER_CONTAINER: i64 = 1000 << 20;

pub struct ImageLocality;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Check + 'a>> {
        let nodes = snapshot.node_count() as i64;
        let spread: Vec<_> = pod
            .images
            .iter()
            .map(|image| {
                let name = full_name(image);
                let having =
                    snapshot.nodes().filter(|node| node.images.iter().any(|(found, _)| *found == name)).count();
                (name, having as i64)
            })
            .filter(|(_, having)| *having > 0)
            .collect();
        let containers = pod.images.len() as i64;
        (!spread.is_empty()).then(|| Box::new(Local { spread, nodes, containers }) as Box<dyn Check>)
    }

    fn wakes(&self) -> &'static [Wake] {
        &[]
    }
}

struct Local {
    /// Each image that some node has, and how many nodes do.
    spread: Vec<(String, i64)>,
    nodes: i64,
    containers: i64,
}

impl Check for Local {
    fn score(&self, node: &NodeInfo) -> i64 {
        let size = |image: &String| node.images.iter().find(|(found, _)| found == image).map_or(0, |(_, size)| *size);
        let sum: i64 = self.spread.iter().map(|(image, having)| size(image) * having / self.nodes.max(1)).sum();
        let most = BYTES_MAX_PER_CONTAINER * self.containers;
        SCORE_MAX * (sum.clamp(BYTES_MIN, most) - BYTES_MIN) / (most - BYTES_MIN)
    }
}

/// An image without a tag is its `latest`.
fn full_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}
