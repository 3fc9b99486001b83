//! Secrets: bytes by key, with keys that their type requires. `stringData` is written and never read.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use super::configmap::{BYTES_MAX, validate_frozen};
use crate::column::{AGE, Column, NAME, counted, string_or, text};
use crate::object_meta::immutable;
use crate::rules::Rules;
use crate::shapes::fill;

const COLUMNS: &[Column] = &[
    NAME,
    text("Type", |secret, _| string_or(secret, &["type"], "")),
    counted("Data", |secret, _| Value::Int(secret.entries_at(&["data"]).count() as i64)),
    AGE,
];

pub const RULES: Rules = Rules {
    default,
    validate,
    validate_update,
    columns: COLUMNS,
    selectable_fields: |secret| vec![("type", secret.str_at(&["type"]).to_owned())],
    ..Rules::STANDARD
};

fn default(secret: &mut Value, _: &str) {
    fill(secret, &["type"], "Opaque");
    let Some(texts) = secret.remove(&["stringData"]) else { return };
    for (key, text) in texts.entries_at(&[]) {
        let encoded = BASE64_STANDARD.encode(text.as_str().unwrap_or_default());
        secret.set(&["data", key], encoded);
    }
}

/// Keys that a type cannot do without: all of them, or at least one.
fn required_keys(kind: &str) -> &'static [&'static str] {
    match kind {
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        _ => &[],
    }
}

fn validate(secret: &Value, errors: &mut ErrorList) {
    let path = Path::new("data");
    let mut bytes = 0;
    for (key, value) in secret.entries_at(&["data"]) {
        errors.invalid_each(&path.key(key), key, names::config_key(key));
        bytes += value.as_str().unwrap_or_default().len() / 4 * 3;
    }
    if bytes > BYTES_MAX {
        errors.too_long(&path, BYTES_MAX);
    }
    let kind = secret.str_at(&["type"]);
    let has = |key: &str| !secret.at(&["data", key]).is_null();
    for key in required_keys(kind).iter().filter(|key| !has(key)) {
        errors.required(&path.key(key), "");
    }
    if kind == "kubernetes.io/basic-auth" && !has("username") && !has("password") {
        errors.required(&path.key("username"), "");
        errors.required(&path.key("password"), "");
    }
    let account = "kubernetes.io/service-account.name";
    if kind == "kubernetes.io/service-account-token" && secret.str_at(&["metadata", "annotations", account]).is_empty()
    {
        errors.required(&Path::new("metadata.annotations").key(account), "");
    }
    for key in [".dockercfg", ".dockerconfigjson"].iter().filter(|key| required_keys(kind).contains(key) && has(key)) {
        let decoded = BASE64_STANDARD.decode(secret.str_at(&["data", key])).unwrap_or_default();
        if let Err(error) = Value::from_json(&decoded) {
            errors.invalid(&path.key(key), "<secret contents redacted>", error.to_string());
        }
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    immutable(new.get("type"), old.get("type"), &Path::new("type"), errors);
    validate_frozen(new, old, &["data"], errors);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::tree;

    #[test]
    fn plain_text_becomes_data() {
        let mut secret = tree(r#"{"data":{"a":"YQ=="},"stringData":{"b":"c"}}"#);
        default(&mut secret, "v1");
        assert_eq!(secret, tree(r#"{"type":"Opaque","data":{"a":"YQ==","b":"Yw=="}}"#));
    }

    #[test]
    fn a_type_needs_its_keys() {
        let mut errors = ErrorList::default();
        validate(&tree(r#"{"type":"kubernetes.io/tls","data":{"tls.crt":"YQ=="}}"#), &mut errors);
        assert_eq!(errors.to_string(), "data[tls.key]: Required value");
    }
}
