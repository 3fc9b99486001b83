//! One compact tree for any JSON value: ordered maps in vectors, strings of up to 24 bytes in place. What the server
//! reads is kept as this tree while defaults, patches and admission edit it; it knows nothing of schemas.

use std::fmt;

use compact_str::CompactString;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// A JSON value. Integers that fit `i64` stay exact; every other number is a float, as Kubernetes treats them.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    String(CompactString),
    List(Vec<Value>),
    Map(Map),
}

/// An object's members in the order they were written. Look-up is linear: Kubernetes' maps are short.
#[derive(Clone, Debug, Default)]
pub struct Map {
    entries: Vec<(CompactString, Value)>,
}

static NULL: Value = Value::Null;

/// Room for most objects, and for most parts of one, so that writing them seldom moves what is written.
const OBJECT_BYTES_USUAL: usize = 6144;
const PART_BYTES_USUAL: usize = 64;

impl Value {
    pub fn map() -> Value {
        Value::Map(Map::default())
    }

    pub fn string(text: impl AsRef<str>) -> Value {
        Value::String(CompactString::new(text))
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// Null, `""`, `0`, `false`, `[]` or `{}`: what Go's `omitempty` leaves out.
    pub fn is_empty(&self) -> bool {
        match self {
            Value::Null => true,
            Value::Bool(value) => !value,
            Value::Int(value) => *value == 0,
            Value::Float(value) => *value == 0.0,
            Value::String(text) => text.is_empty(),
            Value::List(items) => items.is_empty(),
            Value::Map(map) => map.is_empty(),
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(value) = self { Some(*value) } else { None }
    }

    pub fn as_int(&self) -> Option<i64> {
        if let Value::Int(value) = self { Some(*value) } else { None }
    }

    pub fn as_str(&self) -> Option<&str> {
        if let Value::String(text) = self { Some(text) } else { None }
    }

    pub fn as_list(&self) -> Option<&[Value]> {
        if let Value::List(items) = self { Some(items) } else { None }
    }

    pub fn as_list_mut(&mut self) -> Option<&mut Vec<Value>> {
        if let Value::List(items) = self { Some(items) } else { None }
    }

    pub fn as_map(&self) -> Option<&Map> {
        if let Value::Map(map) = self { Some(map) } else { None }
    }

    pub fn as_map_mut(&mut self) -> Option<&mut Map> {
        if let Value::Map(map) = self { Some(map) } else { None }
    }

    /// The member `key`, or null where this is no map or has none of that name.
    pub fn get(&self, key: &str) -> &Value {
        self.as_map().and_then(|map| map.get(key)).unwrap_or(&NULL)
    }

    /// The value below `path`, one member name a step; null where a step is missing.
    pub fn at(&self, path: &[&str]) -> &Value {
        path.iter().fold(self, |value, key| value.get(key))
    }

    /// The string below `path`, or `""`.
    pub fn str_at(&self, path: &[&str]) -> &str {
        self.at(path).as_str().unwrap_or_default()
    }

    /// The integer below `path`.
    pub fn int_at(&self, path: &[&str]) -> Option<i64> {
        self.at(path).as_int()
    }

    /// The list below `path`; empty where there is none.
    pub fn list_at(&self, path: &[&str]) -> &[Value] {
        self.at(path).as_list().unwrap_or_default()
    }

    /// Whether the value below `path` is `true`.
    pub fn bool_at(&self, path: &[&str]) -> bool {
        self.at(path).as_bool().unwrap_or_default()
    }

    /// The members of the map below `path`; none where there is no map.
    pub fn entries_at(&self, path: &[&str]) -> impl Iterator<Item = (&str, &Value)> {
        self.at(path).as_map().into_iter().flat_map(Map::iter)
    }

    /// The items of the list below `path`, to be edited; none where there is no list.
    pub fn list_at_mut(&mut self, path: &[&str]) -> &mut [Value] {
        self.at_mut(path).and_then(Value::as_list_mut).map(Vec::as_mut_slice).unwrap_or_default()
    }

    /// The value below `path` if every step exists.
    pub fn at_mut(&mut self, path: &[&str]) -> Option<&mut Value> {
        path.iter().try_fold(self, |value, key| value.as_map_mut()?.get_mut(key))
    }

    /// The value below `path`, with maps made on the way: a step that is not a map becomes one.
    pub fn ensure(&mut self, path: &[&str]) -> &mut Value {
        path.iter().fold(self, |value, key| {
            if !matches!(value, Value::Map(_)) {
                *value = Value::map();
            }
            let Value::Map(map) = value else { unreachable!("made a map above") };
            map.entry(key)
        })
    }

    /// Writes `to` below `path`, making the maps on the way.
    pub fn set(&mut self, path: &[&str], to: impl Into<Value>) {
        *self.ensure(path) = to.into();
    }

    /// Writes `to` below `path` unless something other than null is there: how a default is applied.
    pub fn set_default(&mut self, path: &[&str], to: impl Into<Value>) {
        let place = self.ensure(path);
        if place.is_null() {
            *place = to.into();
        }
    }

    /// Takes out what is below `path`.
    pub fn remove(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        self.at_mut(parents)?.as_map_mut()?.remove(last)
    }

    /// This value as compact JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let is_object = self.as_map().is_some_and(|map| map.contains("metadata"));
        let mut out = Vec::with_capacity(if is_object { OBJECT_BYTES_USUAL } else { PART_BYTES_USUAL });
        serde_json::to_writer(&mut out, self).expect("a tree always has a JSON form");
        out
    }

    /// Reads any JSON; of duplicate keys the last wins. The server's border has a stricter reader in `schema`.
    pub fn from_json(bytes: &[u8]) -> Result<Value, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Reads only what lies on the way to or below these paths of member names; the rest is passed over.
    pub fn sparse(bytes: &[u8], paths: &[&[&str]]) -> Result<Value, serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let value = Sparse(paths).deserialize(&mut reader)?;
        reader.end()?;
        Ok(value)
    }
}

/// Reads a value of which only these paths count; an empty path wants all of it.
struct Sparse<'a>(&'a [&'a [&'a str]]);

impl<'de> DeserializeSeed<'de> for Sparse<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.0.iter().any(|path| path.is_empty()) {
            true => Value::deserialize(deserializer),
            false => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Sparse<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::default();
        while let Some(key) = members.next_key::<CompactString>()? {
            let below: Vec<&[&str]> = self.0.iter().filter(|path| path[0] == key).map(|path| &path[1..]).collect();
            match below.is_empty() {
                true => drop(members.next_value::<IgnoredAny>()?),
                false => drop(map.insert(key, members.next_value_seed(Sparse(&below))?)),
            }
        }
        Ok(Value::Map(map))
    }

    // What is no map has nothing below it.

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }
}

impl Map {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.entries.iter_mut().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub fn contains(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The value of `key`, made null at the end where it was missing.
    pub fn entry(&mut self, key: &str) -> &mut Value {
        let index = self.entries.iter().position(|(name, _)| name == key).unwrap_or_else(|| {
            self.entries.push((CompactString::new(key), Value::Null));
            self.entries.len() - 1
        });
        &mut self.entries[index].1
    }

    /// Sets `key`, in place where it exists; returns what it was.
    pub fn insert(&mut self, key: impl AsRef<str>, value: impl Into<Value>) -> Option<Value> {
        let key = key.as_ref();
        if let Some(place) = self.get_mut(key) {
            return Some(std::mem::replace(place, value.into()));
        }
        self.entries.push((CompactString::new(key), value.into()));
        None
    }

    /// Adds an entry that the caller knows to be new, without looking.
    pub fn push(&mut self, key: CompactString, value: Value) {
        self.entries.push((key, value));
    }

    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let index = self.entries.iter().position(|(name, _)| name == key)?;
        Some(self.entries.remove(index).1)
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&str, &Value)> + ExactSizeIterator {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = (&str, &mut Value)> + ExactSizeIterator {
        self.entries.iter_mut().map(|(key, value)| (key.as_str(), value))
    }

    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator {
        self.entries.iter().map(|(key, _)| key.as_str())
    }

    /// Puts these members first, in this order; a missing one becomes an empty map.
    pub fn lead_with(&mut self, keys: &[&str]) {
        for (place, key) in keys.iter().enumerate() {
            match self.entries.iter().position(|(name, _)| name == key) {
                Some(found) => self.entries[place..=found].rotate_right(1),
                None => self.entries.insert(place, (CompactString::new(key), Value::map())),
            }
        }
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&str, &mut Value) -> bool) {
        self.entries.retain_mut(|(key, value)| keep(key, value));
    }

    /// Orders the members by name, as Go writes a map.
    pub fn sort(&mut self) {
        self.entries.sort_by(|left, right| left.0.cmp(&right.0));
    }
}

/// Equal members in whatever order.
impl PartialEq for Map {
    fn eq(&self, other: &Map) -> bool {
        self.len() == other.len() && self.iter().all(|(key, value)| other.get(key) == Some(value))
    }
}

impl<K: AsRef<str>, V: Into<Value>> FromIterator<(K, V)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Map {
        let mut map = Map::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value::Int(value)
    }
}

impl From<i32> for Value {
    fn from(value: i32) -> Value {
        Value::Int(value.into())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::string(text)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::String(text.into())
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Value {
        Value::List(items)
    }
}

impl From<Map> for Value {
    fn from(map: Map) -> Value {
        Value::Map(map)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(value) => serializer.serialize_i64(*value),
            Value::Float(value) => serializer.serialize_f64(*value),
            Value::String(text) => serializer.serialize_str(text),
            Value::List(items) => {
                let mut sequence = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| sequence.serialize_element(item))?;
                sequence.end()
            }
            Value::Map(map) => {
                let mut members = serializer.serialize_map(Some(map.len()))?;
                map.iter().try_for_each(|(key, value)| members.serialize_entry(key, value))?;
                members.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::string(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::default();
        while let Some((key, value)) = members.next_entry::<CompactString, Value>()? {
            map.insert(key, value);
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparse_tree_holds_what_its_paths_lead_to() {
        let json = br#"{"a":{"b":1,"c":[{"d":2}],"e":3},"f":"x","g":[1],"h":null}"#;
        let sparse = |paths: &[&[&str]]| String::from_utf8(Value::sparse(json, paths).unwrap().to_json()).unwrap();
        assert_eq!(sparse(&[&["a", "c"], &["f"], &["none"]]), r#"{"a":{"c":[{"d":2}]},"f":"x"}"#);
        assert_eq!(
            sparse(&[&["a"], &["a", "b"], &["g", "x"], &["h", "x"], &["f", "x"]]),
            r#"{"a":{"b":1,"c":[{"d":2}],"e":3},"f":null,"g":null,"h":null}"#
        );
        assert_eq!(sparse(&[]), "{}");
        assert!(Value::sparse(br#"{"a":1"#, &[&["a"]]).is_err());
    }

    #[test]
    fn json_round_trips_in_order() {
        let text = br#"{"b":[1,-2,2.5,true,null],"a":{"x":"y"}}"#;
        assert_eq!(Value::from_json(text).unwrap().to_json(), text);
    }

    #[test]
    fn members_are_moved_to_the_front_and_the_rest_keeps_its_order() {
        let mut value = Value::from_json(br#"{"a":1,"metadata":{"x":1},"b":2,"kind":"K"}"#).unwrap();
        let Value::Map(map) = &mut value else { unreachable!() };
        map.lead_with(&["kind", "apiVersion", "metadata"]);
        map.lead_with(&["kind", "apiVersion", "metadata"]);
        assert_eq!(value.to_json(), br#"{"kind":"K","apiVersion":{},"metadata":{"x":1},"a":1,"b":2}"#);
    }

    #[test]
    fn a_default_never_overwrites() {
        let mut value = Value::map();
        value.set_default(&["spec", "replicas"], 1);
        value.set_default(&["spec", "replicas"], 2);
        assert_eq!(value.int_at(&["spec", "replicas"]), Some(1));
    }

    #[test]
    fn maps_are_equal_in_any_order() {
        let left = Value::from_json(br#"{"a":1,"b":2}"#).unwrap();
        assert_eq!(left, Value::from_json(br#"{"b":2,"a":1}"#).unwrap());
    }
}
