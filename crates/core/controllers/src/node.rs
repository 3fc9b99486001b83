//! What several controllers ask of a node, read once per version of it.

use std::sync::Arc;

use coracle_meta::Object;
use serde_json::Value;

use crate::shape::condition;

const REGION: [&str; 2] = ["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"];
const ZONE: [&str; 2] = ["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"];
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";

pub struct NodeFacts {
    pub is_ready: bool,
    /// Whether a taint drives pods out.
    pub drives_out: bool,
    /// Region and zone, both empty where nobody says.
    pub zone: String,
    /// Left out when it is judged how a zone fares.
    pub is_excluded: bool,
}

impl NodeFacts {
    pub fn of(node: &Object) -> Arc<NodeFacts> {
        node.kept(|node| {
            let tree = node.decode::<Value>().unwrap_or_default();
            let mut taints = tree["spec"]["taints"].as_array().into_iter().flatten();
            let label = |keys: [&str; 2]| keys.iter().find_map(|key| node.meta.label(key)).unwrap_or_default();
            NodeFacts {
                is_ready: condition(&tree["status"], "Ready").is_some_and(|ready| ready["status"] == "True"),
                drives_out: taints.any(|taint| taint["effect"] == "NoExecute"),
                zone: format!("{}:{}", label(REGION), label(ZONE)),
                is_excluded: node.meta.label(EXCLUDED).is_some(),
            }
        })
    }
}
