//! JSON patch, RFC 6902: operations at JSON pointers, all or none.

use coracle_meta::Value;

/// Most operations that one patch may hold, as upstream has it.
pub const OPERATIONS_MAX: usize = 10_000;

#[derive(Debug, thiserror::Error)]
pub enum JsonPatchError {
    #[error("the patch is not a list of operations")]
    Form,
    #[error("the allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {0}")]
    TooMany(usize),
    #[error("unexpected operation {0:?}")]
    Operation(String),
    #[error("{operation} operation does not apply: doc is missing path: {path:?}")]
    Missing { operation: String, path: String },
    #[error("testing value {path} failed")]
    Test { path: String },
}

pub fn json_patch(target: &mut Value, patch: &Value) -> Result<(), JsonPatchError> {
    let operations = patch.as_list().ok_or(JsonPatchError::Form)?;
    if operations.len() > OPERATIONS_MAX {
        return Err(JsonPatchError::TooMany(operations.len()));
    }
    let mut copy = target.clone();
    operations.iter().try_for_each(|operation| apply(&mut copy, operation))?;
    *target = copy;
    Ok(())
}

fn apply(target: &mut Value, operation: &Value) -> Result<(), JsonPatchError> {
    let (name, path) = (operation.str_at(&["op"]), operation.str_at(&["path"]));
    let missing = |path: &str| JsonPatchError::Missing { operation: name.to_owned(), path: path.to_owned() };
    let value = operation.get("value").clone();
    match name {
        "add" => add(target, path, value).ok_or_else(|| missing(path)),
        "remove" => remove(target, path).map(drop).ok_or_else(|| missing(path)),
        // The library behind Kubernetes replaces what a map does not have yet.
        "replace" => match parent(target, path) {
            Some((Value::Map(map), key)) => {
                map.insert(key, value);
                Ok(())
            }
            _ => {
                *find(target, path).ok_or_else(|| missing(path))? = value;
                Ok(())
            }
        },
        "move" => {
            let from = operation.str_at(&["from"]);
            let moved = remove(target, from).ok_or_else(|| missing(from))?;
            add(target, path, moved).ok_or_else(|| missing(path))
        }
        "copy" => {
            let from = operation.str_at(&["from"]);
            let copied = find(target, from).ok_or_else(|| missing(from))?.clone();
            add(target, path, copied).ok_or_else(|| missing(path))
        }
        "test" => {
            let found = find(target, path).map_or(Value::Null, |found| found.clone());
            if found == value { Ok(()) } else { Err(JsonPatchError::Test { path: path.to_owned() }) }
        }
        other => Err(JsonPatchError::Operation(other.to_owned())),
    }
}

fn steps(path: &str) -> Option<Vec<String>> {
    match path {
        "" => Some(Vec::new()),
        path => {
            let parts = path.strip_prefix('/')?.split('/');
            Some(parts.map(|part| part.replace("~1", "/").replace("~0", "~")).collect())
        }
    }
}

fn find<'a>(target: &'a mut Value, path: &str) -> Option<&'a mut Value> {
    steps(path)?.iter().try_fold(target, |value, step| match value {
        Value::Map(map) => map.get_mut(step),
        Value::List(items) => {
            let index = index_of(step, items.len())?;
            items.get_mut(index)
        }
        _ => None,
    })
}

fn index_of(step: &str, length: usize) -> Option<usize> {
    match step {
        "-" => Some(length),
        // Negative indices count from the end, which the library behind Kubernetes allows.
        _ => match step.parse::<i64>().ok()? {
            index if index < 0 => usize::try_from(index + length as i64).ok(),
            index => usize::try_from(index).ok(),
        },
    }
}

fn parent<'a>(target: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (above, last) = path.rsplit_once('/')?;
    let last = last.replace("~1", "/").replace("~0", "~");
    Some((find(target, above)?, last))
}

fn add(target: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        *target = value;
        return Some(());
    }
    match parent(target, path)? {
        (Value::Map(map), key) => {
            map.insert(key, value);
        }
        (Value::List(items), step) => {
            let index = index_of(&step, items.len()).filter(|index| *index <= items.len())?;
            items.insert(index, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(target: &mut Value, path: &str) -> Option<Value> {
    match parent(target, path)? {
        (Value::Map(map), key) => map.remove(&key),
        (Value::List(items), step) => {
            let index = index_of(&step, items.len()).filter(|index| *index < items.len())?;
            Some(items.remove(index))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_apply_in_order_or_not_at_all() {
        let mut value = Value::from_json(br#"{"a":[1,2],"b":{"x/y":1}}"#).unwrap();
        let patch = br#"[{"op":"add","path":"/a/-","value":3},{"op":"remove","path":"/a/0"},
            {"op":"replace","path":"/b/x~1y","value":2},{"op":"test","path":"/a","value":[2,3]},
            {"op":"move","from":"/b","path":"/c"}]"#;
        json_patch(&mut value, &Value::from_json(patch).unwrap()).unwrap();
        assert_eq!(value, Value::from_json(br#"{"a":[2,3],"c":{"x/y":2}}"#).unwrap());
        json_patch(&mut value, &Value::from_json(br#"[{"op":"replace","path":"/d","value":1}]"#).unwrap()).unwrap();
        assert_eq!(value.int_at(&["d"]), Some(1));
        let failing = br#"[{"op":"remove","path":"/a"},{"op":"test","path":"/c","value":1}]"#;
        let before = value.clone();
        assert!(json_patch(&mut value, &Value::from_json(failing).unwrap()).is_err());
        assert_eq!(value, before);
    }
}
