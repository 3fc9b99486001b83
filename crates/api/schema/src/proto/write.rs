//! Trees to messages.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_meta::{Map, Value, time};

use super::WriteError;
use super::wire::{put_bytes, put_double, put_number};
use crate::model::{AnyForm, Field, Schema, Shape, Tagged, Type, TypeId};

/// A value was not of its shape; the field is named further up.
struct Mismatch;

type Encoded = Result<(), Mismatch>;

/// Appends the fields of `value`, an object of type `id`.
pub fn message(schema: &Schema, id: TypeId, value: &Value, out: &mut Vec<u8>) -> Result<(), WriteError> {
    let mut writer = Writer { schema, failed: None };
    let written = match value {
        Value::Map(map) => writer.fields(schema.get(id), schema.get(id).tags(), map, out),
        _ => Err(Mismatch),
    };
    written.map_err(|Mismatch| {
        let (owner, field) = writer.failed.unwrap_or_else(|| (schema.get(id).name.to_string(), String::new()));
        WriteError { owner, field }
    })
}

struct Writer<'s> {
    schema: &'s Schema,
    failed: Option<(String, String)>,
}

impl Writer<'_> {
    fn fields(&mut self, made: &Type, tags: &[(u32, Tagged)], map: &Map, out: &mut Vec<u8>) -> Encoded {
        for (tag, tagged) in tags {
            match tagged {
                Tagged::Inlined(inner) => {
                    let mut bytes = Vec::new();
                    self.fields(made, inner, map, &mut bytes)?;
                    put_bytes(out, *tag, &bytes);
                }
                Tagged::Field(position) => {
                    let field = &made.fields()[usize::from(*position)];
                    let Some(value) = map.get(&field.name).filter(|value| !value.is_null()) else { continue };
                    if self.field(*tag, field, value, out).is_err() {
                        self.failed.get_or_insert_with(|| (made.name.to_string(), field.name.to_string()));
                        return Err(Mismatch);
                    }
                }
            }
        }
        Ok(())
    }

    fn field(&mut self, tag: u32, field: &Field, value: &Value, out: &mut Vec<u8>) -> Encoded {
        match (&field.shape, value) {
            (Shape::List(element), Value::List(items)) if !field.proto.wrapped => {
                items.iter().try_for_each(|item| self.value(tag, element, item, out))
            }
            (Shape::Map(element), Value::Map(members)) => members.iter().try_for_each(|(key, member)| {
                let mut entry = Vec::new();
                put_bytes(&mut entry, 1, key.as_bytes());
                self.value(2, element, member, &mut entry)?;
                put_bytes(out, tag, &entry);
                Ok(())
            }),
            (shape, value) => self.value(tag, shape, value, out),
        }
    }

    fn value(&mut self, tag: u32, shape: &Shape, value: &Value, out: &mut Vec<u8>) -> Encoded {
        match (shape, value) {
            (Shape::String | Shape::Duration, Value::String(text)) => put_bytes(out, tag, text.as_bytes()),
            (Shape::Bool, Value::Bool(value)) => put_number(out, tag, u64::from(*value)),
            (Shape::Int32 | Shape::Int64, Value::Int(value)) => put_number(out, tag, *value as u64),
            (Shape::Float, Value::Int(value)) => put_double(out, tag, *value as f64),
            (Shape::Float, Value::Float(value)) => put_double(out, tag, *value),
            (Shape::Bytes, Value::String(text)) => {
                put_bytes(out, tag, &STANDARD.decode(text.as_bytes()).map_err(|_| Mismatch)?);
            }
            (Shape::Quantity, Value::String(text)) => {
                let mut inner = Vec::with_capacity(text.len() + 2);
                put_bytes(&mut inner, 1, text.as_bytes());
                put_bytes(out, tag, &inner);
            }
            (Shape::IntOrString, _) => put_bytes(out, tag, &int_or_string(value)?),
            (Shape::Time | Shape::MicroTime, Value::String(text)) => put_bytes(out, tag, &timestamp(text)?),
            (Shape::Time | Shape::MicroTime, Value::Null) => put_bytes(out, tag, b""),
            (Shape::Any(form), _) => put_bytes(out, tag, &self.form(*form, value)?),
            (Shape::Message(id), Value::Map(map)) => {
                let made = self.schema.get(*id);
                let mut inner = Vec::new();
                self.fields(made, made.tags(), map, &mut inner)?;
                put_bytes(out, tag, &inner);
            }
            (Shape::List(element), Value::List(items)) => {
                let mut inner = Vec::new();
                items.iter().try_for_each(|item| self.value(1, element, item, &mut inner))?;
                put_bytes(out, tag, &inner);
            }
            _ => return Err(Mismatch),
        }
        Ok(())
    }

    fn form(&mut self, form: AnyForm, value: &Value) -> Result<Vec<u8>, Mismatch> {
        let mut inner = Vec::new();
        match (form, value) {
            (AnyForm::Raw, _) => put_bytes(&mut inner, 1, &value.to_json()),
            (AnyForm::SchemaOrBool(_), Value::Bool(allows)) => put_number(&mut inner, 1, u64::from(*allows)),
            (AnyForm::SchemaOrBool(id), _) => {
                put_number(&mut inner, 1, 1);
                self.value(2, &Shape::Message(id), value, &mut inner)?;
            }
            (AnyForm::SchemaOrArray(id), Value::List(items)) => {
                items.iter().try_for_each(|item| self.value(2, &Shape::Message(id), item, &mut inner))?;
            }
            (AnyForm::SchemaOrStrings(_), Value::List(items)) => {
                items.iter().try_for_each(|item| self.value(2, &Shape::String, item, &mut inner))?;
            }
            (AnyForm::SchemaOrArray(id) | AnyForm::SchemaOrStrings(id), _) => {
                self.value(1, &Shape::Message(id), value, &mut inner)?;
            }
        }
        Ok(inner)
    }
}

fn int_or_string(value: &Value) -> Result<Vec<u8>, Mismatch> {
    let mut out = Vec::new();
    let (kind, whole, text) = match value {
        Value::Int(whole) => (0, *whole, ""),
        Value::String(text) => (1, 0, text.as_str()),
        _ => return Err(Mismatch),
    };
    put_number(&mut out, 1, kind);
    put_number(&mut out, 2, whole as u64);
    put_bytes(&mut out, 3, text.as_bytes());
    Ok(out)
}

fn timestamp(text: &str) -> Result<Vec<u8>, Mismatch> {
    let time = time::parse(text).ok_or(Mismatch)?;
    let mut out = Vec::new();
    put_number(&mut out, 1, time.as_second() as u64);
    put_number(&mut out, 2, time.subsec_nanosecond() as i64 as u64);
    Ok(out)
}
