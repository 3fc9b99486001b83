//! What a scheduler decided about the pod of a case.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub feasible: BTreeSet<String>,
    /// The weighted sum of all scores; empty where there was no choice.
    pub totals: BTreeMap<String, i64>,
    /// Weighted scores by node and plugin, where they are told.
    pub scores: BTreeMap<String, BTreeMap<String, i64>>,
    pub bound: Option<String>,
    /// Why not, where it is not bound.
    pub message: String,
    /// Where room is made.
    pub nominated: Option<String>,
    pub victims: BTreeSet<String>,
}

impl Decision {
    /// Nodes from the best to the worst, those of equal score together.
    pub fn ranks(&self) -> Vec<BTreeSet<&str>> {
        let mut ranks = BTreeMap::<i64, BTreeSet<&str>>::new();
        for (node, total) in &self.totals {
            ranks.entry(*total).or_default().insert(node);
        }
        ranks.into_values().rev().collect()
    }
}

impl Decision {
    /// What the message says against nodes, without how many they are and without details of this case.
    pub fn reasons(&self) -> BTreeSet<String> {
        let Some((_, said)) = self.message.split_once(": ") else { return BTreeSet::new() };
        let of_nodes = said.split(". ").next().unwrap_or_default().trim_end_matches('.');
        let reasons =
            of_nodes.split(", ").map(|reason| reason.trim_start_matches(|of: char| of.is_ascii_digit()).trim());
        reasons
            .map(|reason| reason.split(['{', '[', '"', ':']).next().unwrap_or_default().trim_end().to_owned())
            .collect()
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "feasible {:?}, bound to {:?}", self.feasible, self.bound)?;
        for (node, total) in &self.totals {
            let scores = self.scores.get(node).into_iter().flatten();
            let scores: Vec<_> = scores.map(|(plugin, score)| format!("{plugin} {score}")).collect();
            writeln!(out, "  {node}: {total} {}", scores.join(", "))?;
        }
        write!(out, "  {:?}, nominated to {:?}, victims {:?}", self.message, self.nominated, self.victims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_told_apart_from_numbers_and_details() {
        let message = "0/5 nodes are available: 2 Insufficient cpu, 1 node(s) had untolerated taint(s) {k1: v1}, 2 node(s) \
                       didn't satisfy plugin(s) [NodeAffinity]. preemption: 0/5 nodes are available: 5 No.";
        let decision = Decision { message: message.into(), ..Decision::default() };
        let reasons: Vec<String> = decision.reasons().into_iter().collect();
        assert_eq!(
            reasons,
            ["Insufficient cpu", "node(s) didn't satisfy plugin(s)", "node(s) had untolerated taint(s)"]
        );
    }
}
