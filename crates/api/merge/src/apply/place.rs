//! What the schema says of one place in an object, as server-side apply sees it: a leaf, a list whose elements have
//! names, a struct or a map. Every walk asks here, so that all walks agree.

use compact_str::CompactString;
use coracle_meta::Value;
use coracle_schema::{Field, ListType, Presence, Schema, Shape, Type, TypeId, UnknownMembers};

use super::element::Element;

/// A place in an object.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// Described by the schema.
    Typed { shape: &'a Shape, list: &'a ListType, is_atomic: bool },
    /// Not described: maps are walked, everything else is one.
    Deduced,
}

/// How a place is walked.
#[derive(Clone, Copy, Debug)]
pub enum Form<'a> {
    /// Owned and replaced as one.
    Leaf,
    /// A list whose elements are told apart by these members, or by their value where there are none.
    List {
        keys: &'a [CompactString],
        element: Place<'a>,
    },
    Struct(&'a Type),
    Map(Place<'a>),
}

static ATOMIC: ListType = ListType::Atomic;

#[derive(Clone, Copy)]
pub struct Types<'a> {
    pub schema: &'a Schema,
}

impl<'a> Types<'a> {
    pub fn of_field(self, field: &'a Field) -> Place<'a> {
        Place::Typed { shape: &field.shape, list: &field.list, is_atomic: field.atomic }
    }

    fn of_shape(self, shape: &'a Shape) -> Place<'a> {
        Place::Typed { shape, list: &ATOMIC, is_atomic: false }
    }

    /// The form of an object of this type.
    pub fn root(self, id: TypeId) -> Form<'a> {
        Form::Struct(self.schema.get(id))
    }

    /// `sample` is a value that stands there; it matters only where the schema is silent.
    pub fn form(self, place: Place<'a>, sample: &Value) -> Form<'a> {
        let Place::Typed { shape, list, is_atomic } = place else {
            return if matches!(sample, Value::Map(_)) { Form::Map(Place::Deduced) } else { Form::Leaf };
        };
        match (shape, list) {
            (Shape::List(_), ListType::Atomic) => Form::Leaf,
            (Shape::List(element), ListType::Set) => Form::List { keys: &[], element: self.of_shape(element) },
            (Shape::List(element), ListType::Map(keys)) => Form::List { keys, element: self.of_shape(element) },
            (Shape::Message(id), _) if !is_atomic && !self.schema.get(*id).atomic => self.root(*id),
            (Shape::Map(element), _) if !is_atomic => Form::Map(self.of_shape(element)),
            _ => Form::Leaf,
        }
    }

    /// The place of a member; `None` where a struct has no such field.
    pub fn member(self, form: Form<'a>, key: &str) -> Option<Place<'a>> {
        match form {
            Form::Struct(made) => match made.field(key) {
                Some(field) => Some(self.of_field(field)),
                None => (made.unknown == UnknownMembers::Preserve).then_some(Place::Deduced),
            },
            Form::Map(element) => Some(element),
            _ => None,
        }
    }

    /// What tells a list's element from the others.
    pub fn element(self, keys: &[CompactString], element: Place<'a>, item: &Value) -> Result<Element, String> {
        if keys.is_empty() {
            return match item {
                Value::Map(_) => Err("associative list without keys has an element that's a map type".into()),
                Value::List(_) => Err("not supported: associative list with lists as elements".into()),
                Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
                scalar => Ok(Element::Item(scalar.clone())),
            };
        }
        let map = match item {
            Value::Null => return Err("associative list with keys may not have a null element".into()),
            Value::Map(map) => map,
            _ => return Err("associative list with keys may not have non-map elements".into()),
        };
        let value = |key: &CompactString| map.get(key).cloned().or_else(|| self.key_default(element, key));
        let found: Vec<_> = keys.iter().filter_map(|key| Some((key.clone(), value(key)?))).collect();
        if found.is_empty() {
            let keys: Vec<String> = keys.iter().map(|key| format!("{:?}", key.as_str())).collect();
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{}] (and doesn't have default \
                 values for any key fields)",
                keys.join(" ")
            ));
        }
        Ok(Element::key(found))
    }

    /// What OpenAPI gives as the default of a key field: the zero of what is always written, and TCP for a protocol.
    fn key_default(self, element: Place<'a>, key: &str) -> Option<Value> {
        let Place::Typed { shape: Shape::Message(id), .. } = element else { return None };
        let field = self.schema.get(*id).field(key)?;
        match (&field.shape, field.presence) {
            (Shape::String, _) if key == "protocol" => Some("TCP".into()),
            (Shape::String, Presence::Always) => Some("".into()),
            (Shape::Int32 | Shape::Int64, Presence::Always) => Some(Value::Int(0)),
            _ => None,
        }
    }
}
