//! One step of a path into an object as field sets name it, and its text forms. Source: structured-merge-diff's
//! `fieldpath`.

use std::cmp::Ordering;
use std::fmt;

use compact_str::{CompactString, format_compact};
use coracle_meta::{Map, Value, field::quote};

/// Which part of a map or list is meant.
#[derive(Clone, Debug, PartialEq)]
pub enum Element {
    /// `f:`, a member of a map.
    Field(CompactString),
    /// `k:`, the element of a list with these members, ordered by name.
    Key(Vec<(CompactString, Value)>),
    /// `v:`, the element of a set with this value.
    Item(Value),
    /// `i:`, the element at this place.
    Index(i64),
}

impl Element {
    pub fn field(name: &str) -> Element {
        Element::Field(CompactString::new(name))
    }

    /// The key that stands for this element in `FieldsV1`.
    pub fn encode(&self) -> CompactString {
        let json = |value: Value| String::from_utf8(value.to_json()).expect("JSON is text");
        match self {
            Element::Field(name) => format_compact!("f:{name}"),
            Element::Key(fields) => {
                let map: Map = fields.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
                format_compact!("k:{}", json(Value::Map(map)))
            }
            Element::Item(value) => format_compact!("v:{}", json(value.clone())),
            Element::Index(index) => format_compact!("i:{index}"),
        }
    }

    /// `Ok(None)` where the key is of a sort that is not known, which readers skip.
    pub fn decode(key: &str) -> Result<Option<Element>, String> {
        let Some((sort, rest)) = key.split_once(':').filter(|(sort, _)| sort.len() == 1) else {
            return Err(format!("missing colon: {key}"));
        };
        let json = || Value::from_json(rest.as_bytes()).map_err(|error| error.to_string());
        Ok(Some(match sort {
            "f" => Element::field(rest),
            "v" => Element::Item(json()?),
            "i" => Element::Index(rest.parse().map_err(|_| format!("invalid index: {key}"))?),
            "k" => {
                let Value::Map(map) = json()? else { return Err(format!("invalid key: {key}")) };
                Element::key(map.iter().map(|(name, value)| (CompactString::new(name), value.clone())).collect())
            }
            _ => return Ok(None),
        }))
    }

    pub fn key(mut fields: Vec<(CompactString, Value)>) -> Element {
        fields.sort_by(|left, right| left.0.cmp(&right.0));
        Element::Key(fields)
    }

    fn rank(&self) -> u8 {
        match self {
            Element::Field(_) => 0,
            Element::Key(_) => 1,
            Element::Item(_) => 2,
            Element::Index(_) => 3,
        }
    }
}

impl Eq for Element {}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Element) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Element) -> Ordering {
        match (self, other) {
            (Element::Field(left), Element::Field(right)) => left.cmp(right),
            (Element::Key(left), Element::Key(right)) => {
                let pairs = left.iter().zip(right);
                let differing =
                    pairs.map(|((name, value), (other, against))| name.cmp(other).then_with(|| order(value, against)));
                differing.fold(Ordering::Equal, Ordering::then).then(left.len().cmp(&right.len()))
            }
            (Element::Item(left), Element::Item(right)) => order(left, right),
            (Element::Index(left), Element::Index(right)) => left.cmp(right),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

/// A total order of values: numbers, strings, booleans, lists, maps, null.
fn order(left: &Value, right: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Int(_) | Value::Float(_) => 0,
        Value::String(_) => 1,
        Value::Bool(_) => 2,
        Value::List(_) => 3,
        Value::Map(_) => 4,
        Value::Null => 5,
    };
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => left.cmp(right),
        (Value::Int(left), Value::Float(right)) => (*left as f64).total_cmp(right),
        (Value::Float(left), Value::Int(right)) => left.total_cmp(&(*right as f64)),
        (Value::Float(left), Value::Float(right)) => left.total_cmp(right),
        (Value::String(left), Value::String(right)) => left.cmp(right),
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::List(_), Value::List(_)) | (Value::Map(_), Value::Map(_)) => left.to_json().cmp(&right.to_json()),
        _ => rank(left).cmp(&rank(right)),
    }
}

impl fmt::Display for Element {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Value| match value {
            Value::String(text) => quote(text),
            other => String::from_utf8(other.to_json()).expect("JSON is text"),
        };
        match self {
            Element::Field(name) => write!(formatter, ".{name}"),
            Element::Key(fields) => {
                let parts: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", text(value))).collect();
                write!(formatter, "[{}]", parts.join(","))
            }
            Element::Item(value) => write!(formatter, "[={}]", text(value)),
            Element::Index(index) => write!(formatter, "[{index}]"),
        }
    }
}
