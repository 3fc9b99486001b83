//! What the JSON reader gives, reports and refuses.

use coracle_meta::{GroupVersionKind, Value};
use coracle_schema::{Empty, ReadError, Reading, Schema, TypeId, Unknown, read_json, read_type_meta, write_defaults};

use crate::samples::sample;

fn kind(group: &'static str, version: &'static str, kind: &'static str) -> TypeId {
    Schema::builtin().kind(&GroupVersionKind::new(group, version, kind)).unwrap()
}

fn deployment(text: &str, unknown: Unknown) -> Result<coracle_schema::Read, ReadError> {
    read_json(Schema::builtin(), kind("apps", "v1", "Deployment"), text.as_bytes(), unknown)
}

fn error(text: &str) -> String {
    deployment(text, Unknown::Warn).unwrap_err().to_string()
}

fn shown(text: &str) -> String {
    String::from_utf8(deployment(text, Unknown::Strict).unwrap().value.to_json()).unwrap()
}

#[test]
fn every_field_of_every_type_is_read_as_it_was_written() {
    let schema = Schema::builtin();
    for (id, made) in schema.types() {
        let value = sample(schema, id);
        let read = read_json(schema, id, &value.to_json(), Unknown::Strict)
            .unwrap_or_else(|error| panic!("{}: {error}", made.name));
        let full = read_json(schema, id, &value.to_json(), Reading { unknown: Unknown::Strict, empty: Empty::Keep });
        assert!(full.unwrap().value == value, "{}", made.name);
        let again = read_json(schema, id, &read.value.to_json(), Unknown::Strict).unwrap();
        assert!(again == read, "{}", made.name);
    }
}

#[test]
fn writing_defaults_twice_changes_nothing_and_reads_back() {
    let schema = Schema::builtin();
    for (id, made) in schema.types() {
        for mut value in [Value::map(), sample(schema, id)] {
            write_defaults(schema, id, &mut value);
            let once = value.clone();
            write_defaults(schema, id, &mut value);
            assert!(value == once, "{}", made.name);
            read_json(schema, id, &value.to_json(), Unknown::Strict).unwrap();
        }
    }
}

#[test]
fn structs_are_always_written_and_the_creation_time_is_not() {
    let mut value = Value::from_json(br#"{"metadata":{"name":"a"},"spec":{"template":{}}}"#).unwrap();
    write_defaults(Schema::builtin(), kind("apps", "v1", "Deployment"), &mut value);
    let expected = br#"{"metadata":{"name":"a"},"spec":{"selector":null,"strategy":{},"template":{"metadata":{},"spec":{"containers":null}}},"status":{}}"#;
    assert_eq!(value, Value::from_json(expected).unwrap());
}

#[test]
fn unknown_and_duplicate_fields_are_told_by_path() {
    let text = r#"{"foo":1,"metadata":{"labels":{"a":"1","a":"2"}},"spec":{"replicas":1,"replicas":2,
        "template":{"spec":{"containers":[{"name":"a"},{"imagee":"b"}]}}}}"#;
    let read = deployment(text, Unknown::Warn).unwrap();
    let expected = [
        r#"unknown field "foo""#,
        r#"duplicate field "metadata.labels.a""#,
        r#"duplicate field "spec.replicas""#,
        r#"unknown field "spec.template.spec.containers[1].imagee""#,
    ];
    assert_eq!(read.warnings, expected);
    assert_eq!(read.value.int_at(&["spec", "replicas"]), Some(2));
    assert_eq!(read.value.str_at(&["metadata", "labels", "a"]), "2");
    assert_eq!(
        deployment(text, Unknown::Strict).unwrap_err().to_string(),
        format!("strict decoding error: {}", expected.join(", "))
    );
    assert!(deployment(text, Unknown::Ignore).unwrap().warnings.is_empty());
}

#[test]
fn wrong_types_are_refused_in_gos_words() {
    let cases = [
        (
            r#"{"spec":{"replicas":"x"}}"#,
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"spec":{"replicas":1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            r#"{"metadata":{"labels":{"a":1}}}"#,
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            r#"{"spec":{"template":{"spec":{"containers":{}}}}}"#,
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type \
             []v1.Container",
        ),
        ("[]", "json: cannot unmarshal array into Go value of type v1.Deployment"),
        (
            r#"{"metadata":{"creationTimestamp":"x"}}"#,
            r#"parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006""#,
        ),
        (r#"{"spec":{"replicas":"x"}"#, "unexpected end of JSON input"),
        ("{} x", "invalid character 'x' after top-level value"),
    ];
    for (text, expected) in cases {
        assert_eq!(error(text), expected, "{text}");
    }
}

#[test]
fn what_go_cannot_tell_from_absent_is_dropped() {
    let text = r#"{"metadata":{"labels":{},"name":null,"creationTimestamp":"2026-01-02T03:04:05.6+01:00"},
        "spec":{"minReadySeconds":0,"replicas":0,"template":{"spec":{"volumes":[{"emptyDir":{}}]}}}}"#;
    let expected = r#"{"metadata":{"creationTimestamp":"2026-01-02T02:04:05Z"},"spec":{"replicas":0,"template":{"spec":{"volumes":[{"emptyDir":{}}]}}}}"#;
    assert_eq!(shown(text), expected);
}

#[test]
fn amounts_become_canonical() {
    let text =
        r#"{"spec":{"template":{"spec":{"containers":[{"resources":{"limits":{"cpu":1.5,"memory":"1024Mi"}}}]}}}}"#;
    assert!(shown(text).contains(r#"{"cpu":"1500m","memory":"1Gi"}"#), "{}", shown(text));
}

#[test]
fn a_body_names_its_kind() {
    let read = |text: &str| read_type_meta(text.as_bytes()).unwrap();
    assert_eq!(read(r#"{"spec":[{}],"kind":"Pod","apiVersion":"v1"}"#), ("v1".into(), "Pod".into()));
    assert_eq!(read("{}"), (String::new(), String::new()));
}
