//! What a decision asks for, as data: writes, events, questions to the outside and when to look again.

use std::time::Duration;

use coracle_meta::Resource;
use serde_json::Value;

/// The steps of one decision, carried out in order; the first that fails ends the plan, and the next decision is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub writes: Vec<Write>,
    pub events: Vec<EventNote>,
    /// Questions whose answers come back in the next decision's `Outcome`.
    pub asks: Vec<Ask>,
    /// Look at this key again after this time, whatever happens. There is no other timer.
    pub wake_after: Option<Duration>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.events.is_empty() && self.asks.is_empty()
    }

    /// A plan that only looks again later.
    pub fn wake(after: Duration) -> Plan {
        Plan { wake_after: Some(after), ..Plan::default() }
    }

    /// Looks again after `after`, or earlier where that was planned already.
    pub fn wake_by(&mut self, after: Duration) {
        self.wake_after = Some(self.wake_after.map_or(after, |planned| planned.min(after)));
    }
}

/// One write. A patch carries only the fields that the decision changed.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// `object` carries apiVersion, kind and metadata.
    Create { resource: Resource, namespace: String, object: Value },
    /// A JSON merge patch (RFC 7386) of the object or a subresource, refused when the uid is another or, where one is
    /// given, the resource version has moved on.
    Patch {
        resource: Resource,
        namespace: String,
        name: String,
        subresource: Option<&'static str>,
        uid: String,
        resource_version: Option<String>,
        patch: Value,
    },
    /// Replaces a subresource that takes no patches (`finalize`). `object` carries apiVersion, kind and metadata.
    Replace { resource: Resource, namespace: String, name: String, subresource: &'static str, object: Value },
    Delete {
        resource: Resource,
        namespace: String,
        name: String,
        uid: String,
        resource_version: Option<String>,
        grace_seconds: Option<i64>,
        propagation: Option<Propagation>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// An event to record about an object. The driver fills in component, times and the count.
#[derive(Clone, Debug, PartialEq)]
pub struct EventNote {
    /// `v1 ObjectReference` of what the event is about.
    pub regarding: Value,
    pub kind: EventKind,
    pub reason: &'static str,
    /// `{name}` stands for the name of the object that `of_write` wrote.
    pub message: String,
    /// The write, by its place in the plan, without whose success there is nothing to tell.
    pub of_write: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Normal,
    Warning,
}

/// A question that a view cannot answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// Read an object from the store itself, past every cache. The answer is the object, or null when there is none.
    Read { resource: Resource, namespace: String, name: String },
    /// Read the scale of an object. The answer is the `autoscaling/v1 Scale`, or null where there is no such object.
    Scale { resource: Resource, namespace: String, name: String },
    /// Read a collection from the store itself. `namespace` is empty for all; `selector` is by labels.
    List { resource: Resource, namespace: String, selector: String },
    /// The resources that discovery offers now.
    Discovery,
    /// How many objects of each resource a namespace still holds.
    Remaining { namespace: String },
    /// Delete everything of one resource in a namespace.
    DeleteAll { resource: Resource, namespace: String },
    /// Create an object that is not kept, such as a review; the answer is what the server made of it.
    Review { resource: Resource, namespace: String, object: Value },
    /// Sign a certificate request with the cluster's authority; the answer is the certificate, PEM.
    Sign(SigningOrder),
    /// Sign the claims of a service account's token that does not expire; the answer is the token.
    Token { claims: Value },
}

/// What a certificate is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningOrder {
    /// PKCS#10, PEM.
    pub request: String,
    /// As `certificates.k8s.io` names them, `client auth`.
    pub usages: Vec<String>,
    pub seconds: u64,
}

/// The members of `new` that differ from `old`, as a merge patch; `None` where nothing differs. Lists are replaced whole.
pub fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return (old != new).then(|| new.clone());
    };
    let mut patch = serde_json::Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        let change = match old.get(key) {
            Some(was) => merge_patch(was, value),
            None => Some(value.clone()),
        };
        patch.extend(change.map(|change| (key.clone(), change)));
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_merge_patch_holds_only_what_changed() {
        let old = json!({"a": 1, "b": {"c": 1, "d": 2}, "gone": true});
        let new = json!({"a": 1, "b": {"c": 1, "d": 3}, "new": [1]});
        assert_eq!(merge_patch(&old, &new), Some(json!({"gone": null, "b": {"d": 3}, "new": [1]})));
        assert_eq!(merge_patch(&new, &new), None);
    }
}
