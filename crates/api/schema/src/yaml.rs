//! YAML bodies: turned into JSON as Kubernetes does, then read as JSON. It exists to pin the rules of go-yaml that differ
//! from YAML 1.2: old octal numbers, `yes` and `on` as booleans, a key said twice as an error.

use coracle_meta::Value;

use crate::json::{Read, ReadError, Reading, read_value};
use crate::model::{Schema, TypeId};

/// A YAML document as a tree, of no type yet. A body of JSON is YAML too.
pub fn parse_yaml(bytes: &[u8]) -> Result<Value, ReadError> {
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        with_snippet: false,
    };
    let text = String::from_utf8_lossy(bytes);
    serde_saphyr::from_str_with_options(&text, options).map_err(|error| ReadError::Yaml(format!("yaml: {error}")))
}

/// Reads an object of type `id` as [`crate::read_json`] does.
pub fn read_yaml(schema: &Schema, id: TypeId, bytes: &[u8], how: impl Into<Reading>) -> Result<Read, ReadError> {
    read_value(schema, id, &parse_yaml(bytes)?, how)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        String::from_utf8(parse_yaml(text.as_bytes()).unwrap().to_json()).unwrap()
    }

    #[test]
    fn scalars_mean_what_go_yaml_takes_them_for() {
        let cases = [
            ("a: 0644", r#"{"a":420}"#),
            ("a: yes", r#"{"a":true}"#),
            ("a: 'yes'", r#"{"a":"yes"}"#),
            ("a: on", r#"{"a":true}"#),
            ("a: 1.5", r#"{"a":1.5}"#),
            ("a: ~", r#"{"a":null}"#),
            ("a: 100m", r#"{"a":"100m"}"#),
            ("a: 1e3", r#"{"a":1000.0}"#),
            ("1: b", r#"{"1":"b"}"#),
            ("a: 2026-01-02", r#"{"a":"2026-01-02"}"#),
            (r#"{"a":[1]}"#, r#"{"a":[1]}"#),
        ];
        for (given, expected) in cases {
            assert_eq!(json(given), expected, "{given}");
        }
    }

    #[test]
    fn a_key_said_twice_is_an_error() {
        assert!(matches!(parse_yaml(b"a: 1\na: 2"), Err(ReadError::Yaml(_))));
    }
}
