//! The built-in table: every type of Kubernetes v1.36 as lines of text, written by `cargo xtask gen-schema`.
//!
//! `T NAME [g] [GROUP/VERSION/KIND…]` opens a type (`g`: atomic); `F NAME SHAPE FACT…` is one of its fields. Shapes are
//! one letter each, `[` and `{` before it make a list and a map of it, `#N` is the N-th type, `B`, `A` and `S`
//! before its number allow a shorter form. Facts: `r` required; `p`,
//! `v`, `a`, `n` the presence (pointer, value, always, null); `ls` and `lm:KEY,…` the list type; `g` atomic; `pm` and
//! `pr` the patch strategies, `pk:KEY` the merge key; `w` wrapped; `e:VALUE,…` the allowed values; numbers with dots the
//! path in protobuf.

use std::sync::LazyLock;

use compact_str::CompactString;
use coracle_meta::GroupVersionKind;

use crate::model::{AnyForm, Field, ListType, Presence, Schema, Shape, Type, TypeId};

static TEXT: &str = include_str!("table.txt");

static BUILTIN: LazyLock<Schema> = LazyLock::new(|| parse(TEXT));

impl Schema {
    /// All types that Kubernetes v1.36 serves. Parsed once, on first use.
    pub fn builtin() -> &'static Schema {
        &BUILTIN
    }
}

fn parse(text: &str) -> Schema {
    let mut schema = Schema::default();
    let mut open: Option<Type> = None;
    let mut fields = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        match words.next() {
            Some("T") => {
                close(&mut schema, open.take(), &mut fields);
                open = Some(parse_type(words));
            }
            Some("F") => fields.push(parse_field(words)),
            _ => {}
        }
    }
    close(&mut schema, open, &mut fields);
    schema
}

fn close(schema: &mut Schema, open: Option<Type>, fields: &mut Vec<Field>) {
    if let Some(head) = open {
        let mut made = Type::new(head.name, head.kinds, std::mem::take(fields));
        made.atomic = head.atomic;
        schema.add(made);
    }
}

fn parse_type<'a>(mut words: impl Iterator<Item = &'a str>) -> Type {
    let mut made = Type::new(words.next().unwrap_or_default(), Vec::new(), Vec::new());
    for word in words {
        let mut parts = word.splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(group), Some(version), Some(kind)) => made.kinds.push(GroupVersionKind {
                group: group.to_owned().into(),
                version: version.to_owned().into(),
                kind: kind.to_owned().into(),
            }),
            _ => made.atomic |= word == "g",
        }
    }
    made
}

fn parse_field<'a>(mut words: impl Iterator<Item = &'a str>) -> Field {
    let name = words.next().unwrap_or_default();
    let mut field = Field::new(name, parse_shape(words.next().unwrap_or_default()));
    for word in words {
        parse_fact(&mut field, word);
    }
    field
}

fn parse_fact(field: &mut Field, word: &str) {
    let (key, value) = word.split_once(':').unwrap_or((word, ""));
    let values = || value.split(',').map(CompactString::new).collect();
    match key {
        "r" => field.required = true,
        "p" => field.presence = Presence::Optional,
        "v" => field.presence = Presence::NotEmpty,
        "a" => field.presence = Presence::Always,
        "n" => field.presence = Presence::AlwaysOrNull,
        "ls" => field.list = ListType::Set,
        "lm" => field.list = ListType::Map(values()),
        "g" => field.atomic = true,
        "pm" => field.patch.merge = true,
        "pr" => field.patch.retain_keys = true,
        "pk" => field.patch.merge_key = CompactString::new(value),
        "w" => field.proto.wrapped = true,
        "e" => field.values = values(),
        path => field.proto.path = path.split('.').map_while(|number| number.parse().ok()).collect(),
    }
}

fn parse_shape(code: &str) -> Shape {
    let rest = code.get(1..).unwrap_or_default();
    let target = || TypeId(rest.parse().expect("the table's type numbers are numbers"));
    match code.as_bytes().first() {
        Some(b'[') => Shape::List(Box::new(parse_shape(rest))),
        Some(b'{') => Shape::Map(Box::new(parse_shape(rest))),
        Some(b'#') => Shape::Message(target()),
        Some(b'b') => Shape::Bool,
        Some(b'i') => Shape::Int32,
        Some(b'l') => Shape::Int64,
        Some(b'f') => Shape::Float,
        Some(b'y') => Shape::Bytes,
        Some(b'q') => Shape::Quantity,
        Some(b'n') => Shape::IntOrString,
        Some(b't') => Shape::Time,
        Some(b'u') => Shape::MicroTime,
        Some(b'd') => Shape::Duration,
        Some(b'a') => Shape::Any(AnyForm::Raw),
        Some(b'B') => Shape::Any(AnyForm::SchemaOrBool(target())),
        Some(b'A') => Shape::Any(AnyForm::SchemaOrArray(target())),
        Some(b'S') => Shape::Any(AnyForm::SchemaOrStrings(target())),
        _ => Shape::String,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(kind: GroupVersionKind, path: &[&str]) -> Field {
        let schema = Schema::builtin();
        let (last, parents) = path.split_last().unwrap();
        let mut id = schema.kind(&kind).unwrap();
        for parent in parents {
            id = schema.get(id).field(parent).unwrap().message().unwrap();
        }
        schema.get(id).field(last).unwrap().clone()
    }

    const POD: GroupVersionKind = GroupVersionKind::new("", "v1", "Pod");

    #[test]
    fn containers_merge_by_name() {
        let containers = field(POD, &["spec", "containers"]);
        assert_eq!(containers.list, ListType::Map(vec!["name".into()]));
        assert_eq!(containers.patch.merge_key, "name");
        assert!(containers.patch.merge && containers.required);
        assert_eq!(containers.proto.path, [2]);
    }

    #[test]
    fn volume_sources_are_inlined_in_protobuf() {
        assert_eq!(field(POD, &["spec", "volumes", "emptyDir"]).proto.path, [2, 2]);
    }

    #[test]
    fn a_deployments_strategy_is_always_written() {
        let kind = GroupVersionKind::new("apps", "v1", "Deployment");
        assert_eq!(field(kind.clone(), &["spec", "strategy"]).presence, Presence::Always);
        assert_eq!(field(kind, &["spec", "replicas"]).presence, Presence::Optional);
    }

    #[test]
    fn every_reference_leads_to_a_type_and_every_field_but_type_meta_has_a_tag() {
        let schema = Schema::builtin();
        for (_, made) in schema.types() {
            for field in made.fields() {
                assert!(
                    field.message().is_none_or(|id| (id.0 as usize) < schema.len()),
                    "{}.{}",
                    made.name,
                    field.name
                );
            }
        }
    }
}
