//! Reading objects as trees and making the writes that every controller makes: status patches, owner references,
//! events, conditions.

use std::sync::{Arc, OnceLock};

use coracle_meta::object::Projection;
use coracle_meta::{Object, Resource};
use coracle_reconcile::plan::{EventKind, EventNote, merge_patch};
use coracle_reconcile::{Key, View, Write};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// An object and its tree, which is made when the first field is asked for that the metadata does not tell.
#[derive(Clone)]
pub struct Item {
    pub object: Arc<Object>,
    tree: OnceLock<Arc<Value>>,
}

impl Item {
    pub fn of(object: Arc<Object>) -> Item {
        Item { object, tree: OnceLock::new() }
    }

    pub fn get(view: &dyn View, resource: &Resource, key: &Key) -> Option<Item> {
        Some(Item::of(view.get(resource, &key.namespace, &key.name)?))
    }

    pub fn all(objects: Vec<Arc<Object>>) -> Vec<Item> {
        objects.into_iter().map(Item::of).collect()
    }

    /// The whole object; null for one that is not JSON, which only a bug of the server makes.
    pub fn tree(&self) -> &Value {
        self.tree.get_or_init(|| self.object.decode().unwrap_or_default())
    }

    pub fn meta(&self) -> &Projection {
        &self.object.meta
    }

    pub fn name(&self) -> &str {
        &self.object.meta.name
    }

    pub fn namespace(&self) -> &str {
        &self.object.meta.namespace
    }

    pub fn uid(&self) -> &str {
        &self.object.meta.uid
    }

    pub fn at(&self, pointer: &str) -> &Value {
        self.tree().pointer(pointer).unwrap_or(&Value::Null)
    }

    pub fn text(&self, pointer: &str) -> &str {
        self.at(pointer).as_str().unwrap_or_default()
    }

    pub fn int(&self, pointer: &str) -> i64 {
        self.at(pointer).as_i64().unwrap_or(0)
    }

    pub fn list(&self, pointer: &str) -> &[Value] {
        self.at(pointer).as_array().map(Vec::as_slice).unwrap_or_default()
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.at("/metadata/annotations").get(key)?.as_str()
    }

    pub fn created(&self) -> Timestamp {
        time(self.at("/metadata/creationTimestamp")).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    /// The controlling owner is this object.
    pub fn controls(&self, other: &Projection) -> bool {
        other.controller().is_some_and(|owner| owner.uid == self.uid())
    }

    /// An owner reference that makes this object the controller.
    pub fn controller_reference(&self, api_version: &str, kind: &str) -> Value {
        json!({"apiVersion": api_version, "kind": kind, "name": self.name(), "uid": self.uid(),
               "controller": true, "blockOwnerDeletion": true})
    }

    /// A patch of the object or a subresource, given only the members that change.
    pub fn patch(&self, resource: &Resource, subresource: Option<&'static str>, patch: Value) -> Write {
        Write::Patch {
            resource: resource.clone(),
            namespace: self.namespace().into(),
            name: self.name().into(),
            subresource,
            uid: self.uid().into(),
            resource_version: None,
            patch,
        }
    }

    /// As `patch`, refused when the object has changed since: for patches that replace lists others write too.
    pub fn patch_this_version(&self, resource: &Resource, patch: Value) -> Write {
        let mut write = self.patch(resource, None, patch);
        if let Write::Patch { resource_version, .. } = &mut write {
            *resource_version = Some(self.object.revision.to_string());
        }
        write
    }

    /// The write that makes the status this one, if it is not already.
    pub fn status_write(&self, resource: &Resource, status: &Value) -> Option<Write> {
        let old = self.at("/status");
        let empty = json!({});
        let old = if old.is_null() { &empty } else { old };
        let patch = merge_patch(old, status)?;
        Some(self.patch(resource, Some("status"), json!({"status": patch})))
    }

    pub fn delete(&self, resource: &Resource) -> Write {
        Write::Delete {
            resource: resource.clone(),
            namespace: self.namespace().into(),
            name: self.name().into(),
            uid: self.uid().into(),
            resource_version: None,
            grace_seconds: None,
            propagation: None,
        }
    }

    /// An event about this object.
    pub fn note(&self, kind: EventKind, reason: &'static str, message: impl Into<String>) -> EventNote {
        let mut regarding = json!({"apiVersion": self.text("/apiVersion"), "kind": self.text("/kind"),
            "name": self.name(), "uid": self.uid()});
        if !self.namespace().is_empty() {
            regarding["namespace"] = json!(self.namespace());
        }
        EventNote { regarding, kind, reason, message: message.into(), of_write: None }
    }
}

/// A time as objects write it.
pub fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// So much later; the end of time where there is no such time, since objects may name any time and any number.
pub fn later(time: Timestamp, wait: SignedDuration) -> Timestamp {
    time.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// Whole seconds, as `meta/v1 Time` is written.
pub fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Writes a count the way Go's `omitempty` does: zero is left out.
pub fn set_count(status: &mut Value, key: &str, count: i64) {
    if count == 0 {
        remove(status, key);
    } else {
        status[key] = json!(count);
    }
}

pub fn remove(map: &mut Value, key: &str) {
    if let Some(map) = map.as_object_mut() {
        map.shift_remove(key);
    }
}

/// The status as it stands, an empty map where there is none.
pub fn status_of(item: &Item) -> Value {
    match item.at("/status") {
        Value::Object(status) => Value::Object(status.clone()),
        _ => json!({}),
    }
}

pub fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Takes a condition out; an empty list goes too.
pub fn remove_condition(status: &mut Value, kind: &str) {
    if let Some(list) = status["conditions"].as_array_mut() {
        list.retain(|condition| condition["type"] != kind);
        if list.is_empty() {
            remove(status, "conditions");
        }
    } else if status["conditions"].is_null() {
        remove(status, "conditions");
    }
}

/// Replaces a condition, or adds it at the end. What stays the same in status keeps its transition time.
pub fn set_condition(status: &mut Value, mut new: Value) {
    let kind = new["type"].as_str().unwrap_or_default().to_owned();
    if let Some(old) = condition(status, &kind)
        && old["status"] == new["status"]
        && !old["lastTransitionTime"].is_null()
    {
        new["lastTransitionTime"] = old["lastTransitionTime"].clone();
    }
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    if let Some(list) = status["conditions"].as_array_mut() {
        match list.iter_mut().find(|condition| condition["type"] == *kind) {
            Some(old) => *old = new,
            None => list.push(new),
        }
    }
}

/// The key of the controlling owner, where it is of this kind of this group.
pub fn controller_key(object: &Object, group: &str, kind: &str) -> Option<Key> {
    let owner = object.meta.controller()?;
    let owner_group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    (owner.kind == kind && owner_group == group).then(|| Key::new(object.meta.namespace.clone(), owner.name.clone()))
}

/// An absolute number or a percentage of `total`.
pub fn scaled(value: &Value, total: i64, rounding: Rounding) -> Option<i64> {
    if let Some(number) = value.as_i64() {
        return Some(number);
    }
    let percent: i64 = value.as_str()?.strip_suffix('%')?.parse().ok()?;
    let hundredfold = i128::from(percent) * i128::from(total);
    let exact = match rounding {
        Rounding::Up => (hundredfold + 99).div_euclid(100),
        Rounding::Down => hundredfold.div_euclid(100),
    };
    // No count is larger.
    Some(exact.clamp(0, i32::MAX.into()) as i64)
}

#[derive(Clone, Copy)]
pub enum Rounding {
    Up,
    Down,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_either_way_and_end_where_counts_do() {
        let huge = format!("{}%", i64::MAX);
        let table = [
            (json!(3), 10, Some((3, 3))),
            (json!("25%"), 10, Some((3, 2))),
            (json!("0%"), 10, Some((0, 0))),
            (json!("100%"), 7, Some((7, 7))),
            (json!("10%"), 0, Some((0, 0))),
            (json!(huge), 10, Some((i32::MAX.into(), i32::MAX.into()))),
            (json!("many"), 10, None),
            (Value::Null, 10, None),
        ];
        for (value, total, wanted) in table {
            let both = scaled(&value, total, Rounding::Up).zip(scaled(&value, total, Rounding::Down));
            assert_eq!(both, wanted, "{value}");
        }
    }

    #[test]
    fn time_has_an_end() {
        let end: Timestamp = "9999-12-30T00:00:00Z".parse().unwrap();
        assert_eq!(later(end, SignedDuration::from_secs(60)).to_string(), "9999-12-30T00:01:00Z");
        assert_eq!(later(end, SignedDuration::from_secs(i64::MAX)), Timestamp::MAX);
    }
}
