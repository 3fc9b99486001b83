//! Sets of completion indexes as Job status writes them (`0,1,3-5`), and the index a pod stands for.

use std::collections::BTreeSet;
use std::fmt;

use crate::shape::Item;

pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// Ordered intervals of indexes, both ends included, neighbours merged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Indexes(Vec<(i64, i64)>);

impl Indexes {
    /// Parts that are no numbers are left out, and so is what lies beyond the completions.
    pub fn parse(text: &str, completions: i64) -> Indexes {
        let mut all = Indexes::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<i64>(), last.parse::<i64>()) else { continue };
            if first >= completions {
                break;
            }
            all.append((first, last.min(completions - 1)));
        }
        all
    }

    fn append(&mut self, (first, last): (i64, i64)) {
        match self.0.last_mut() {
            Some(end) if first <= end.1 + 1 => end.1 = end.1.max(last),
            _ => self.0.push((first, last)),
        }
    }

    pub fn with(&self, more: impl IntoIterator<Item = i64>) -> Indexes {
        let more: BTreeSet<i64> = more.into_iter().collect();
        self.union(&Indexes(more.into_iter().map(|index| (index, index)).collect()))
    }

    pub fn union(&self, other: &Indexes) -> Indexes {
        let mut parts: Vec<(i64, i64)> = self.0.iter().chain(&other.0).copied().collect();
        parts.sort_unstable();
        let mut all = Indexes::default();
        parts.into_iter().for_each(|part| all.append(part));
        all
    }

    pub fn total(&self) -> i64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub fn has(&self, index: i64) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&index))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many indexes both hold.
    pub fn overlap(&self, other: &Indexes) -> i64 {
        let common = |a: &(i64, i64), b: &(i64, i64)| (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
        self.0.iter().map(|a| other.0.iter().map(|b| common(a, b)).sum::<i64>()).sum()
    }

    /// The lowest indexes below `completions` that are not in the set.
    pub fn missing(&self, count: usize, completions: i64) -> Vec<i64> {
        let mut missing = Vec::new();
        let mut candidate = 0;
        for (first, last) in self.0.iter().copied().chain([(completions, completions)]) {
            let wanted = count - missing.len();
            missing.extend((candidate..first.min(completions)).take(wanted));
            candidate = candidate.max(last + 1);
        }
        missing
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.iter().map(|(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        });
        formatter.write_str(&parts.collect::<Vec<_>>().join(","))
    }
}

/// The completion index of a pod, where it has a valid one.
pub fn index_of(pod: &Item) -> Option<i64> {
    pod.annotation(INDEX)?.parse().ok().filter(|index| *index >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_merged_and_written_as_status_has_them() {
        let cases = [("", ""), ("0,1,2", "0-2"), ("1,3-5,7", "1,3-5,7"), ("0,1", "0,1"), ("2-20", "2-9"), ("x,3", "3")];
        for (text, expected) in cases {
            assert_eq!(Indexes::parse(text, 10).to_string(), expected, "{text}");
        }
        let some = Indexes::parse("1,3-5", 10);
        assert_eq!(some.with([2, 9]).to_string(), "1-5,9");
        assert_eq!((some.total(), some.has(4), some.has(2)), (4, true, false));
        assert_eq!(some.missing(4, 10), [0, 2, 6, 7]);
        assert_eq!(some.missing(9, 4), [0, 2]);
        assert_eq!(some.overlap(&Indexes::parse("0-3", 10)), 2);
    }
}
