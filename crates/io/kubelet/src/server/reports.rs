//! What the node runs.

use serde_json::json;

use super::{Answer, json as json_answer};
use crate::node::own_pods;
use crate::node_context::NodeContext;

pub(super) fn pods(node: &NodeContext) -> Answer {
    let pods = own_pods(node);
    let items: Vec<&k8s_openapi::api::core::v1::Pod> = pods.iter().map(AsRef::as_ref).collect();
    json_answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}
