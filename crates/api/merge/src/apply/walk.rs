//! The walks over one object: the fields it names, what is left of it without some fields, and whether it fits its
//! schema. Source: structured-merge-diff's `typed/tofieldset.go`, `remove.go` and `validate.go`.

use std::collections::BTreeSet;

use coracle_meta::{Map, Value};
use coracle_schema::Shape;

use super::element::Element;
use super::place::{Form, Place, Types};
use super::set::{Node, Set};
use crate::go::{go_text, go_type};

impl<'a> Types<'a> {
    /// Every leaf and every element of a list that the value names.
    pub fn fields(self, form: Form<'a>, value: &Value) -> Set {
        let mut set = Set::default();
        self.add_fields(form, value, &mut Vec::new(), &mut set);
        set
    }

    fn add_fields(self, form: Form<'a>, value: &Value, path: &mut Vec<Element>, set: &mut Set) {
        match (form, value) {
            (Form::Leaf, _) => set.insert(path),
            (Form::List { keys, element }, Value::List(items)) => {
                let named = items.iter().filter_map(|item| Some((self.element(keys, element, item).ok()?, item)));
                let named: Vec<(Element, &Value)> = named.collect();
                for (name, item) in &named {
                    path.push(name.clone());
                    set.insert(path);
                    if named.iter().filter(|(other, _)| other == name).count() == 1 {
                        self.add_fields(self.form(element, item), item, path, set);
                    }
                    path.pop();
                }
            }
            (Form::Struct(_) | Form::Map(_), Value::Map(map)) => {
                for (key, member) in map.iter() {
                    path.push(Element::field(key));
                    let place = self.member(form, key).unwrap_or(Place::Deduced);
                    self.add_fields(self.form(place, member), member, path, set);
                    let is_void = member.is_null() || member.as_map().is_some_and(Map::is_empty);
                    if is_void || !self.is_declared(form, key) {
                        set.insert(path);
                    }
                    path.pop();
                }
            }
            _ => {}
        }
    }

    fn is_declared(self, form: Form<'a>, key: &str) -> bool {
        matches!(form, Form::Struct(made) if made.field(key).is_some())
    }

    /// The set with the structs' fields on the way to its members as members.
    pub fn with_named_fields(self, form: Option<Form<'a>>, set: &Set) -> Set {
        set.map(|element, node| {
            let (named, inner) = match (element, form) {
                (Element::Field(name), Some(form)) => {
                    let place = self.member(form, name);
                    (self.is_declared(form, name) && !node.below.is_empty(), place)
                }
                (Element::Key(_), Some(Form::List { element, .. })) => (false, Some(element)),
                _ => (false, None),
            };
            // Below a place that is not described, maps are taken for maps.
            let inner = inner.map(|place| self.form(place, &Value::map()));
            Some(Node { is_member: node.is_member || named, below: self.with_named_fields(inner, &node.below) })
        })
    }

    /// The value without the fields and elements of `gone`; null where nothing was left of a map or list that had
    /// nothing taken out from within.
    pub fn removed(self, form: Form<'a>, value: &Value, gone: &Set) -> Value {
        match (form, value) {
            (Form::List { keys, element }, Value::List(items)) => {
                let mut touched = false;
                let mut kept = Vec::with_capacity(items.len());
                for item in items {
                    let node = self.element(keys, element, item).ok().and_then(|name| gone.node(&name));
                    kept.extend(self.kept(element, item, node, &mut touched));
                }
                if kept.is_empty() && !touched { Value::Null } else { Value::List(kept) }
            }
            (Form::Struct(_) | Form::Map(_), Value::Map(map)) => {
                let (mut kept, mut touched) = (Map::default(), false);
                for (key, member) in map.iter() {
                    let place = self.member(form, key).unwrap_or(Place::Deduced);
                    if let Some(member) = self.kept(place, member, gone.node(&Element::field(key)), &mut touched) {
                        kept.push(key.into(), member);
                    }
                }
                if kept.is_empty() && !touched { Value::Null } else { Value::Map(kept) }
            }
            (Form::Leaf, Value::List(_) | Value::Map(_)) => Value::Null,
            (_, Value::List(_) | Value::Map(_)) => Value::Null,
            (_, scalar) => scalar.clone(),
        }
    }

    fn kept(self, place: Place<'a>, value: &Value, node: Option<&Node>, touched: &mut bool) -> Option<Value> {
        match node {
            Some(node) if node.is_member => None,
            Some(node) if !node.below.is_empty() => {
                *touched = true;
                let inner = self.removed(self.form(place, value), value, &node.below);
                Some(match (inner, value) {
                    (Value::Null, Value::Map(_)) => Value::map(),
                    (Value::Null, Value::List(_)) => Value::List(Vec::new()),
                    (inner, _) => inner,
                })
            }
            _ => Some(value.clone()),
        }
    }

    /// What in a value that somebody wrote is not as the schema has it, by path.
    pub fn mistakes(self, form: Form<'a>, value: &Value) -> Vec<String> {
        let mut found = Vec::new();
        self.check(form, value, "", &mut found);
        found
    }

    fn check(self, form: Form<'a>, value: &Value, path: &str, found: &mut Vec<String>) {
        match (form, value) {
            (_, Value::Null) | (Form::Leaf, _) => {}
            (Form::List { keys, element }, Value::List(items)) => {
                let mut seen = BTreeSet::new();
                for (index, item) in items.iter().enumerate() {
                    let name = match self.element(keys, element, item) {
                        Ok(name) => name,
                        Err(why) => return found.push(format!("{path}: element {index}: {why}")),
                    };
                    if !seen.insert(name.clone()) {
                        found.push(format!("{path}: duplicate entries for key {name}"));
                    }
                    self.check_at(element, item, &format!("{path}{name}"), found);
                }
            }
            (Form::Struct(_) | Form::Map(_), Value::Map(map)) => {
                for (key, member) in map.iter() {
                    let path = format!("{path}.{key}");
                    match self.member(form, key) {
                        Some(place) => self.check_at(place, member, &path, found),
                        None => return found.push(format!("{path}: field not declared in schema")),
                    }
                }
            }
            (Form::List { .. }, other) => found.push(format!("{path}: expected list, got &{{{}}}", go_text(other))),
            (_, other) => found.push(format!("{path}: expected map, got &{{{}}}", go_text(other))),
        }
    }

    fn check_at(self, place: Place<'a>, value: &Value, path: &str, found: &mut Vec<String>) {
        let Place::Typed { shape, .. } = place else { return };
        let wrong = |what: &str| format!("{path}: {what}");
        match (shape, value) {
            (_, Value::Null) | (Shape::Any(_), _) => {}
            (Shape::String | Shape::Bytes | Shape::Duration, Value::String(_)) => {}
            (Shape::String | Shape::Bytes | Shape::Duration, other) => {
                let shown = go_text(other);
                found.push(wrong(&format!("expected string, got &value.valueUnstructured{{Value:{shown}}}")));
            }
            (Shape::Bool, Value::Bool(_)) => {}
            (Shape::Bool, other) => found.push(wrong(&format!("expected boolean, got &{{{}}}", go_text(other)))),
            (Shape::Int32 | Shape::Int64 | Shape::Float, Value::Int(_) | Value::Float(_)) => {}
            (Shape::Int32 | Shape::Int64 | Shape::Float, other) => {
                found.push(wrong(&format!("expected numeric (int or float), got {}", go_type(other))));
            }
            (Shape::Quantity | Shape::IntOrString | Shape::Time | Shape::MicroTime, Value::List(_) | Value::Map(_)) => {
                found.push(wrong(&format!("expected any scalar, got &{{{}}}", go_text(value))));
            }
            (Shape::List(element), Value::List(items)) if matches!(self.form(place, value), Form::Leaf) => {
                let element =
                    Place::Typed { shape: element, list: &coracle_schema::ListType::Atomic, is_atomic: false };
                for (index, item) in items.iter().enumerate() {
                    self.check_at(element, item, &format!("{path}[{index}]"), found);
                }
            }
            (Shape::Message(id), Value::Map(_)) => self.check(self.root(*id), value, path, found),
            (Shape::Map(element), Value::Map(map)) => {
                let element =
                    Place::Typed { shape: element, list: &coracle_schema::ListType::Atomic, is_atomic: false };
                for (key, member) in map.iter() {
                    self.check_at(element, member, &format!("{path}.{key}"), found);
                }
            }
            (Shape::List(_), Value::List(_)) => self.check(self.form(place, value), value, path, found),
            (Shape::List(_), other) => found.push(wrong(&format!("expected list, got &{{{}}}", go_text(other)))),
            (Shape::Message(_) | Shape::Map(_), other) => {
                found.push(wrong(&format!("expected map, got &{{{}}}", go_text(other))));
            }
            _ => {}
        }
    }
}
