//! The words of a FailedScheduling event, as clients and people match on them: reasons counted over nodes, sorted.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// How often each reason was given.
#[derive(Debug, Default)]
pub struct Reasons<'a>(BTreeMap<Cow<'a, str>, usize>);

impl<'a> Reasons<'a> {
    pub fn count(&mut self, reason: impl Into<Cow<'a, str>>, nodes: usize) {
        if nodes > 0 {
            *self.0.entry(reason.into()).or_default() += nodes;
        }
    }

    /// `0/5 nodes are available: 2 Insufficient cpu, 3 node(s) were unschedulable.`
    pub fn over(&self, nodes: usize) -> String {
        let mut parts: Vec<_> = self.0.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        parts.sort();
        match parts.is_empty() {
            true => format!("0/{nodes} nodes are available:"),
            false => format!("0/{nodes} nodes are available: {}.", parts.join(", ")),
        }
    }
}

/// Where one reason stands for all nodes.
pub fn for_all(nodes: usize, reason: &str) -> String {
    format!("0/{nodes} nodes are available: {reason}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_and_sorted_as_text() {
        let mut reasons = Reasons::default();
        reasons.count("node(s) had untolerated taint(s)", 10);
        reasons.count("Too many pods", 1);
        reasons.count("Insufficient cpu", 2);
        reasons.count("Insufficient cpu", 0);
        assert_eq!(
            reasons.over(12),
            "0/12 nodes are available: 1 Too many pods, 10 node(s) had untolerated taint(s), 2 Insufficient cpu."
        );
    }
}
