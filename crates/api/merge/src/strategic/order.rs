//! The order of a merged list: what the patch names stands in the patch's order, the rest in its own, and the two are
//! interleaved by where they stood before.

use coracle_meta::Value;

use super::{DIRECTIVE, Merged, SET_ORDER, StrategicPatchError, bad_type};
use crate::go::{go_text, go_type};

/// What the elements of a list are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Map,
    Scalar,
}

/// The one form that all elements have; `None` where there are no elements.
pub fn element_form(lists: [&[Value]; 2]) -> Merged<Option<Form>> {
    let mut items = lists.into_iter().flatten();
    let Some(first) = items.next() else { return Ok(None) };
    let kind = go_type(first);
    if items.any(|item| go_type(item) != kind) {
        let shown = lists.map(|list| go_text(&Value::List(list.to_vec()))).join(" ");
        return Err(StrategicPatchError::Unfit(format!("list element types are not identical: [{shown}]")));
    }
    match first {
        Value::List(_) => Err(StrategicPatchError::ListOfLists),
        Value::Map(_) => Ok(Some(Form::Map)),
        _ => Ok(Some(Form::Scalar)),
    }
}

/// The member that tells an element from others, or the element itself where there is no merge key.
pub fn key_of<'a>(item: &'a Value, merge_key: &str) -> Merged<&'a Value> {
    if merge_key.is_empty() {
        return Ok(item);
    }
    let map = item.as_map().ok_or_else(|| bad_type("map[string]interface {}", item))?;
    map.get(merge_key).ok_or_else(|| {
        let map = go_text(item);
        StrategicPatchError::Unfit(format!("map: {map} does not contain declared merge key: {merge_key}"))
    })
}

/// Refuses a patch whose elements stand in another order than its `$setElementOrder`, or are missing there.
pub fn check(patch: &[Value], wanted: &[Value], merge_key: &str) -> Merged<()> {
    if patch.is_empty() || wanted.is_empty() {
        return Ok(());
    }
    let mut rest = wanted.iter();
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_null()) {
        let key = key_of(item, merge_key)?;
        let mut found = false;
        for candidate in rest.by_ref() {
            if key_of(candidate, merge_key)? == key {
                found = true;
                break;
            }
        }
        if !found {
            let (patch, wanted) = (Value::List(patch.to_vec()), Value::List(wanted.to_vec()));
            return Err(StrategicPatchError::Unfit(format!(
                "The order in patch list:\n{}\n doesn't match {SET_ORDER} list:\n{}\n",
                go_text(&patch),
                go_text(&wanted)
            )));
        }
    }
    Ok(())
}

/// Puts `merged` in order: `first` leads the elements it names, `live` the others.
pub fn arrange(merged: Vec<Value>, first: &[Value], live: &[Value], merge_key: &str) -> Merged<Vec<Value>> {
    let place = |list: &[Value], item: &Value| {
        let key = |item: &Value| if merge_key.is_empty() { item.clone() } else { item.get(merge_key).clone() };
        let wanted = key(item);
        list.iter().position(|other| key(other) == wanted)
    };
    for item in merged.iter().chain(first) {
        key_of(item, merge_key)?;
    }
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| place(first, item).is_some());
    named.sort_by_key(|item| place(first, item));
    others.sort_by_key(|item| place(live, item));
    let mut out = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let other_first = match (named.peek(), others.peek()) {
            (None, None) => return Ok(out),
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (Some(named), Some(other)) => {
                matches!((place(live, other), place(live, named)), (Some(left), Some(right)) if left < right)
            }
        };
        out.extend(if other_first { others.next() } else { named.next() });
    }
}
