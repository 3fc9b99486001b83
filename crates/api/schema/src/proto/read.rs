//! Messages to trees.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_meta::{Map, Value, time};
use jiff::Timestamp;

use super::wire::{Item, Wire};
use crate::json::{DEPTH_MAX, ReadError, canonical_quantity, zero};
use crate::model::{AnyForm, Field, Presence, Schema, Shape, Tagged, Type, TypeId};

struct Reader<'s> {
    schema: &'s Schema,
    depth: usize,
}

/// Reads the message's fields into `map`.
pub fn message(schema: &Schema, id: TypeId, bytes: &[u8], map: &mut Map) -> Result<(), ReadError> {
    Reader { schema, depth: 0 }.message(id, bytes, map)
}

type Decoded<T> = Result<T, ReadError>;

impl<'s> Reader<'s> {
    fn message(&mut self, id: TypeId, bytes: &[u8], map: &mut Map) -> Decoded<()> {
        let made = self.schema.get(id);
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(ReadError::Proto("exceeded max depth"));
        }
        self.fields(made, made.tags(), bytes, map)?;
        self.depth -= 1;
        map.retain(|name, value| {
            !value.is_empty() || made.field(name).is_none_or(|field| field.presence != Presence::NotEmpty)
        });
        Ok(())
    }

    fn fields(&mut self, made: &'s Type, tags: &'s [(u32, Tagged)], bytes: &[u8], map: &mut Map) -> Decoded<()> {
        let mut wire = Wire::new(bytes);
        while let Some((number, item)) = wire.next()? {
            let Ok(place) = tags.binary_search_by_key(&number, |(tag, _)| *tag) else { continue };
            match &tags[place].1 {
                Tagged::Inlined(inner) => self.fields(made, inner, bytes_of(item)?, map)?,
                Tagged::Field(position) => self.field(&made.fields()[usize::from(*position)], item, map)?,
            }
        }
        Ok(())
    }

    fn field(&mut self, field: &Field, item: Item<'_>, map: &mut Map) -> Decoded<()> {
        match &field.shape {
            Shape::List(element) if !field.proto.wrapped => {
                let place = map.entry(&field.name);
                if place.is_null() {
                    *place = Value::List(Vec::new());
                }
                let Value::List(items) = place else { return Ok(()) };
                self.element(element, item, items)
            }
            Shape::Map(element) => {
                let (key, value) = self.entry(element, bytes_of(item)?)?;
                let place = map.entry(&field.name);
                if place.is_null() {
                    *place = Value::map();
                }
                if let Value::Map(members) = place {
                    members.insert(key, value);
                }
                Ok(())
            }
            shape => {
                match self.value(shape, item)? {
                    Some(value) => drop(map.insert(&field.name, value)),
                    None => drop(map.remove(&field.name)),
                }
                Ok(())
            }
        }
    }

    /// One element, or many where numbers are packed.
    fn element(&mut self, shape: &Shape, item: Item<'_>, items: &mut Vec<Value>) -> Decoded<()> {
        match (shape, item) {
            (Shape::Int32 | Shape::Int64 | Shape::Bool, Item::Bytes(packed)) => {
                let mut packed = Wire::new(packed);
                while !packed.is_empty() {
                    let item = Item::Varint(packed.varint()?);
                    items.extend(self.value(shape, item)?);
                }
            }
            _ => {
                let value = self.value(shape, item)?;
                items.push(value.unwrap_or_else(|| zero(shape)));
            }
        }
        Ok(())
    }

    fn entry(&mut self, shape: &Shape, bytes: &[u8]) -> Decoded<(String, Value)> {
        let (mut key, mut value, mut wire) = (String::new(), None, Wire::new(bytes));
        while let Some((tag, item)) = wire.next()? {
            match tag {
                1 => key = text(item)?.into_owned(),
                2 => value = self.value(shape, item)?,
                _ => {}
            }
        }
        Ok((key, value.unwrap_or_else(|| zero(shape))))
    }

    /// A single value; `None` for Go's zero time and for free JSON that holds nothing.
    fn value(&mut self, shape: &Shape, item: Item<'_>) -> Decoded<Option<Value>> {
        Ok(Some(match shape {
            Shape::String | Shape::Duration => Value::string(text(item)?),
            Shape::Bool => Value::Bool(number(item)? != 0),
            Shape::Int32 => Value::Int(i64::from(number(item)? as i32)),
            Shape::Int64 => Value::Int(number(item)?),
            Shape::Float => match item {
                Item::Fixed64(bits) => whole_or_float(f64::from_bits(bits)),
                _ => return Err(ReadError::Proto("wrong wire type for a double")),
            },
            Shape::Bytes => Value::from(STANDARD.encode(bytes_of(item)?)),
            Shape::Quantity => self.quantity(bytes_of(item)?)?,
            Shape::IntOrString => int_or_string(bytes_of(item)?)?,
            Shape::Time | Shape::MicroTime => return timestamp(shape, bytes_of(item)?),
            Shape::Any(form) => return self.form(*form, bytes_of(item)?),
            Shape::Message(id) => {
                let mut map = Map::default();
                self.message(*id, bytes_of(item)?, &mut map)?;
                Value::Map(map)
            }
            Shape::List(element) => Value::List(self.wrapped(element, bytes_of(item)?)?),
            Shape::Map(_) => return Err(ReadError::Proto("a map cannot stand alone")),
        }))
    }

    /// A list in a message of its own.
    fn wrapped(&mut self, element: &Shape, bytes: &[u8]) -> Decoded<Vec<Value>> {
        let (mut items, mut wire) = (Vec::new(), Wire::new(bytes));
        while let Some((tag, item)) = wire.next()? {
            if tag == 1 {
                self.element(element, item, &mut items)?;
            }
        }
        Ok(items)
    }

    fn quantity(&self, bytes: &[u8]) -> Decoded<Value> {
        let (mut amount, mut wire) = (Cow::Borrowed("0"), Wire::new(bytes));
        while let Some((tag, item)) = wire.next()? {
            if tag == 1 {
                amount = text(item)?;
            }
        }
        canonical_quantity(if amount.is_empty() { "0" } else { &amount })
            .map_err(|_| ReadError::Proto("malformed quantity"))
    }

    fn form(&mut self, form: AnyForm, bytes: &[u8]) -> Decoded<Option<Value>> {
        let mut wire = Wire::new(bytes);
        let (mut allows, mut schema, mut several) = (false, None, Vec::new());
        while let Some((tag, item)) = wire.next()? {
            match (form, tag) {
                (AnyForm::Raw, 1) => return free_json(bytes_of(item)?),
                (AnyForm::SchemaOrBool(_), 1) => allows = number(item)? != 0,
                (AnyForm::SchemaOrBool(id), 2)
                | (AnyForm::SchemaOrArray(id), 1)
                | (AnyForm::SchemaOrStrings(id), 1) => schema = self.value(&Shape::Message(id), item)?,
                (AnyForm::SchemaOrArray(id), 2) => several.extend(self.value(&Shape::Message(id), item)?),
                (AnyForm::SchemaOrStrings(_), 2) => several.push(Value::string(text(item)?)),
                _ => {}
            }
        }
        Ok(match (form, schema) {
            (AnyForm::Raw, _) => None,
            (_, Some(schema)) => Some(schema),
            (AnyForm::SchemaOrBool(_), None) => Some(Value::Bool(allows)),
            (_, None) => Some(Value::List(several)),
        })
    }
}

fn free_json(raw: &[u8]) -> Decoded<Option<Value>> {
    if raw.is_empty() {
        return Ok(None);
    }
    let value = Value::from_json(raw).map_err(|_| ReadError::Proto("embedded object is not JSON"))?;
    Ok((!value.is_null()).then_some(value))
}

fn int_or_string(bytes: &[u8]) -> Decoded<Value> {
    let (mut kind, mut whole, mut string, mut wire) = (0, 0, Cow::Borrowed(""), Wire::new(bytes));
    while let Some((tag, item)) = wire.next()? {
        match tag {
            1 => kind = number(item)?,
            2 => whole = i64::from(number(item)? as i32),
            3 => string = text(item)?,
            _ => {}
        }
    }
    Ok(if kind == 0 { Value::Int(whole) } else { Value::string(string) })
}

/// An empty message is Go's zero time.
fn timestamp(shape: &Shape, bytes: &[u8]) -> Decoded<Option<Value>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos, mut wire) = (0, 0, Wire::new(bytes));
    while let Some((tag, item)) = wire.next()? {
        match tag {
            1 => seconds = number(item)?,
            2 => nanos = number(item)? as i32,
            _ => {}
        }
    }
    let time = Timestamp::new(seconds, nanos).map_err(|_| ReadError::Proto("time out of range"))?;
    Ok(Some(Value::from(if *shape == Shape::Time { time::seconds(time) } else { time::micros(time) })))
}

fn whole_or_float(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 { Value::Int(value as i64) } else { Value::Float(value) }
}

fn bytes_of(item: Item<'_>) -> Decoded<&[u8]> {
    if let Item::Bytes(bytes) = item { Ok(bytes) } else { Err(ReadError::Proto("wrong wire type for bytes")) }
}

fn text(item: Item<'_>) -> Decoded<Cow<'_, str>> {
    bytes_of(item).map(String::from_utf8_lossy)
}

fn number(item: Item<'_>) -> Decoded<i64> {
    if let Item::Varint(value) = item {
        Ok(value as i64)
    } else {
        Err(ReadError::Proto("wrong wire type for a number"))
    }
}
