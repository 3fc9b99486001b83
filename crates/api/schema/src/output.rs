//! What Go always writes: fields without `omitempty` and structs, which are never empty to Go. It exists so that what
//! clients read from the server is what kube-apiserver would have written.

use coracle_meta::{Map, Value};

use crate::json::zero;
use crate::model::{Presence, Schema, Shape, Type, TypeId};

/// Adds the always-written fields that `value`, an object of type `id`, does not have: `status: {}`, `strategy: {}`,
/// and the like in every message in it. Doing it twice changes nothing.
pub fn write_defaults(schema: &Schema, id: TypeId, value: &mut Value) {
    if let Value::Map(map) = value {
        message(schema, schema.get(id), map);
    }
}

fn message(schema: &Schema, made: &Type, map: &mut Map) {
    for field in made.fields() {
        match map.get_mut(&field.name) {
            Some(value) => inner(schema, &field.shape, value),
            None if field.presence == Presence::AlwaysOrNull => map.push(field.name.clone(), Value::Null),
            None if field.presence == Presence::Always => {
                let mut value = zero(&field.shape);
                inner(schema, &field.shape, &mut value);
                map.push(field.name.clone(), value);
            }
            None => {}
        }
    }
}

fn inner(schema: &Schema, shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Message(id), Value::Map(map)) => message(schema, schema.get(*id), map),
        (Shape::List(element), Value::List(items)) if element.message().is_some() => {
            items.iter_mut().for_each(|item| inner(schema, element, item));
        }
        (Shape::Map(element), Value::Map(map)) if element.message().is_some() => {
            map.iter_mut().for_each(|(_, member)| inner(schema, element, member));
        }
        _ => {}
    }
}
