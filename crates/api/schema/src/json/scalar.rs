//! Values without parts: their checks, their canonical forms, their zeros and what Go calls their types.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use compact_str::CompactString;
use coracle_meta::Value;
use coracle_meta::quantity::{Quantity, QuantityError};
use coracle_meta::time;

use crate::model::{Schema, Shape};

pub const QUANTITY_ERROR: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// Greater whole floats are not written as integers.
const WHOLE_MAX: f64 = 1e15;

/// Any number: an integer if it is one, however it is written.
pub fn any_number(text: &str) -> Value {
    if let Ok(whole) = text.parse::<i64>() {
        return Value::Int(whole);
    }
    let float: f64 = text.parse().unwrap_or_default();
    if float.fract() == 0.0 && float.abs() < WHOLE_MAX { Value::Int(float as i64) } else { Value::Float(float) }
}

/// The canonical form of an amount.
pub fn quantity(text: &str) -> Result<Value, String> {
    let amount: Quantity = text.parse().map_err(|error: QuantityError| error.to_string())?;
    Ok(Value::String(amount.to_string().into()))
}

/// RFC 3339 in UTC to the second.
pub fn time(text: Cow<'_, str>) -> Result<Value, String> {
    if is_canonical(&text) {
        return Ok(Value::String(CompactString::from(text)));
    }
    let parsed = time::parse(&text).ok_or_else(|| bad_time(&text, "2006-01-02T15:04:05Z07:00"))?;
    Ok(Value::string(time::seconds(parsed)))
}

/// RFC 3339 in UTC with six digits.
pub fn micro_time(text: Cow<'_, str>) -> Result<Value, String> {
    let parsed = time::parse(&text).ok_or_else(|| bad_time(&text, "2006-01-02T15:04:05.000000Z07:00"))?;
    Ok(Value::string(time::micros(parsed)))
}

fn bad_time(text: &str, layout: &str) -> String {
    format!("parsing time \"{text}\" as \"{layout}\": cannot parse \"{text}\" as \"2006\"")
}

/// `2026-01-02T03:04:05Z`, surely valid. What is not so plain is left to the parser.
fn is_canonical(text: &str) -> bool {
    let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2, b'Z'] = text.as_bytes()
    else {
        return false;
    };
    let digits = [y1, y2, y3, y4, m1, m2, d1, d2, h1, h2, n1, n2, s1, s2];
    let pair = |tens: u8, ones: u8| (tens - b'0') * 10 + (ones - b'0');
    digits.iter().all(u8::is_ascii_digit)
        && (1..=12).contains(&pair(m1, m2))
        && (1..=28).contains(&pair(d1, d2))
        && pair(h1, h2) < 24
        && pair(n1, n2) < 60
        && pair(s1, s2) < 60
}

/// Base64, checked, without line breaks.
pub fn bytes(text: Cow<'_, str>) -> Result<Value, String> {
    let text = if text.contains(['\r', '\n']) { Cow::Owned(text.replace(['\r', '\n'], "")) } else { text };
    match STANDARD.decode(text.as_bytes()) {
        Ok(_) => Ok(Value::String(CompactString::from(text))),
        Err(error) => Err(format!("illegal base64 data at input byte {}", bad_byte(&error, text.len()))),
    }
}

fn bad_byte(error: &base64::DecodeError, length: usize) -> usize {
    match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => *at,
        _ => length / 4 * 4,
    }
}

/// What Go's variable of this shape holds before anything is read into it, as JSON writes it.
pub fn zero(shape: &Shape) -> Value {
    match shape {
        Shape::String => Value::string(""),
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Float | Shape::IntOrString => Value::Int(0),
        Shape::Quantity => Value::string("0"),
        Shape::Duration => Value::string("0s"),
        Shape::Message(_) => Value::map(),
        Shape::Bytes | Shape::Time | Shape::MicroTime | Shape::Any(_) | Shape::List(_) | Shape::Map(_) => Value::Null,
    }
}

/// The shape as Go's error texts name it.
pub fn go_type(schema: &Schema, shape: &Shape) -> String {
    match shape {
        Shape::String => "string".into(),
        Shape::Bool => "bool".into(),
        Shape::Int32 => "int32".into(),
        Shape::Int64 => "int64".into(),
        Shape::Float => "float64".into(),
        Shape::Bytes => "[]uint8".into(),
        Shape::Quantity => "resource.Quantity".into(),
        Shape::IntOrString => "intstr.IntOrString".into(),
        Shape::Time => "v1.Time".into(),
        Shape::MicroTime => "v1.MicroTime".into(),
        Shape::Duration => "v1.Duration".into(),
        Shape::Any(_) => "runtime.RawExtension".into(),
        Shape::Message(id) => schema.get(*id).go_name(),
        Shape::List(element) => format!("[]{}", go_type(schema, element)),
        Shape::Map(element) => format!("map[string]{}", go_type(schema, element)),
    }
}
