//! Finalizers that hold an object as long as something uses it: added to what lives, taken from what goes unused.

use coracle_meta::Resource;
use coracle_reconcile::{Plan, Write};
use serde_json::json;

use crate::claim::{finalizers_without, has_finalizer};
use crate::shape::Item;

/// What a protection wants of an object.
pub enum Need {
    /// It has what it needs.
    Nothing,
    /// It lives and lacks the finalizer.
    Add,
    /// It goes, and is held: only by right while it is used.
    Judge,
}

pub fn need(item: &Item, finalizer: &str) -> Need {
    match (item.meta().is_deleting(), has_finalizer(item, finalizer)) {
        (true, true) => Need::Judge,
        (false, false) => Need::Add,
        _ => Need::Nothing,
    }
}

pub fn add(item: &Item, resource: &Resource, finalizer: &str) -> Plan {
    let mut finalizers = item.list("/metadata/finalizers").to_vec();
    finalizers.push(json!(finalizer));
    write(item.patch_this_version(resource, json!({"metadata": {"finalizers": finalizers}})))
}

pub fn remove(item: &Item, resource: &Resource, finalizer: &str) -> Plan {
    let patch = json!({"metadata": {"finalizers": finalizers_without(item, finalizer)}});
    write(item.patch_this_version(resource, patch))
}

fn write(write: Write) -> Plan {
    Plan { writes: vec![write], ..Plan::default() }
}
