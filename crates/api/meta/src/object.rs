//! One object as of one revision: the encoding that the store, the caches, lists and watch events share.
//!
//! The revision is not known before commit, so the bytes hold no `resourceVersion`; it is spliced in at a recorded
//! offset when the object is shown. Decoded forms are made on demand and held weakly. Labels and owners are taken out
//! once, when the object arrives, because selectors and indexes ask for nothing else.

use std::any::Any;
use std::fmt::Write;
use std::sync::{Arc, OnceLock, Weak};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::Value;

/// An encoded object and what of it is read often.
pub struct Object {
    /// JSON, `metadata` a map, `metadata.resourceVersion` absent.
    pub bytes: Bytes,
    /// Where `"resourceVersion":"…",` belongs: the offset just behind the `{` of `metadata`.
    pub splice: usize,
    /// The revision of the write that made this version.
    pub revision: u64,
    pub meta: Projection,
    decoded: Mutex<Option<Weak<dyn Any + Send + Sync>>>,
    /// What many readers of its kind look at, taken out when the first one does.
    kept: OnceLock<Arc<dyn Any + Send + Sync>>,
    /// What field selectors ask for, taken out when the first one does.
    selectable: OnceLock<Selectable>,
}

/// Fields by name, in the version that the bytes are of.
pub type Selectable = Box<[(&'static str, String)]>;

/// The fields of `metadata` that selectors, indexes and owner graphs read.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Projection {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub generation: i64,
    #[serde(deserialize_with = "null_is_empty")]
    pub labels: Arc<[(String, String)]>,
    #[serde(deserialize_with = "shared")]
    pub owner_references: Arc<[Owner]>,
    pub finalizers: Vec<String>,
    /// RFC 3339, empty while nobody asked for deletion.
    pub deletion_timestamp: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Owner {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    pub controller: bool,
    pub block_owner_deletion: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    #[error("decoding object")]
    Decode(#[from] serde_json::Error),
    #[error("object has no metadata map")]
    NoMetadata,
}

impl Object {
    /// Takes JSON as the server's writer makes it (`metadata` present, without a resource version). Where kind, version
    /// and metadata come first, as that writer has them, nothing behind the metadata is looked at.
    pub fn new(bytes: Bytes, revision: u64) -> Result<Object, ObjectError> {
        let start = match leading_metadata(&bytes) {
            Some(start) => start,
            None => metadata_start(&bytes)?,
        };
        let mut reader = serde_json::Deserializer::from_slice(&bytes[start..]);
        let meta = Projection::deserialize(&mut reader)?;
        Ok(Object::of(bytes, start, meta, revision))
    }

    /// As `new`, for a writer that still holds the tree which it made the JSON of.
    pub fn written(bytes: Bytes, tree: &Value, revision: u64) -> Result<Object, ObjectError> {
        let start = match leading_metadata(&bytes) {
            Some(start) => start,
            None => metadata_start(&bytes)?,
        };
        Ok(Object::of(bytes, start, Projection::of(tree.get("metadata")), revision))
    }

    fn of(bytes: Bytes, start: usize, meta: Projection, revision: u64) -> Object {
        let (decoded, kept, selectable) = (Mutex::new(None), OnceLock::new(), OnceLock::new());
        Object { bytes, splice: start + 1, revision, meta, decoded, kept, selectable }
    }

    /// The fields that selectors ask for, as the kind's rules `make` them, once for all who select.
    pub fn selectable(&self, make: impl FnOnce() -> Selectable) -> &Selectable {
        self.selectable.get_or_init(make)
    }

    /// A compact part of the object that many readers look at, made once and held as long as the object is: keep it
    /// small. A kind has one such part; a second type asked of the same object is made for each who asks.
    pub fn kept<T: Any + Send + Sync>(&self, make: impl Fn(&Object) -> T) -> Arc<T> {
        let kept = self.kept.get_or_init(|| Arc::new(make(self)));
        kept.clone().downcast().unwrap_or_else(|_| Arc::new(make(self)))
    }

    /// The same object under another revision: what a deletion tells, for one.
    pub fn at(&self, revision: u64) -> Object {
        Object {
            bytes: self.bytes.clone(),
            splice: self.splice,
            revision,
            meta: self.meta.clone(),
            decoded: Mutex::new(None),
            kept: self.kept.clone(),
            selectable: self.selectable.clone(),
        }
    }

    /// The whole JSON with its resource version.
    pub fn json(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.bytes.len() + 48);
        self.write_json(&mut out);
        out.freeze()
    }

    /// Appends the whole JSON with its resource version; an object that was never written has none.
    pub fn write_json(&self, out: &mut BytesMut) {
        self.write_part(out, 0, self.bytes.len());
    }

    /// Appends `metadata` as JSON with its resource version, nothing beside it being read.
    pub fn write_metadata_json(&self, out: &mut BytesMut) -> Result<(), ObjectError> {
        let start = self.splice - 1;
        let mut reader =
            serde_json::Deserializer::from_slice(&self.bytes[start..]).into_iter::<serde::de::IgnoredAny>();
        reader.next().ok_or(ObjectError::NoMetadata)??;
        self.write_part(out, start, start + reader.byte_offset());
        Ok(())
    }

    /// A part that holds the start of the metadata, with the resource version in it where there is one.
    fn write_part(&self, out: &mut BytesMut, start: usize, end: usize) {
        if self.revision == 0 {
            return out.put_slice(&self.bytes[start..end]);
        }
        out.put_slice(&self.bytes[start..self.splice]);
        out.put_slice(b"\"resourceVersion\":\"");
        write!(out, "{}", self.revision).expect("a buffer grows as it must");
        out.put_slice(if self.bytes[self.splice] == b'}' { b"\"" } else { b"\"," });
        out.put_slice(&self.bytes[self.splice..end]);
    }

    /// As [`Object::write_json`] without what the object calls itself: items of a list are of the list's kind. `named`
    /// is how that stands at the start, behind the brace.
    pub fn write_item_json(&self, out: &mut BytesMut, named: &[u8]) {
        match self.bytes.get(1..).is_some_and(|rest| rest.starts_with(named)) && self.revision > 0 {
            true => {
                out.put_u8(b'{');
                self.write_part(out, 1 + named.len(), self.bytes.len());
            }
            false => self.write_json(out),
        }
    }

    /// The object as a type, shared by all who hold it at the same time. Of two types in turn the last is kept.
    pub fn decode<T: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<Arc<T>, ObjectError> {
        if let Some(shared) = self.decoded.lock().as_ref().and_then(Weak::upgrade)
            && let Ok(shared) = shared.downcast::<T>()
        {
            return Ok(shared);
        }
        let made: Arc<T> = Arc::new(typed(&self.json())?);
        let erased: Arc<dyn Any + Send + Sync> = made.clone();
        *self.decoded.lock() = Some(Arc::downgrade(&erased));
        Ok(made)
    }
}

/// Reads as Go does: `null` is the zero of a value, also where a type insists on one, as on a condition's time.
fn typed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(bytes).or_else(|error| {
        let mut tree: serde_json::Value = serde_json::from_slice(bytes)?;
        replace_nulls(&mut tree);
        serde_json::from_value(tree).map_err(|_| error)
    })
}

fn replace_nulls(tree: &mut serde_json::Value) {
    /// The one time that types insist on, and Go's zero.
    const TIME: (&str, &str) = ("lastTransitionTime", "0001-01-01T00:00:00Z");
    match tree {
        serde_json::Value::Object(entries) => {
            if let Some(time) = entries.get_mut(TIME.0).filter(|time| time.is_null()) {
                *time = TIME.1.into();
            }
            entries.retain(|_, value| !value.is_null());
            entries.values_mut().for_each(replace_nulls);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(replace_nulls),
        _ => {}
    }
}

impl Projection {
    /// Of the tree of `metadata`.
    pub fn of(meta: &Value) -> Projection {
        let text = |key: &str| meta.str_at(&[key]).to_owned();
        let labels = meta.entries_at(&["labels"]);
        let finalizers = meta.list_at(&["finalizers"]).iter().filter_map(Value::as_str);
        Projection {
            name: text("name"),
            namespace: text("namespace"),
            uid: text("uid"),
            generation: meta.int_at(&["generation"]).unwrap_or_default(),
            labels: labels
                .map(|(key, value)| (key.to_owned(), value.as_str().unwrap_or_default().to_owned()))
                .collect(),
            owner_references: meta.list_at(&["ownerReferences"]).iter().map(Owner::of).collect(),
            finalizers: finalizers.map(str::to_owned).collect(),
            deletion_timestamp: text("deletionTimestamp"),
        }
    }

    /// Holds what both say in common only once. Siblings, what one owner made, mostly have labels and owners in common.
    pub fn share(&mut self, sibling: &Projection) {
        if self.labels == sibling.labels {
            self.labels = sibling.labels.clone();
        }
        if self.owner_references == sibling.owner_references {
            self.owner_references = sibling.owner_references.clone();
        }
    }

    /// Whether names, owners and what deletion waits for are the same; labels are not looked at.
    pub fn belongs_alike(&self, other: &Projection) -> bool {
        self.uid == other.uid
            && self.owner_references == other.owner_references
            && self.finalizers == other.finalizers
            && self.deletion_timestamp == other.deletion_timestamp
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub fn controller(&self) -> Option<&Owner> {
        self.owner_references.iter().find(|owner| owner.controller)
    }

    pub fn is_deleting(&self) -> bool {
        !self.deletion_timestamp.is_empty()
    }
}

impl Owner {
    fn of(owner: &Value) -> Owner {
        let text = |key: &str| owner.str_at(&[key]).to_owned();
        Owner {
            api_version: text("apiVersion"),
            kind: text("kind"),
            name: text("name"),
            uid: text("uid"),
            controller: owner.bool_at(&["controller"]),
            block_owner_deletion: owner.bool_at(&["blockOwnerDeletion"]),
        }
    }
}

/// Where the map of `metadata` begins in `{"kind":"…","apiVersion":"…","metadata":{`; `None` for any other beginning.
fn leading_metadata(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    for key in [b"{\"kind\":\"".as_slice(), b",\"apiVersion\":\""] {
        rest = rest.strip_prefix(key)?;
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        rest = rest[end..].strip_prefix(b"\"")?;
    }
    rest = rest.strip_prefix(b",\"metadata\":")?;
    rest.starts_with(b"{").then(|| bytes.len() - rest.len())
}

/// The same, wherever `metadata` stands.
fn metadata_start(bytes: &[u8]) -> Result<usize, ObjectError> {
    #[derive(Deserialize)]
    struct Outer<'a> {
        #[serde(borrow)]
        metadata: &'a serde_json::value::RawValue,
    }
    let outer: Outer<'_> = serde_json::from_slice(bytes)?;
    let raw = outer.metadata.get();
    match raw.starts_with('{') {
        true => Ok(raw.as_ptr() as usize - bytes.as_ptr() as usize),
        false => Err(ObjectError::NoMetadata),
    }
}

impl std::fmt::Debug for Object {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}@{}", self.meta.namespace, self.meta.name, self.revision)
    }
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Arc<[(String, String)]>, D::Error> {
    let map = Option::<crate::Map>::deserialize(deserializer)?.unwrap_or_default();
    Ok(map.iter().map(|(key, value)| (key.to_owned(), value.as_str().unwrap_or_default().to_owned())).collect())
}

fn shared<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Arc<[Owner]>, D::Error> {
    Vec::deserialize(deserializer).map(Arc::from)
}

impl<'de> Deserialize<'de> for crate::Map {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<crate::Map, D::Error> {
        match crate::Value::deserialize(deserializer)? {
            crate::Value::Map(map) => Ok(map),
            _ => Err(serde::de::Error::custom("expected a map")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resource_version_is_spliced_in() {
        let text = br#"{"kind":"Pod","metadata":{"name":"a","labels":{"k":"v"}}}"#;
        let object = Object::new(Bytes::from_static(text), 7).unwrap();
        assert_eq!(object.meta.label("k"), Some("v"));
        assert_eq!(object.json(), r#"{"kind":"Pod","metadata":{"resourceVersion":"7","name":"a","labels":{"k":"v"}}}"#);
    }

    #[test]
    fn what_is_kept_is_made_once() {
        let object = Object::new(Bytes::from_static(br#"{"metadata":{"name":"a"}}"#), 7).unwrap();
        let (first, second) = (object.kept(|object| object.meta.name.clone()), object.kept(|_| String::new()));
        assert_eq!((first.as_str(), second.as_str()), ("a", "a"));
        assert_eq!(*object.at(8).kept(|object| object.revision), 8);
    }

    #[test]
    fn siblings_hold_once_what_they_have_in_common() {
        let pod = |name: &str, label: &str| {
            let text = format!(
                r#"{{"metadata":{{"name":"{name}","labels":{{"k":"{label}"}},"ownerReferences":[{{"uid":"o"}}]}}}}"#
            );
            Object::new(text.into(), 7).unwrap().meta
        };
        let (first, mut second, mut third) = (pod("a", "v"), pod("b", "v"), pod("c", "w"));
        second.share(&first);
        third.share(&first);
        assert!(Arc::ptr_eq(&first.labels, &second.labels) && second.name == "b");
        assert_eq!(third.label("k"), Some("w"));
        assert!(Arc::ptr_eq(&first.owner_references, &third.owner_references));
    }

    #[test]
    fn a_null_is_read_as_zero_where_a_type_insists_on_a_value() {
        #[derive(serde::Deserialize)]
        struct Timed {
            #[serde(rename = "lastTransitionTime")]
            time: String,
            #[serde(default)]
            reason: String,
            metadata: std::collections::BTreeMap<String, String>,
        }
        let text = br#"{"kind":"T","metadata":{"name":"a"},"lastTransitionTime":null,"reason":null}"#;
        let timed = Object::new(Bytes::from_static(text), 7).unwrap().decode::<Timed>().unwrap();
        let read = (timed.time.as_str(), timed.reason.as_str(), timed.metadata["name"].as_str());
        assert_eq!(read, ("0001-01-01T00:00:00Z", "", "a"));
        let wrong = br#"{"kind":"T","metadata":{"name":"a"},"lastTransitionTime":1}"#;
        assert!(Object::new(Bytes::from_static(wrong), 7).unwrap().decode::<Timed>().is_err());
    }

    #[test]
    fn an_item_of_a_list_does_not_say_its_kind() {
        let text = br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}"#;
        let object = Object::new(Bytes::from_static(text), 7).unwrap();
        let mut out = BytesMut::new();
        object.write_item_json(&mut out, br#""kind":"Pod","apiVersion":"v1","#);
        assert_eq!(out, r#"{"metadata":{"resourceVersion":"7","name":"a"}}"#);
    }

    #[test]
    fn a_tree_and_its_text_project_alike() {
        let text = br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","namespace":"b","uid":"u","generation":3,
            "labels":{"k":"v"},"finalizers":["f"],"deletionTimestamp":"2026-01-01T00:00:00Z","managedFields":[{}],
            "ownerReferences":[{"apiVersion":"v1","kind":"K","name":"o","uid":"x","controller":true}]},"spec":{}}"#;
        let bytes = Bytes::from_static(text);
        let (read, tree) = (Object::new(bytes.clone(), 7).unwrap(), Value::from_json(text).unwrap());
        let written = Object::written(bytes, &tree, 7).unwrap();
        assert_eq!((&written.meta, written.splice), (&read.meta, read.splice));
        assert!(read.meta.controller().is_some());
    }

    #[test]
    fn metadata_is_found_wherever_it_stands() {
        for text in [
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"},"x":1}"#,
            r#"{"kind":"P\"d","apiVersion":"v1","metadata":{"name":"a"}}"#,
            r#"{"x":{"metadata":{}},"metadata": {"name":"a"}}"#,
        ] {
            let object = Object::new(Bytes::from_static(text.as_bytes()), 7).unwrap();
            assert_eq!(object.meta.name, "a", "{text}");
            let shown = Value::from_json(&object.json()).unwrap();
            assert_eq!(shown.str_at(&["metadata", "resourceVersion"]), "7", "{text}");
        }
        let none = Bytes::from_static(br#"{"kind":"Pod","apiVersion":"v1","metadata":null}"#);
        assert!(Object::new(none, 7).is_err());
    }

    #[test]
    fn metadata_is_shown_alone() {
        for (text, wanted) in [
            (
                r#"{"kind":"P","apiVersion":"v1","metadata":{"name":"a"},"x":1}"#,
                r#"{"resourceVersion":"7","name":"a"}"#,
            ),
            (r#"{"x":{},"metadata": {}}"#, r#"{"resourceVersion":"7"}"#),
        ] {
            let mut out = BytesMut::new();
            Object::new(Bytes::from_static(text.as_bytes()), 7).unwrap().write_metadata_json(&mut out).unwrap();
            assert_eq!(out, wanted);
        }
    }

    #[test]
    fn metadata_may_be_empty() {
        let object = Object::new(Bytes::from_static(br#"{"metadata":{}}"#), 7).unwrap();
        assert_eq!(object.json(), r#"{"metadata":{"resourceVersion":"7"}}"#);
    }
}
