//! JSON merge patch, RFC 7386: members replace, null removes, everything but a map replaces whole.

use coracle_meta::Value;

pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Map(members) = patch else {
        *target = patch.clone();
        return;
    };
    if !matches!(target, Value::Map(_)) {
        *target = Value::map();
    }
    let Value::Map(map) = target else { return };
    for (key, value) in members.iter() {
        if value.is_null() {
            map.remove(key);
        } else {
            merge_patch(map.entry(key), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc_hold() {
        for (target, patch, result) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, r#"{}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":"foo"}"#, r#"null"#, r#"null"#),
            (r#"{}"#, r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            let mut value = Value::from_json(target.as_bytes()).unwrap();
            merge_patch(&mut value, &Value::from_json(patch.as_bytes()).unwrap());
            assert_eq!(value, Value::from_json(result.as_bytes()).unwrap(), "{target} {patch}");
        }
    }
}
