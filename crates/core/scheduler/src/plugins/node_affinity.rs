//! Pods choose nodes by label: nodeSelector and required affinity by rule, preferred affinity by score. A profile may
//! add an affinity of its own.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use serde::Deserialize;
use serde_json::Value;

use crate::framework::{Change, Filter, Kind, Plugin, Point, PreFilter, Score, Status, scale};
use crate::node::{NodeFacts, NodeInfo};
use crate::pod::{PodInfo, Shape};
use crate::select::{NodeSelector, NodeTerm, label};
use crate::snapshot::Snapshot;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Args {
    added_affinity: Option<api::NodeAffinity>,
}

#[derive(Clone)]
pub struct NodeAffinity {
    added: Option<Arc<NodeSelector>>,
    added_preferred: Arc<Vec<(i64, NodeTerm)>>,
}

impl NodeAffinity {
    pub fn make(args: Option<&Value>) -> Result<Arc<dyn Plugin>, String> {
        let added = super::read::<Args>(args)?.added_affinity.unwrap_or_default();
        let preferred = added.preferred_during_scheduling_ignored_during_execution.into_iter().flatten();
        Ok(Arc::new(NodeAffinity {
            added: added
                .required_during_scheduling_ignored_during_execution
                .map(|selector| Arc::new(NodeSelector::new(&selector))),
            added_preferred: Arc::new(
                preferred.map(|term| (i64::from(term.weight), NodeTerm::new(&term.preference))).collect(),
            ),
        }))
    }

    fn admits(&self, node: &NodeFacts) -> bool {
        self.added.as_ref().is_none_or(|selector| selector.matches(&node.name, &node.labels))
    }
}

/// Whether the pod's nodeSelector and required node affinity admit the node.
pub fn matches_node(shape: &Shape, node: &NodeFacts) -> bool {
    shape.node_selector.iter().all(|(key, value)| label(&node.labels, key) == Some(value))
        && shape.node_affinity.as_ref().is_none_or(|selector| selector.matches(&node.name, &node.labels))
}

/// The nodes that the affinity names; `None` where some alternative names none.
fn named(selector: &NodeSelector) -> Option<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for term in &selector.0 {
        let mut names: Option<BTreeSet<String>> = None;
        for field in term.fields.iter().filter(|field| field.key == "metadata.name" && field.operator == "In") {
            let values: BTreeSet<String> = field.values.iter().cloned().collect();
            names = Some(names.map_or(values.clone(), |names| &names & &values));
        }
        all.extend(names?);
    }
    (!selector.0.is_empty()).then_some(all)
}

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PreScore, Point::Score]
    }

    fn pre_filter(&self, pod: &PodInfo, _cluster: &Snapshot) -> PreFilter {
        if pod.node_selector.is_empty() && pod.node_affinity.is_none() && self.added.is_none() {
            return PreFilter::Skip;
        }
        let check = Box::new(Chosen { shape: pod.shape.clone(), plugin: self.clone() });
        match pod.node_affinity.as_ref().and_then(named) {
            None => PreFilter::Check(check),
            Some(names) if names.is_empty() => PreFilter::Reject(Status::lasting("pod affinity terms conflict")),
            Some(names) => PreFilter::Among(names, check),
        }
    }

    fn pre_score(&self, pod: &PodInfo, _cluster: &Snapshot) -> Option<Box<dyn Score>> {
        let prefers = !pod.preferred_nodes.is_empty() || !self.added_preferred.is_empty();
        prefers.then(|| Box::new(Chosen { shape: pod.shape.clone(), plugin: self.clone() }) as Box<dyn Score>)
    }

    fn wakes(&self) -> &'static [Kind] {
        &[Kind::NodeAdded, Kind::NodeUpdated]
    }

    fn hint(&self, pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::NodeAdded(node) => self.admits(node) && matches_node(pod, node),
            Change::NodeUpdated { old, new } => {
                old.labels != new.labels && self.admits(new) && matches_node(pod, new) && !matches_node(pod, old)
            }
            _ => false,
        }
    }
}

struct Chosen {
    shape: Arc<Shape>,
    plugin: NodeAffinity,
}

impl Filter for Chosen {
    fn filter(&self, _at: usize, node: &NodeInfo) -> Option<Status> {
        if !self.plugin.admits(node) {
            return Some(Status::lasting("node(s) didn't match scheduler-enforced node affinity"));
        }
        (!matches_node(&self.shape, node)).then(|| Status::lasting("node(s) didn't match Pod's node affinity/selector"))
    }
}

impl Score for Chosen {
    fn score(&self, _at: usize, node: &NodeInfo) -> i64 {
        let terms = self.plugin.added_preferred.iter().chain(&self.shape.preferred_nodes);
        terms.filter(|(_, term)| term.matches(&node.name, &node.labels)).map(|(weight, _)| weight).sum()
    }

    fn is_final(&self) -> bool {
        false
    }

    fn normalise(&self, scores: &mut [i64]) {
        scale(scores, false);
    }
}
