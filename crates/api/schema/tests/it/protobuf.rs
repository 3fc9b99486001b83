//! Protobuf and back.

use coracle_meta::{GroupVersionKind, Value};
use coracle_schema::proto::{open, watch_event};
use coracle_schema::{Empty, Presence, Reading, Schema, Shape, TypeId, Unknown, read_json, read_proto, write_proto};

use crate::samples::sample;

/// The object without what protobuf has no place for: the kinds of inner objects.
fn without_inner_kinds(schema: &Schema, id: TypeId, value: &mut Value) {
    fn walk(schema: &Schema, shape: &Shape, value: &mut Value) {
        match (shape, value) {
            (Shape::Message(id), Value::Map(map)) => {
                let made = schema.get(*id);
                map.retain(|name, _| made.field(name).is_some_and(|field| !field.proto.path.is_empty()));
                map.iter_mut().for_each(|(name, value)| walk(schema, &made.field(name).unwrap().shape, value));
            }
            (Shape::List(element), Value::List(items)) => items.iter_mut().for_each(|item| walk(schema, element, item)),
            (Shape::Map(element), Value::Map(map)) => map.iter_mut().for_each(|(_, item)| walk(schema, element, item)),
            _ => {}
        }
    }
    let outer: Vec<_> = ["apiVersion", "kind"].map(|name| (name, value.get(name).clone())).into();
    walk(schema, &Shape::Message(id), value);
    for (name, text) in outer.into_iter().filter(|(_, text)| !text.is_null()) {
        value.set(&[name], text);
    }
}

#[test]
fn every_field_of_every_type_survives_protobuf() {
    let schema = Schema::builtin();
    for (id, made) in schema.types() {
        let json = sample(schema, id).to_json();
        let mut value = read_json(schema, id, &json, Unknown::Strict).unwrap().value;
        without_inner_kinds(schema, id, &mut value);
        let body = write_proto(schema, id, &value).unwrap();
        let back = read_proto(schema, id, &body).unwrap();
        let expected = read_json(schema, id, &value.to_json(), Unknown::Strict).unwrap().value;
        assert!(back == expected, "{}", made.name);
    }
}

#[test]
fn what_a_go_client_sends_as_zero_is_dropped() {
    let schema = Schema::builtin();
    let id = schema.kind(&GroupVersionKind::new("", "v1", "Pod")).unwrap();
    let text = br#"{"metadata":{"name":"a","namespace":"","labels":{}},"spec":{"nodeName":"","hostNetwork":false}}"#;
    let sent = read_json(schema, id, text, Reading { unknown: Unknown::Strict, empty: Empty::Keep }).unwrap().value;
    assert_eq!(sent.at(&["spec", "nodeName"]), &Value::from(""));
    let read = read_proto(schema, id, &write_proto(schema, id, &sent).unwrap()).unwrap();
    assert_eq!(String::from_utf8(read.to_json()).unwrap(), r#"{"metadata":{"name":"a"},"spec":{}}"#);
}

#[test]
fn the_envelope_names_the_kind() {
    let schema = Schema::builtin();
    let id = schema.kind(&GroupVersionKind::new("", "v1", "Namespace")).unwrap();
    let value = Value::from_json(br#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}"#).unwrap();
    let body = write_proto(schema, id, &value).unwrap();
    let envelope = open(&body).unwrap();
    assert_eq!((envelope.api_version, envelope.kind), ("v1", "Namespace"));
    assert_eq!(read_proto(schema, id, &body).unwrap(), value);
    assert!(open(b"{}").is_err());
    let event = watch_event("ADDED", &body);
    assert_eq!(&event[..7], b"\x0a\x05ADDED");
}

#[test]
fn only_the_kinds_of_objects_have_no_place_in_protobuf() {
    for (_, made) in Schema::builtin().types().filter(|(_, made)| !made.name.ends_with(".version.Info")) {
        for field in made.fields().iter().filter(|field| field.proto.path.is_empty()) {
            assert!(matches!(field.name.as_str(), "kind" | "apiVersion"), "{}.{}", made.name, field.name);
            assert_ne!(field.presence, Presence::Always);
        }
    }
}
