//! Reading the index: ranges as of a revision, and the changes between two.

use std::ops::Bound;

use bytes::Bytes;

use crate::Revision;
use crate::index::{Displaced, Index, Version};

/// Keys in `[start, end)` as etcd words it: an empty end is the single key `start`, `\0` is no end.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    pub start: &'a [u8],
    pub end: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutOfRange {
    #[error("revision {asked} has been compacted, the oldest kept is {oldest}")]
    Compacted { asked: Revision, oldest: Revision },
    #[error("revision {asked} is in the future, the newest is {newest}")]
    Future { asked: Revision, newest: Revision },
}

impl<'a> Span<'a> {
    pub fn contains(&self, key: &[u8]) -> bool {
        match self.end {
            b"" => key == self.start,
            b"\0" => key >= self.start,
            end => key >= self.start && key < end,
        }
    }

    fn bounds(&self) -> Option<(Bound<&'a [u8]>, Bound<&'a [u8]>)> {
        let end = match self.end {
            b"" => Bound::Included(self.start),
            b"\0" => Bound::Unbounded,
            end if end <= self.start => return None,
            end => Bound::Excluded(end),
        };
        Some((Bound::Included(self.start), end))
    }
}

impl<V: Clone> Index<V> {
    /// The keys that existed at `revision` and what they were, in order.
    pub fn range<'i>(
        &'i self,
        span: Span<'i>,
        revision: Revision,
    ) -> Result<impl Iterator<Item = (&'i Bytes, &'i Version<V>)>, OutOfRange> {
        self.reachable(revision)?;
        let keys = span.bounds().map(|bounds| self.keys.range::<[u8], _>(bounds));
        Ok(keys.into_iter().flatten().filter_map(move |(key, versions)| Some((key, at(versions, revision)?))))
    }

    /// What happened to keys of the span from revision `from` up to `to`, in order.
    pub fn changes(&self, span: Span<'_>, from: Revision, to: Revision) -> Result<Vec<Displaced<V>>, OutOfRange> {
        if from <= self.compacted() && from <= to && self.compacted() > 0 {
            return Err(OutOfRange::Compacted { asked: from, oldest: self.compacted() });
        }
        let keys = span.bounds().map(|bounds| self.keys.range::<[u8], _>(bounds));
        let mut found = Vec::new();
        for (key, versions) in keys.into_iter().flatten() {
            let first = versions.partition_point(|version| version.mod_revision < from);
            for place in first..versions.partition_point(|version| version.mod_revision <= to) {
                let before = place.checked_sub(1).map(|before| &versions[before]);
                let previous = before.filter(|version| version.value.is_some()).cloned();
                found.push(Displaced { key: key.clone(), current: versions[place].clone(), previous });
            }
        }
        found.sort_by_key(|change| change.current.mod_revision);
        Ok(found)
    }

    fn reachable(&self, revision: Revision) -> Result<(), OutOfRange> {
        if revision < self.compacted() {
            return Err(OutOfRange::Compacted { asked: revision, oldest: self.compacted() });
        }
        if revision > self.revision() {
            return Err(OutOfRange::Future { asked: revision, newest: self.revision() });
        }
        Ok(())
    }
}

fn at<V>(versions: &[Version<V>], revision: Revision) -> Option<&Version<V>> {
    let place = versions.partition_point(|version| version.mod_revision <= revision).checked_sub(1)?;
    versions.get(place).filter(|version| version.value.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Change;

    #[test]
    fn changes_come_in_order_with_what_they_displaced() {
        let mut index = Index::default();
        let put =
            |key: &'static str, value| Change::Put { key: Bytes::from_static(key.as_bytes()), value, expires_at: 0 };
        index.apply([put("b", 1)]);
        index.apply([put("a", 2)]);
        index.apply([Change::Delete { key: Bytes::from_static(b"b") }]);
        let told: Vec<_> = index.changes(Span { start: b"a", end: b"c" }, 2, 3).unwrap();
        let told: Vec<_> = told
            .into_iter()
            .map(|change| (change.key, change.current.value, change.previous.map(|p| p.value)))
            .collect();
        assert_eq!(told, [("a".into(), Some(2), None), ("b".into(), None, Some(Some(1)))]);
        index.compact(2);
        let span = Span { start: b"a", end: b"c" };
        assert_eq!(index.changes(span, 2, 3), Err(OutOfRange::Compacted { asked: 2, oldest: 2 }));
    }
}
