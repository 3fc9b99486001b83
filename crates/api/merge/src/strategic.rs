//! Strategic merge patch: a merge patch that knows of each list whether it is merged, and by which member its elements
//! are told apart. Source of the rules and of the errors' wording: Kubernetes
//! `apimachinery/pkg/util/strategicpatch/patch.go`. It exists because kubectl's edits are sent in this form.

mod order;

use coracle_meta::{Map, Value};
use coracle_schema::{AnyForm, Field, Schema, Shape, TypeId};

use crate::go::{go_text, go_type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList";
const SET_ORDER: &str = "$setElementOrder";

/// Why a strategic merge patch was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrategicPatchError {
    #[error("invalid JSON document")]
    Document,
    #[error("invalid patch format of primitive list")]
    PrimitiveList,
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    #[error("invalid patch format of setElementOrder list")]
    SetElementOrder,
    #[error("lists of lists are not supported")]
    ListOfLists,
    /// A patch that does not fit the object or its type.
    #[error("{0}")]
    Unfit(String),
}

type Merged<T> = Result<T, StrategicPatchError>;

/// Merges `patch` into `target`, an object of type `id`. On failure the target is left half merged: patch a copy.
pub fn strategic_merge_patch(schema: &Schema, id: TypeId, target: &mut Value, patch: &Value) -> Merged<()> {
    let (Value::Map(target), Value::Map(patch)) = (target, patch) else { return Err(StrategicPatchError::Document) };
    Walk { schema }.map(target, patch.clone(), &Shape::Message(id))
}

struct Walk<'a> {
    schema: &'a Schema,
}

impl<'a> Walk<'a> {
    fn map(&self, original: &mut Map, mut patch: Map, shape: &Shape) -> Merged<()> {
        if let Some(directive) = patch.remove(DIRECTIVE) {
            *original = match directive.as_str() {
                Some("replace") => patch,
                Some("delete") => Map::default(),
                _ => return Err(unknown_directive(&directive, &patch)),
            };
            return Ok(());
        }
        retain_keys(original, &mut patch)?;
        self.ordered_lists(original, &mut patch, shape)?;
        for (key, value) in patch.iter() {
            match key.split_once('/').filter(|(prefix, _)| *prefix == DELETE_FROM_LIST) {
                Some((_, list)) => self.delete_from_list(original, list, value, shape)?,
                None if key.starts_with(DELETE_FROM_LIST) => return Err(StrategicPatchError::PrimitiveList),
                None => self.member(original, key, value, shape)?,
            }
        }
        Ok(())
    }

    fn member(&self, original: &mut Map, key: &str, patch: &Value, shape: &Shape) -> Merged<()> {
        if patch.is_null() {
            original.remove(key);
            return Ok(());
        }
        match (original.get_mut(key), patch) {
            (Some(Value::Map(old)), Value::Map(new)) => {
                let field = self.field(shape, key)?;
                self.map(old, new.clone(), &field.shape)?;
            }
            (Some(Value::List(old)), Value::List(new)) => {
                let (field, element) = self.list_field(shape, key)?;
                *old = match field.patch.merge {
                    true => self.list(std::mem::take(old), new, element, &field.patch.merge_key)?,
                    false => new.clone(),
                };
            }
            _ => match cleaned(patch) {
                Some(value) => drop(original.insert(key, value)),
                None => drop(original.remove(key)),
            },
        }
        Ok(())
    }

    fn delete_from_list(&self, original: &mut Map, key: &str, patch: &Value, shape: &Shape) -> Merged<()> {
        if patch.is_null() {
            original.remove(key);
            return Ok(());
        }
        let (Some(Value::List(old)), Value::List(gone)) = (original.get_mut(key), patch) else { return Ok(()) };
        let (field, element) = self.list_field(shape, key)?;
        match order::element_form([old.as_slice(), gone])? {
            Some(order::Form::Map) => {
                *old = self.list(std::mem::take(old), gone, element, &field.patch.merge_key)?;
            }
            _ => old.retain(|item| !gone.contains(item)),
        }
        Ok(())
    }

    /// Merges and orders the lists that come with a `$setElementOrder`, and takes them out of the patch.
    fn ordered_lists(&self, original: &mut Map, patch: &mut Map, shape: &Shape) -> Merged<()> {
        let orders: Vec<String> = patch.keys().filter(|key| key.starts_with(SET_ORDER)).map(str::to_owned).collect();
        for directive in orders {
            let wanted = patch.remove(&directive).unwrap_or_default();
            let Value::List(wanted) = wanted else { return Err(bad_type("[]interface {}", &wanted)) };
            let key = directive.split_once('/').filter(|(prefix, _)| *prefix == SET_ORDER);
            let (_, key) = key.ok_or(StrategicPatchError::SetElementOrder)?;
            let old = list_of(original.get(key))?;
            let new = list_of(patch.get(key))?;
            let (field, element) = self.list_field(shape, key)?;
            let merge_key = field.patch.merge_key.as_str();
            order::check(new.as_deref().unwrap_or_default(), &wanted, merge_key)?;
            let merged = match (&old, &new) {
                (None, None) => continue,
                (Some(old), None) => old.clone(),
                (None, Some(new)) => new.iter().filter_map(cleaned).collect(),
                (Some(old), Some(new)) if field.patch.merge => self.list(old.clone(), new, element, merge_key)?,
                (Some(_), Some(new)) => new.clone(),
            };
            let merged = order::arrange(merged, &wanted, old.as_deref().unwrap_or_default(), merge_key)?;
            original.insert(key, merged);
            patch.remove(key);
        }
        Ok(())
    }

    fn list(&self, original: Vec<Value>, patch: &[Value], element: &Shape, merge_key: &str) -> Merged<Vec<Value>> {
        let Some(form) = order::element_form([original.as_slice(), patch])? else { return Ok(original) };
        if form == order::Form::Scalar {
            let mut merged = Vec::with_capacity(original.len() + patch.len());
            for item in original.iter().chain(patch) {
                if !merged.contains(item) {
                    merged.push(item.clone());
                }
            }
            return order::arrange(merged, patch, &original, "");
        }
        if merge_key.is_empty() {
            let kind = go_kind(element);
            return Err(StrategicPatchError::Unfit(format!("cannot merge lists without merge key for {kind}")));
        }
        let (kept, patch) = directives(&original, patch, merge_key)?;
        let mut merged = kept.clone();
        for item in &patch {
            let value = order::key_of(item, merge_key)?;
            match merged.iter_mut().find(|old| old.get(merge_key) == value) {
                Some(Value::Map(old)) => self.map(old, item.as_map().cloned().unwrap_or_default(), element)?,
                _ => merged.push(item.clone()),
            }
        }
        order::arrange(merged, &patch, &kept, merge_key)
    }

    fn field(&self, shape: &Shape, key: &str) -> Merged<&'a Field> {
        let Shape::Message(id) = shape else {
            return Err(StrategicPatchError::Unfit(match shape {
                Shape::Any(form) => no_field(opaque_name(*form), key),
                other => {
                    format!("merging an object in json but data type is not struct, instead is: {}", go_kind(other))
                }
            }));
        };
        let made = self.schema.get(*id);
        let found = made.field(key).or_else(|| made.fields().iter().find(|field| field.name.eq_ignore_ascii_case(key)));
        found.ok_or_else(|| StrategicPatchError::Unfit(no_field(made.short_name(), key)))
    }

    fn list_field(&self, shape: &Shape, key: &str) -> Merged<(&'a Field, &'a Shape)> {
        let field = self.field(shape, key)?;
        match &field.shape {
            Shape::List(element) if matches!(**element, Shape::List(_)) => {
                Err(StrategicPatchError::Unfit("unexpected slice of slice".into()))
            }
            Shape::List(element) => Ok((field, element)),
            _ => Err(StrategicPatchError::Unfit("expected slice or array type, but got: struct".into())),
        }
    }
}

fn retain_keys(original: &mut Map, patch: &mut Map) -> Merged<()> {
    let Some(kept) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let kept = kept.as_list().ok_or(StrategicPatchError::RetainKeys)?;
    let is_kept = |key: &str| kept.iter().any(|name| name.as_str() == Some(key));
    let is_free = |key: &str| key.starts_with(DELETE_FROM_LIST) || key.starts_with(SET_ORDER);
    if patch.iter().any(|(key, value)| !value.is_null() && !is_free(key) && !is_kept(key)) {
        return Err(StrategicPatchError::RetainKeys);
    }
    original.retain(|key, _| is_kept(key));
    Ok(())
}

/// Does what the list's elements with `$patch` say; returns the list as it then is, and the patch's other elements.
fn directives(original: &[Value], patch: &[Value], merge_key: &str) -> Merged<(Vec<Value>, Vec<Value>)> {
    let (mut kept, mut rest, mut replace) = (original.to_vec(), Vec::new(), false);
    for item in patch {
        match (item.get(DIRECTIVE), item.get(DIRECTIVE).as_str()) {
            (Value::Null, _) => rest.push(item.clone()),
            (_, Some("delete")) => {
                let value = order::key_of(item, merge_key)?;
                kept.retain(|old| old.get(merge_key) != value);
            }
            (_, Some("replace")) => replace = true,
            (_, Some("merge")) => {
                return Err(StrategicPatchError::Unfit("merging lists cannot yet be specified in the patch".into()));
            }
            (other, _) => return Err(unknown_directive(other, item.as_map().unwrap_or(&Map::default()))),
        }
    }
    Ok(if replace { (rest, Vec::new()) } else { (kept, rest) })
}

/// The value without nulls in its maps and without what stands for a directive; `None` where it is one.
fn cleaned(value: &Value) -> Option<Value> {
    match value {
        Value::Map(map) if map.contains(DIRECTIVE) => None,
        Value::Map(map) => {
            let members = map.iter().filter(|(_, member)| !member.is_null());
            Some(Value::Map(members.filter_map(|(key, member)| Some((key, cleaned(member)?))).collect()))
        }
        Value::List(items) => Some(Value::List(items.iter().filter_map(cleaned).collect())),
        other => Some(other.clone()),
    }
}

fn list_of(value: Option<&Value>) -> Merged<Option<Vec<Value>>> {
    match value {
        None => Ok(None),
        Some(Value::List(items)) => Ok(Some(items.clone())),
        Some(other) => Err(bad_type("[]interface {}", other)),
    }
}

fn bad_type(expected: &str, value: &Value) -> StrategicPatchError {
    StrategicPatchError::Unfit(format!("expected a {expected}, but received a {}", go_type(value)))
}

fn unknown_directive(directive: &Value, map: &Map) -> StrategicPatchError {
    let mut map = map.clone();
    map.insert(DIRECTIVE, directive.clone());
    let map = go_text(&Value::Map(map));
    StrategicPatchError::Unfit(format!("unknown patch type: {} in map: {map}", go_text(directive)))
}

fn no_field(name: &str, key: &str) -> String {
    format!("unable to find api field in struct {name} for the json field {}", coracle_meta::field::quote(key))
}

fn opaque_name(form: AnyForm) -> &'static str {
    match form {
        AnyForm::Raw => "FieldsV1",
        AnyForm::SchemaOrBool(_) => "JSONSchemaPropsOrBool",
        AnyForm::SchemaOrArray(_) => "JSONSchemaPropsOrArray",
        AnyForm::SchemaOrStrings(_) => "JSONSchemaPropsOrStringArray",
    }
}

fn go_kind(shape: &Shape) -> &'static str {
    match shape {
        Shape::Map(_) => "map",
        Shape::List(_) | Shape::Bytes => "slice",
        Shape::Bool => "bool",
        Shape::Int32 => "int32",
        Shape::Int64 => "int64",
        Shape::Float => "float64",
        Shape::String => "string",
        _ => "struct",
    }
}

#[cfg(test)]
mod tests {
    use coracle_meta::GroupVersionKind;

    use super::*;

    fn json(text: &str) -> Value {
        Value::from_json(text.as_bytes()).unwrap()
    }

    fn patched(target: &str, patch: &str) -> Merged<Value> {
        let schema = Schema::builtin();
        let id = schema.kind(&GroupVersionKind::parse("v1", "Pod").unwrap()).unwrap();
        let mut target = json(target);
        strategic_merge_patch(schema, id, &mut target, &json(patch)).map(|()| target)
    }

    #[test]
    fn patches_merge_as_upstream_merges_them() {
        let two = r#"{"spec":{"containers":[{"name":"a","image":"1"},{"name":"b","image":"2"}]}}"#;
        let tables = [
            (
                r#"{"metadata":{"labels":{"a":"1","b":"2"}}}"#,
                r#"{"metadata":{"labels":{"a":null,"c":"3"}}}"#,
                r#"{"metadata":{"labels":{"b":"2","c":"3"}}}"#,
            ),
            (
                two,
                r#"{"spec":{"containers":[{"name":"b","image":"3"}]}}"#,
                r#"{"spec":{"containers":[{"name":"a","image":"1"},{"name":"b","image":"3"}]}}"#,
            ),
            (
                two,
                r#"{"spec":{"containers":[{"name":"a","$patch":"delete"}]}}"#,
                r#"{"spec":{"containers":[{"name":"b","image":"2"}]}}"#,
            ),
            (
                two,
                r#"{"spec":{"containers":[{"name":"c","image":"3"},{"$patch":"replace"}]}}"#,
                r#"{"spec":{"containers":[{"name":"c","image":"3"}]}}"#,
            ),
            (
                two,
                r#"{"spec":{"$setElementOrder/containers":[{"name":"c"},{"name":"b"},{"name":"a"}],
                "containers":[{"name":"c","image":"3"}]}}"#,
                r#"{"spec":{"containers":[{"name":"c","image":"3"},{"name":"b","image":"2"},{"name":"a","image":"1"}]}}"#,
            ),
            (
                two,
                r#"{"spec":{"containers":[{"name":"c"}]}}"#,
                r#"{"spec":{"containers":[{"name":"c"},{"name":"a","image":"1"},{"name":"b","image":"2"}]}}"#,
            ),
            (
                r#"{"metadata":{"finalizers":["a","b"]}}"#,
                r#"{"metadata":{"$deleteFromPrimitiveList/finalizers":["a"]}}"#,
                r#"{"metadata":{"finalizers":["b"]}}"#,
            ),
            (
                r#"{"metadata":{"finalizers":["a","b"]}}"#,
                r#"{"metadata":{"$setElementOrder/finalizers":["c","a","b"],"finalizers":["c"]}}"#,
                r#"{"metadata":{"finalizers":["c","a","b"]}}"#,
            ),
            (
                r#"{"spec":{"volumes":[{"name":"v","emptyDir":{}}]}}"#,
                r#"{"spec":{"volumes":[{"$retainKeys":["name","configMap"],"name":"v","configMap":{"name":"c"}}]}}"#,
                r#"{"spec":{"volumes":[{"name":"v","configMap":{"name":"c"}}]}}"#,
            ),
            (
                r#"{"spec":{"tolerations":[{"key":"a"}]}}"#,
                r#"{"spec":{"tolerations":[{"key":"b"}]}}"#,
                r#"{"spec":{"tolerations":[{"key":"b"}]}}"#,
            ),
            (
                r#"{"spec":{"nodeSelector":{"a":"1"}}}"#,
                r#"{"spec":{"nodeSelector":{"$patch":"replace","b":"2"}}}"#,
                r#"{"spec":{"nodeSelector":{"b":"2"}}}"#,
            ),
            (
                r#"{"spec":{"securityContext":{"runAsUser":1}}}"#,
                r#"{"spec":{"securityContext":{"$patch":"delete"}}}"#,
                r#"{"spec":{"securityContext":{}}}"#,
            ),
            (two, "{}", two),
        ];
        for (target, patch, expected) in tables {
            assert_eq!(patched(target, patch).unwrap(), json(expected), "{target} {patch}");
        }
    }

    #[test]
    fn refusals_are_worded_as_upstream() {
        let pod = r#"{"spec":{"containers":[{"name":"a"}],"x":{}},"metadata":{"finalizers":["a"]}}"#;
        let table = [
            (
                r#"{"spec":{"containers":[{"image":"b"}]}}"#,
                "map: map[image:b] does not contain declared merge key: name",
            ),
            (r#"{"spec":{"containers":["a"]}}"#, "list element types are not identical: [[map[name:a]] [a]]"),
            (r#"{"spec":{"x":{}}}"#, "unable to find api field in struct PodSpec for the json field \"x\""),
            (r#"{"spec":{"$patch":"other"}}"#, "unknown patch type: other in map: map[$patch:other]"),
            (
                r#"{"metadata":{"$setElementOrder/finalizers":["a"],"finalizers":["b"]}}"#,
                "The order in patch list:\n[b]\n doesn't match $setElementOrder list:\n[a]\n",
            ),
            (r#"{"spec":{"$retainKeys":["a"],"b":1}}"#, "invalid patch format of retainKeys"),
        ];
        for (patch, message) in table {
            assert_eq!(patched(pod, patch).unwrap_err().to_string(), message, "{patch}");
        }
    }
}
