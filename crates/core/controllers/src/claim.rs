//! Adoption and release: which objects a controller counts as its own, by owner reference and selector.

use std::sync::Arc;

use coracle_meta::{Object, Resource};
use coracle_reconcile::{Index, View, Write};
use serde_json::{Value, json};

use crate::selector::Selector;
use crate::shape::Item;

/// What a claim found, and the writes that make it so.
#[derive(Default)]
pub struct Claimed {
    pub items: Vec<Item>,
    pub writes: Vec<Write>,
}

/// Who claims, and what.
pub struct Claim<'a> {
    pub owner: &'a Item,
    pub api_version: &'a str,
    pub kind: &'a str,
    pub selector: &'a Selector,
    pub resource: &'a Resource,
    /// Given to what is adopted, taken from what is released.
    pub finalizer: Option<&'a str>,
}

impl Claim<'_> {
    /// Owned objects that match are kept and others released; orphans that match are adopted unless either side is
    /// on its way out.
    pub fn run(&self, view: &dyn View, wanted: impl Fn(&Item) -> bool) -> Claimed {
        let mut claimed = Claimed::default();
        let going = self.owner.meta().is_deleting();
        for object in self.candidates(view) {
            let matches = self.selector.matches(&object.meta);
            let owned = self.owner.controls(&object.meta);
            if !owned && (!matches || object.meta.controller().is_some()) {
                continue;
            }
            let item = Item::of(object);
            if !wanted(&item) {
                continue;
            }
            match (owned, matches) {
                (true, true) => claimed.items.push(item),
                (true, false) if !going => claimed.writes.push(self.release(&item)),
                (false, true) if !going && !item.meta().is_deleting() => {
                    claimed.writes.push(self.adopt(&item));
                    claimed.items.push(item);
                }
                _ => {}
            }
        }
        claimed
    }

    /// What the owner controls and what nobody does, in the order of names.
    fn candidates(&self, view: &dyn View) -> Vec<Arc<Object>> {
        let mut found = view.by_index(self.resource, Index::Owner, self.owner.uid());
        found.retain(|object| self.owner.controls(&object.meta) && object.meta.namespace == self.owner.namespace());
        found.extend(view.by_index(self.resource, Index::Uncontrolled, self.owner.namespace()));
        found.sort_by(|left, right| left.meta.name.cmp(&right.meta.name));
        found
    }

    fn adopt(&self, item: &Item) -> Write {
        let mut owners = item.list("/metadata/ownerReferences").to_vec();
        owners.push(self.owner.controller_reference(self.api_version, self.kind));
        let mut patch = json!({"metadata": {"ownerReferences": owners}});
        if let Some(finalizer) = self.finalizer.filter(|finalizer| !has_finalizer(item, finalizer)) {
            let mut finalizers = item.list("/metadata/finalizers").to_vec();
            finalizers.push(json!(finalizer));
            patch["metadata"]["finalizers"] = json!(finalizers);
        }
        item.patch_this_version(self.resource, patch)
    }

    fn release(&self, item: &Item) -> Write {
        let owners = item.list("/metadata/ownerReferences").iter();
        let owners: Vec<&Value> = owners.filter(|owner| owner["uid"] != self.owner.uid()).collect();
        let mut patch = json!({"metadata": {"ownerReferences": or_null(&owners)}});
        if let Some(finalizer) = self.finalizer.filter(|finalizer| has_finalizer(item, finalizer)) {
            patch["metadata"]["finalizers"] = finalizers_without(item, finalizer);
        }
        item.patch_this_version(self.resource, patch)
    }
}

pub fn has_finalizer(item: &Item, finalizer: &str) -> bool {
    item.meta().finalizers.iter().any(|held| held == finalizer)
}

/// The finalizers that stay, as a patch writes them.
pub fn finalizers_without(item: &Item, finalizer: &str) -> Value {
    let kept: Vec<&Value> = item.list("/metadata/finalizers").iter().filter(|held| *held != finalizer).collect();
    or_null(&kept)
}

fn or_null(list: &[&Value]) -> Value {
    if list.is_empty() { Value::Null } else { json!(list) }
}
