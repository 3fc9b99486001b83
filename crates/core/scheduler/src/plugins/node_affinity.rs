//! Pods choose nodes by label: nodeSelector and required affinity by rule, preferred affinity by score.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PreferredSchedulingTerm};

use crate::framework::{Check, Plugin, Rejection, Wake, scale};
use crate::{NodeInfo, PodInfo, Snapshot};

pub struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn prepare<'a>(&self, pod: &'a PodInfo, _snapshot: &'a Snapshot) -> Option<Box<dyn Check + 'a>> {
        let chooses = !pod.node_selector.is_empty() || pod.node_affinity.is_some() || !pod.preferred_nodes.is_empty();
        chooses.then(|| Box::new(Chosen(pod)) as Box<dyn Check>)
    }

    fn wakes(&self) -> &'static [Wake] {
        &[Wake::NodeAdded, Wake::NodeLabels]
    }
}

struct Chosen<'a>(&'a PodInfo);

impl Check for Chosen<'_> {
    fn filter(&self, node: &NodeInfo) -> Vec<Rejection> {
        match matches_node(self.0, node) {
            true => Vec::new(),
            false => vec![Rejection::lasting("node(s) didn't match Pod's node affinity/selector")],
        }
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let liked = |term: &&PreferredSchedulingTerm| term.weight != 0 && term_matches(&term.preference, node);
        self.0.preferred_nodes.iter().filter(liked).map(|term| i64::from(term.weight)).sum()
    }

    fn normalise(&self, scores: &mut [i64]) {
        scale(scores, false);
    }
}

/// Whether the pod's nodeSelector and required node affinity admit the node.
pub fn matches_node(pod: &PodInfo, node: &NodeInfo) -> bool {
    pod.node_selector.iter().all(|(key, value)| node.label(key) == Some(value))
        && pod.node_affinity.as_ref().is_none_or(|selector| selector_matches(selector, node))
}

/// Terms are alternatives; an empty one matches nothing.
fn selector_matches(selector: &NodeSelector, node: &NodeInfo) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

fn term_matches(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    (!labels.is_empty() || !fields.is_empty())
        && labels.iter().all(|requirement| requirement_matches(requirement, node.label(&requirement.key)))
        && fields.iter().all(|requirement| {
            let field = (requirement.key == "metadata.name").then_some(node.name.as_str());
            requirement_matches(requirement, field)
        })
}

fn requirement_matches(requirement: &NodeSelectorRequirement, found: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = found.is_some_and(|found| values.iter().any(|value| value == found));
    let compared = || Some((found?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => compared().is_some_and(|(found, bound)| found > bound),
        "Lt" => compared().is_some_and(|(found, bound)| found < bound),
        _ => false,
    }
}
