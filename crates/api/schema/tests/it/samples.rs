//! Objects with every field set, built from the table itself.

use coracle_meta::{Map, Value};
use coracle_schema::{AnyForm, Schema, Shape, TypeId};

/// Types hold themselves in few places, but some are eight deep.
const DEPTH_MAX: usize = 14;

pub struct Sampler<'s> {
    schema: &'s Schema,
    counter: i64,
    open: Vec<TypeId>,
}

/// An object of this type with all fields set, each to another value.
pub fn sample(schema: &Schema, id: TypeId) -> Value {
    Sampler { schema, counter: 0, open: Vec::new() }.message(id)
}

impl Sampler<'_> {
    fn message(&mut self, id: TypeId) -> Value {
        let mut map = Map::default();
        if self.open.len() < DEPTH_MAX && !self.open.contains(&id) {
            self.open.push(id);
            for field in self.schema.get(id).fields() {
                map.insert(&field.name, self.value(&field.shape));
            }
            self.open.pop();
        }
        Value::Map(map)
    }

    fn value(&mut self, shape: &Shape) -> Value {
        self.counter += 1;
        let count = self.counter;
        match shape {
            Shape::String => Value::from(format!("text {count} é")),
            Shape::Bool => Value::from(true),
            Shape::Int32 => Value::from(count as i32 * if count % 2 == 0 { 1 } else { -1 }),
            Shape::Int64 => Value::from(count << 33),
            Shape::Float => Value::Float(count as f64 + 0.5),
            Shape::Bytes => Value::from("aGVsbG8="),
            Shape::Quantity => Value::from(format!("{}m", count * 2 + 1)),
            Shape::IntOrString if count % 2 == 0 => Value::from(format!("{}%", count % 100)),
            Shape::IntOrString => Value::from(count),
            Shape::Time => Value::from("2026-01-02T03:04:05Z"),
            Shape::MicroTime => Value::from("2026-01-02T03:04:05.000678Z"),
            Shape::Duration => Value::from("1m30s"),
            Shape::Any(AnyForm::Raw) => Value::Map(Map::from_iter([("a", Value::from(count))])),
            Shape::Any(AnyForm::SchemaOrBool(_)) => Value::from(true),
            Shape::Any(AnyForm::SchemaOrArray(id)) => Value::List(vec![self.message(*id)]),
            Shape::Any(AnyForm::SchemaOrStrings(_)) => Value::List(vec![Value::from("a")]),
            Shape::Message(id) => self.message(*id),
            Shape::List(element) => Value::List(vec![self.value(element), self.value(element)]),
            Shape::Map(element) => {
                Value::Map(Map::from_iter([("k", self.value(element)), ("l/m", self.value(element))]))
            }
        }
    }
}
