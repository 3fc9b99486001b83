//! The words of a FailedScheduling event, as clients and people match on them: reasons counted over nodes, sorted.

use std::collections::BTreeMap;

use crate::framework::Rejection;

const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

/// `0/5 nodes are available: 2 Insufficient cpu, 3 node(s) were unschedulable. preemption: …`
pub fn unschedulable(rejections: &BTreeMap<String, Vec<Rejection>>) -> String {
    let total = rejections.len();
    if total == 0 {
        return "no nodes available to schedule pods".into();
    }
    let reasons = histogram(rejections.values().flatten().map(|rejection| rejection.reason.as_str()));
    // A node counts as lost to preemption as soon as one of its rejections is lasting.
    let helpless = |node: &Vec<Rejection>| !node.iter().all(|rejection| rejection.preemptible);
    let after = rejections.values().map(|node| if helpless(node) { NOT_HELPFUL } else { NO_VICTIMS });
    let preemption = format!("0/{total} nodes are available: {}.", histogram(after));
    format!("0/{total} nodes are available: {reasons}. preemption: {preemption}")
}

fn histogram<'a>(reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut parts: Vec<_> = counts.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_and_sorted_as_text() {
        let rejections = BTreeMap::from([
            ("a".to_owned(), vec![Rejection::lasting("node(s) had untolerated taint(s)")]),
            ("b".to_owned(), vec![Rejection::new("Insufficient cpu"), Rejection::new("Too many pods")]),
        ]);
        assert_eq!(
            unschedulable(&rejections),
            "0/2 nodes are available: 1 Insufficient cpu, 1 Too many pods, 1 node(s) had untolerated taint(s). \
             preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, \
             1 Preemption is not helpful for scheduling."
        );
    }
}
