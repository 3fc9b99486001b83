//! A cordoned node takes only pods that tolerate its taint.

use k8s_openapi::api::core::v1::Taint;

use super::tolerates;
use crate::framework::{Check, Plugin, Rejection, Wake};
use crate::{NodeInfo, PodInfo, Snapshot};

const TAINT: &str = "node.kubernetes.io/unschedulable";

pub struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _snapshot: &'a Snapshot) -> Option<Box<dyn Check + 'a>> {
        let taint = Taint { key: TAINT.into(), effect: "NoSchedule".into(), ..Taint::default() };
        (!tolerates(&pod.tolerations, &taint)).then(|| Box::new(Cordon) as Box<dyn Check>)
    }

    fn wakes(&self) -> &'static [Wake] {
        &[Wake::NodeAdded, Wake::NodeTaints]
    }
}

struct Cordon;

impl Check for Cordon {
    fn filter(&self, node: &NodeInfo) -> Vec<Rejection> {
        match node.unschedulable {
            true => vec![Rejection::lasting("node(s) were unschedulable")],
            false => Vec::new(),
        }
    }
}
