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
