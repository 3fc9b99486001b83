//! OpenAPI v2 in gnostic's protobuf, by field numbers of `openapi.v2.Document`. It reads the JSON document that this
//! crate made, so it knows only the members that occur there.

use serde_json::Value;

/// One member's place in a message: its JSON name, its field number, its form.
type Place = (&'static str, u32, Form);

#[derive(Clone, Copy)]
enum Form {
    Text,
    Bool,
    /// A list of texts, or one text.
    Texts,
    Message(&'static [Place]),
    /// A list of schemas.
    Schemas,
    NamedSchemas,
    /// A JSON object as a repeated message of name (1) and value (2), in the field of this number of the message.
    Named(u32, &'static [Place]),
    /// As [`Form::Named`], each value a message of one list of texts.
    NamedTexts,
    /// A schema's type: a message of a list of texts.
    Type,
    /// A schema's items: a message of a list of schemas.
    Items,
    /// A schema, in field 1 of a message.
    Wrapped,
    /// Parameters, which are told apart by where they stand.
    Parameters,
    /// Any value, as YAML text, of which JSON is a form.
    Free,
    Frees,
}

use Form::{
    Bool, Free, Frees, Items, Message, Named, NamedSchemas, NamedTexts, Parameters, Schemas, Text, Texts, Type, Wrapped,
};

const DOCUMENT: &[Place] = &[
    ("swagger", 1, Text),
    ("info", 2, Message(&[("title", 1, Text), ("version", 2, Text)])),
    ("paths", 8, Named(2, PATH_ITEM)),
    ("definitions", 9, NamedSchemas),
    ("security", 12, NamedTexts),
    ("securityDefinitions", 13, Named(1, SECURITY)),
];
const SECURITY: &[Place] = &[("type", 1, Text), ("name", 2, Text), ("in", 3, Text), ("description", 4, Text)];
const PATH_ITEM: &[Place] = &[
    ("get", 2, Message(OPERATION)),
    ("put", 3, Message(OPERATION)),
    ("post", 4, Message(OPERATION)),
    ("delete", 5, Message(OPERATION)),
    ("patch", 8, Message(OPERATION)),
    ("parameters", 9, Parameters),
];
const OPERATION: &[Place] = &[
    ("tags", 1, Texts),
    ("description", 3, Text),
    ("operationId", 5, Text),
    ("produces", 6, Texts),
    ("consumes", 7, Texts),
    ("parameters", 8, Parameters),
    ("responses", 9, Named(1, RESPONSE)),
    ("schemes", 10, Texts),
    ("x-", 13, Free),
];
const RESPONSE: &[Place] = &[("description", 1, Text), ("schema", 2, Wrapped)];
const BODY: &[Place] = &[
    ("description", 1, Text),
    ("name", 2, Text),
    ("in", 3, Text),
    ("required", 4, Bool),
    ("schema", 5, Message(SCHEMA)),
];
const QUERY: &[Place] = &[
    ("required", 1, Bool),
    ("in", 2, Text),
    ("description", 3, Text),
    ("name", 4, Text),
    ("type", 6, Text),
    ("uniqueItems", 20, Bool),
];
const PATH: &[Place] = &[
    ("required", 1, Bool),
    ("in", 2, Text),
    ("description", 3, Text),
    ("name", 4, Text),
    ("type", 5, Text),
    ("uniqueItems", 19, Bool),
];
const SCHEMA: &[Place] = &[
    ("$ref", 1, Text),
    ("format", 2, Text),
    ("description", 4, Text),
    ("required", 19, Texts),
    ("enum", 20, Frees),
    ("additionalProperties", 21, Wrapped),
    ("type", 22, Type),
    ("items", 23, Items),
    ("allOf", 24, Schemas),
    ("properties", 25, NamedSchemas),
    ("x-", 31, Free),
];

pub fn document(document: &Value) -> Vec<u8> {
    message(document, DOCUMENT)
}

fn message(value: &Value, places: &[Place]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, tag, form) in places {
        if *name == "x-" {
            extensions(&mut out, *tag, value);
        } else if let Some(member) = value.get(name) {
            put(&mut out, *tag, *form, member, name);
        }
    }
    out
}

fn put(out: &mut Vec<u8>, tag: u32, form: Form, value: &Value, name: &str) {
    match form {
        Text => put_bytes(out, tag, value.as_str().unwrap_or_default().as_bytes()),
        Bool => put_number(out, tag, u64::from(value.as_bool().unwrap_or_default())),
        Texts => each(value, |text| put(out, tag, Text, text, name)),
        Message(places) => put_bytes(out, tag, &message(value, places)),
        Schemas => each(value, |member| put_bytes(out, tag, &message(member, SCHEMA))),
        NamedSchemas => put_bytes(out, tag, &named(value, 1, |member| message(member, SCHEMA))),
        Named(inner, places) => put_bytes(out, tag, &named(value, inner, |member| value_of(name, member, places))),
        NamedTexts => each(value, |member| put_bytes(out, tag, &named(member, 1, texts))),
        Type => put_bytes(out, tag, &texts(value)),
        Items | Wrapped => put_bytes(out, tag, &nested(1, &message(value, SCHEMA))),
        Parameters => each(value, |parameter| put_bytes(out, tag, &self::parameter(parameter))),
        Free => put_bytes(out, tag, &free(value)),
        Frees => each(value, |member| put_bytes(out, tag, &free(member))),
    }
}

/// The value of a named entry; responses and security definitions stand one message deeper, being one of several forms.
fn value_of(name: &str, member: &Value, places: &[Place]) -> Vec<u8> {
    let plain = message(member, places);
    match name {
        "responses" => nested(1, &plain),
        "securityDefinitions" => nested(2, &plain),
        _ => plain,
    }
}

fn named(value: &Value, tag: u32, encode: impl Fn(&Value) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, member) in value.as_object().into_iter().flatten() {
        let mut entry = nested(1, name.as_bytes());
        put_bytes(&mut entry, 2, &encode(member));
        put_bytes(&mut out, tag, &entry);
    }
    out
}

fn parameter(value: &Value) -> Vec<u8> {
    let one = match value["in"].as_str() {
        Some("body") => nested(1, &message(value, BODY)),
        Some("path") => nested(2, &nested(4, &message(value, PATH))),
        _ => nested(2, &nested(3, &message(value, QUERY))),
    };
    nested(1, &one)
}

fn extensions(out: &mut Vec<u8>, tag: u32, value: &Value) {
    for (name, member) in value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
        let mut entry = nested(1, name.as_bytes());
        put_bytes(&mut entry, 2, &free(member));
        put_bytes(out, tag, &entry);
    }
}

fn free(value: &Value) -> Vec<u8> {
    nested(2, format!("{value}\n").as_bytes())
}

fn texts(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    each(value, |text| put(&mut out, 1, Text, text, ""));
    out
}

/// The elements of a list, or the value itself where it is none.
fn each<'a>(value: &'a Value, mut act: impl FnMut(&'a Value)) {
    match value {
        Value::Array(items) => items.iter().for_each(act),
        other => act(other),
    }
}

fn nested(tag: u32, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 6);
    put_bytes(&mut out, tag, bytes);
    out
}

fn put_bytes(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    put_varint(out, u64::from(tag) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_number(out: &mut Vec<u8>, tag: u32, value: u64) {
    put_varint(out, u64::from(tag) << 3);
    put_varint(out, value);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
