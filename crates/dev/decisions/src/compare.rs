//! In what two decisions about one pod differ.

use std::fmt;

use crate::decision::Decision;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Feasible,
    /// Another node is better, or as good.
    Order,
    /// The same order from other numbers.
    Score,
    /// Not one of the best nodes was taken.
    Choice,
    Message,
    Preemption,
    /// A scheduler that followed all cases decides otherwise than one that sees only this.
    Memory,
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Kind::Feasible => "the feasible nodes",
            Kind::Order => "the order of scores",
            Kind::Score => "scores, in the same order",
            Kind::Choice => "the choice among the scored",
            Kind::Message => "the message",
            Kind::Preemption => "who makes room",
            Kind::Memory => "what is kept from case to case",
        })
    }
}

#[derive(Debug)]
pub struct Difference {
    pub kind: Kind,
    ours: String,
    theirs: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} differ\n    ours:   {}\n    theirs: {}", self.kind, self.ours, self.theirs)
    }
}

fn between(kind: Kind, ours: impl fmt::Debug, theirs: impl fmt::Debug) -> Difference {
    Difference { kind, ours: format!("{ours:?}"), theirs: format!("{theirs:?}") }
}

pub fn differences(ours: &Decision, theirs: &Decision) -> Vec<Difference> {
    if ours.feasible != theirs.feasible {
        return vec![between(Kind::Feasible, &ours.feasible, &theirs.feasible)];
    }
    if theirs.feasible.is_empty() {
        return refusals(ours, theirs);
    }
    let mut found = Vec::new();
    if ours.ranks() != theirs.ranks() {
        found.push(between(Kind::Order, &ours.totals, &theirs.totals));
    } else if ours.totals != theirs.totals {
        found.push(between(Kind::Score, &ours.totals, &theirs.totals));
    }
    for (decision, whose) in [(ours, "ours"), (theirs, "theirs")] {
        let node = decision.bound.as_deref().unwrap_or_default();
        let best = decision.ranks().first().is_none_or(|best| best.contains(node));
        if !best || !decision.feasible.contains(node) {
            found.push(Difference { kind: Kind::Choice, ours: whose.into(), theirs: format!("{decision}") });
        }
    }
    found
}

fn refusals(ours: &Decision, theirs: &Decision) -> Vec<Difference> {
    let mut found = Vec::new();
    if ours.message != theirs.message {
        found.push(between(Kind::Message, &ours.message, &theirs.message));
    }
    if (&ours.nominated, &ours.victims) != (&theirs.nominated, &theirs.victims) {
        found.push(between(Kind::Preemption, (&ours.nominated, &ours.victims), (&theirs.nominated, &theirs.victims)));
    }
    found
}

/// Whether a scheduler that followed all changes decided as one that was made for the case. Both may take any of the
/// best nodes.
pub fn from_fresh(fresh: &Decision, followed: &Decision) -> Option<Difference> {
    let plain = |decision: &Decision| Decision { bound: None, ..decision.clone() };
    let best =
        fresh.ranks().first().is_none_or(|best| followed.bound.as_deref().is_some_and(|node| best.contains(node)));
    let same = plain(fresh) == plain(followed) && best;
    (!same).then(|| between(Kind::Memory, fresh, followed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(totals: &[(&str, i64)], bound: &str) -> Decision {
        Decision {
            feasible: totals.iter().map(|(node, _)| node.to_string()).collect(),
            totals: totals.iter().map(|(node, total)| (node.to_string(), *total)).collect(),
            bound: Some(bound.into()),
            ..Decision::default()
        }
    }

    #[test]
    fn differences_are_told_apart() {
        let one = scored(&[("a", 5), ("b", 3)], "a");
        let kinds =
            |other: &Decision| -> Vec<Kind> { differences(&one, other).iter().map(|found| found.kind).collect() };
        assert_eq!(kinds(&one), []);
        assert_eq!(kinds(&scored(&[("a", 9), ("b", 3)], "a")), [Kind::Score]);
        assert_eq!(kinds(&scored(&[("a", 3), ("b", 3)], "b")), [Kind::Order]);
        assert_eq!(kinds(&scored(&[("a", 5), ("b", 3)], "b")), [Kind::Choice]);
        assert_eq!(kinds(&scored(&[("a", 5)], "a")), [Kind::Feasible]);
    }

    #[test]
    fn refusals_differ_in_words_and_in_victims() {
        let one = Decision { message: "no".into(), ..Decision::default() };
        let other = Decision { message: "never".into(), nominated: Some("a".into()), ..Decision::default() };
        let kinds: Vec<Kind> = differences(&one, &other).iter().map(|found| found.kind).collect();
        assert_eq!(kinds, [Kind::Message, Kind::Preemption]);
    }
}
