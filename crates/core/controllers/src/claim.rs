//! Adoption and release: which objects a controller counts as its own, by owner reference and selector.

use std::sync::Arc;
use std::time::Duration;

use coracle_meta::{Object, Resource};
use coracle_reconcile::{Answer, Ask, Index, Outcome, Plan, View, Write};
use serde_json::{Value, json};

use crate::selector::Selector;
use crate::shape::Item;

/// What a claim found, and the writes that make it so.
#[derive(Default)]
pub struct Claimed {
    pub items: Vec<Item>,
    pub writes: Vec<Write>,
    /// Before anything is adopted, the store must say that the owner lives: what a dead one adopts is collected with it.
    /// Until it has, this is all there is to do.
    pub wait: Option<Plan>,
}

/// Until the store is asked again that did not answer.
const NEXT_LOOK: Duration = Duration::from_secs(1);

/// Who claims, and what.
pub struct Claim<'a> {
    pub owner: &'a Item,
    pub owners: &'a Resource,
    pub api_version: &'a str,
    pub kind: &'a str,
    pub selector: &'a Selector,
    pub resource: &'a Resource,
    /// Given to what is adopted, taken from what is released.
    pub finalizer: Option<&'a str>,
    /// What the store said of the owner.
    pub last: &'a Outcome,
}

/// Whether a claimant may adopt.
enum May {
    Adopt,
    NotAdopt,
    Wait(Plan),
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
                (false, true) if !going && !item.meta().is_deleting() => match self.may_adopt() {
                    May::Adopt => {
                        claimed.writes.push(self.adopt(&item));
                        claimed.items.push(item);
                    }
                    May::NotAdopt => {}
                    May::Wait(plan) => claimed.wait = Some(plan),
                },
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

    fn may_adopt(&self) -> May {
        let (namespace, name) = (self.owner.namespace().to_owned(), self.owner.name().to_owned());
        let ask = Ask::Read { resource: self.owners.clone(), namespace, name };
        match self.last.answer(&ask) {
            Some(Answer::Object(Some(found))) => {
                let metadata = &found["metadata"];
                let lives = metadata["uid"] == self.owner.uid() && metadata["deletionTimestamp"].is_null();
                if lives { May::Adopt } else { May::NotAdopt }
            }
            Some(Answer::Object(None)) => May::NotAdopt,
            Some(_) => May::Wait(Plan::wake(NEXT_LOOK)),
            None => May::Wait(Plan { asks: vec![ask], ..Plan::default() }),
        }
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
