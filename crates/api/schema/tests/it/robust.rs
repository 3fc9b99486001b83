//! Whatever a client sends, the readers answer with a value or an error.

use coracle_meta::GroupVersionKind;
use coracle_schema::{Schema, TypeId, Unknown, parse_yaml, read_json, read_proto, read_type_meta, write_proto};

use crate::samples::sample;

/// A small generator of its own, so that a failure names the seed that repeats it.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % sides.max(1)
    }

    /// Some bytes changed, taken out, doubled or cut off.
    fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        for _ in 0..=self.roll(4) {
            let at = self.roll(out.len());
            match self.roll(6) {
                0 => out.truncate(at),
                1 if !out.is_empty() => drop(out.remove(at)),
                2 if !out.is_empty() => out[at] = self.roll(256) as u8,
                3 if !out.is_empty() => out[at] ^= 1 << self.roll(8),
                4 => out.splice(at..at, *b"null").for_each(drop),
                _ => {
                    let marks = b"{}[]\",:\\0-e";
                    out.insert(at, marks[self.roll(marks.len())]);
                }
            }
        }
        out
    }
}

fn types() -> Vec<TypeId> {
    let schema = Schema::builtin();
    let kinds = [
        GroupVersionKind::new("", "v1", "Service"),
        GroupVersionKind::new("", "v1", "Node"),
        GroupVersionKind::new("apps", "v1", "Deployment"),
        GroupVersionKind::new("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
        GroupVersionKind::new("resource.k8s.io", "v1", "ResourceSlice"),
        GroupVersionKind::new("authorization.k8s.io", "v1", "SubjectAccessReview"),
    ];
    kinds.iter().map(|kind| schema.kind(kind).unwrap()).collect()
}

#[test]
fn mutated_json_is_read_or_refused_and_what_is_read_reads_again() {
    let (schema, mut dice) = (Schema::builtin(), Dice(1));
    for id in types() {
        let bytes = sample(schema, id).to_json();
        for _ in 0..60 {
            let text = dice.mutate(&bytes);
            let _ = read_type_meta(&text);
            let Ok(read) = read_json(schema, id, &text, Unknown::Warn) else { continue };
            let again = read_json(schema, id, &read.value.to_json(), Unknown::Strict).unwrap();
            assert!(again.value == read.value, "{}", String::from_utf8_lossy(&text));
            write_proto(schema, id, &read.value).unwrap();
        }
    }
}

#[test]
fn mutated_protobuf_is_read_or_refused_and_what_is_read_is_valid() {
    let (schema, mut dice) = (Schema::builtin(), Dice(2));
    for id in types() {
        let value = read_json(schema, id, &sample(schema, id).to_json(), Unknown::Strict).unwrap().value;
        let bytes = write_proto(schema, id, &value).unwrap();
        for _ in 0..200 {
            let Ok(read) = read_proto(schema, id, &dice.mutate(&bytes)) else { continue };
            read_json(schema, id, &read.to_json(), Unknown::Strict).unwrap();
        }
    }
}

#[test]
fn arbitrary_bytes_are_no_danger() {
    let (schema, mut dice) = (Schema::builtin(), Dice(3));
    for id in types() {
        for _ in 0..400 {
            let bytes: Vec<u8> = (0..dice.roll(64)).map(|_| dice.roll(256) as u8).collect();
            let _ = read_json(schema, id, &bytes, Unknown::Warn);
            let _ = read_proto(schema, id, &[b"k8s\0".as_slice(), &bytes].concat());
            let _ = parse_yaml(&bytes);
        }
    }
}

#[test]
fn depth_is_bounded() {
    let (schema, id) = (Schema::builtin(), types()[0]);
    let deep = [b"{\"x\":".repeat(100_000), b"[".repeat(100_000)].concat();
    assert_eq!(read_json(schema, id, &deep, Unknown::Warn).unwrap_err().to_string(), "exceeded max depth");
    assert!(parse_yaml(&b"[".repeat(100_000)).is_err());
}
