//! Encodings made once and shown to many: frames for all watchers of the same form, messages for all readers of the same
//! version. They are kept beside what they were made of, under a bound, the oldest dropped first.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use coracle_meta::{Object, Status};
use parking_lot::Mutex;

use super::output::Output;
use crate::call::Served;

const BYTES_MAX: usize = 4 << 20;

/// What was made of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// The message alone, as lists hold it.
    Message,
    /// A watch frame of this event, a table's with its columns or without.
    Frame { word: &'static str, output: Output, with_columns: bool },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    /// Where the object's bytes lie: they are held as long as the entry, so that no others can lie there.
    source: usize,
    revision: u64,
    group: &'static str,
    version: &'static str,
    shape: Shape,
}

#[derive(Default)]
pub struct Kept {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    entries: HashMap<Key, Entry>,
    order: VecDeque<Key>,
    bytes: usize,
}

struct Entry {
    source: Bytes,
    encoded: Bytes,
}

impl Kept {
    /// The encoding of this shape, made now if nobody asked before.
    pub fn get(
        &self,
        served: Served,
        object: &Object,
        shape: Shape,
        make: impl FnOnce() -> Result<Bytes, Status>,
    ) -> Result<Bytes, Status> {
        let source = object.bytes.as_ptr() as usize;
        let (revision, group, version) = (object.revision, served.kind.group, served.version);
        let key = Key { source, revision, group, version, shape };
        if let Some(entry) = self.inner.lock().entries.get(&key) {
            return Ok(entry.encoded.clone());
        }
        let encoded = make()?;
        self.inner.lock().put(key, Entry { source: object.bytes.clone(), encoded: encoded.clone() });
        Ok(encoded)
    }
}

impl Inner {
    fn put(&mut self, key: Key, entry: Entry) {
        self.bytes += entry.weight();
        match self.entries.insert(key, entry) {
            Some(old) => self.bytes -= old.weight(),
            None => self.order.push_back(key),
        }
        while self.bytes > BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { return };
            self.bytes -= self.entries.remove(&oldest).map_or(0, |entry| entry.weight());
        }
    }
}

impl Entry {
    fn weight(&self) -> usize {
        self.encoded.len() + self.source.len() + 256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoding_is_made_once_and_the_oldest_goes_first() {
        let served = Served::stored("", "configmaps").unwrap();
        let object = |revision| {
            let bytes = Bytes::from(format!(r#"{{"metadata":{{"name":"{}"}}}}"#, "x".repeat(1 << 10)));
            Object::new(bytes, revision).unwrap()
        };
        let kept = Kept::default();
        let first = object(1);
        let made = Ok(Bytes::from_static(b"one"));
        assert_eq!(kept.get(served, &first, Shape::Message, || made).unwrap(), "one");
        assert_eq!(kept.get(served, &first, Shape::Message, || panic!("made twice")).unwrap(), "one");
        for revision in 2..10_000 {
            kept.get(served, &object(revision), Shape::Message, || Ok(Bytes::from_static(b"other"))).unwrap();
        }
        assert!(kept.inner.lock().bytes <= BYTES_MAX);
        assert_eq!(kept.get(served, &first, Shape::Message, || Ok(Bytes::from_static(b"two"))).unwrap(), "two");
    }
}
