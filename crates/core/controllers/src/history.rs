//! ControllerRevisions: the templates a DaemonSet or StatefulSet had, which of them is the present one, and which
//! are too old to keep.

use coracle_meta::Resource;
use coracle_reconcile::{Key, Outcome, Plan, View, Write};
use serde_json::{Value, json};

use crate::claim::Claim;
use crate::deployment::revision::hash;
use crate::selector::Selector;
use crate::shape::Item;

pub const REVISIONS: Resource = Resource::new("apps", "controllerrevisions");

/// Whose history it is.
#[derive(Clone, Copy)]
pub struct Owner {
    pub resource: &'static Resource,
    pub kind: &'static str,
    /// The label of a revision that holds its hash.
    pub hash_label: &'static str,
}

/// The revisions of one owner, oldest first.
pub struct History {
    pub revisions: Vec<Item>,
    /// Adoption, release, and what `present` adds.
    pub writes: Vec<Write>,
    /// As a claim's.
    pub wait: Option<Plan>,
    owner: Owner,
}

/// The present revision, which may be made only now.
#[derive(Clone, Debug, PartialEq)]
pub struct Present {
    pub name: String,
    pub hash: String,
    /// Revisions of the same template that are one too many.
    pub doubles: Vec<String>,
}

/// A revision's name was taken by another template.
#[derive(Debug, PartialEq)]
pub struct Collision;

impl History {
    pub fn read(view: &dyn View, set: &Item, owner: Owner, last: &Outcome) -> History {
        let selector = Selector::parse(set.at("/spec/selector"));
        let claim = Claim {
            owner: set,
            owners: owner.resource,
            api_version: "apps/v1",
            kind: owner.kind,
            selector: &selector,
            resource: &REVISIONS,
            finalizer: None,
            last,
        };
        let mut claimed = claim.run(view, |_| true);
        claimed.items.sort_by_key(|item| (item.int("/revision"), item.created(), item.name().to_owned()));
        History { revisions: claimed.items, writes: claimed.writes, wait: claimed.wait, owner }
    }

    pub fn named(&self, name: &str) -> Option<&Item> {
        self.revisions.iter().find(|revision| revision.name() == name)
    }

    /// Finds the revision of the present template, makes it the newest, or creates it.
    pub fn present(&mut self, view: &dyn View, set: &Item) -> Result<Present, Collision> {
        let data = data_of(set.at("/spec/template"));
        let same = |revision: &&Item| without_nulls(revision.at("/data")) == data;
        let newest_other =
            self.revisions.iter().filter(|revision| !same(revision)).map(|item| item.int("/revision")).max();
        let next = newest_other.unwrap_or(0).saturating_add(1);
        let mut equal: Vec<Item> = self.revisions.iter().filter(same).cloned().collect();
        let Some(present) = equal.pop() else { return self.create(view, set, data, next) };
        if present.int("/revision") < next {
            self.writes.push(present.patch(&REVISIONS, None, json!({"revision": next})));
        }
        let hash = present.meta().label(self.owner.hash_label).unwrap_or(present.name()).to_owned();
        if present.meta().label(self.owner.hash_label).is_none() {
            let patch = json!({"metadata": {"labels": {self.owner.hash_label: hash}}});
            self.writes.push(present.patch(&REVISIONS, None, patch));
        }
        let doubles = equal.iter().map(|double| double.name().to_owned()).collect();
        Ok(Present { name: present.name().to_owned(), hash, doubles })
    }

    fn create(&mut self, view: &dyn View, set: &Item, data: Value, revision: i64) -> Result<Present, Collision> {
        let hash = hash(set.at("/spec/template"), set.at("/status/collisionCount").as_i64());
        let start = set.name();
        let name = format!("{}-{hash}", &start[..start.len().min(223)]);
        if let Some(taken) = Item::get(view, &REVISIONS, &Key::new(set.namespace(), name.as_str())) {
            // The same template under an owner that is gone: it is adopted once that shows.
            let same = without_nulls(taken.at("/data")) == data;
            return if same { Ok(Present { name, hash, doubles: Vec::new() }) } else { Err(Collision) };
        }
        let mut labels = set.at("/spec/template/metadata/labels").clone();
        labels[self.owner.hash_label] = json!(hash);
        let mut metadata = json!({"name": name, "labels": labels,
            "ownerReferences": [set.controller_reference("apps/v1", self.owner.kind)]});
        let annotations = set.at("/metadata/annotations");
        if !annotations.is_null() {
            metadata["annotations"] = annotations.clone();
        }
        let object = json!({"apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": metadata,
            "data": data, "revision": revision});
        let namespace = set.namespace().to_owned();
        self.writes.push(Write::Create { resource: REVISIONS, namespace, object });
        Ok(Present { name, hash, doubles: Vec::new() })
    }

    /// The oldest revisions beyond the limit, apart from those still in use.
    pub fn surplus(&self, limit: i64, in_use: impl Fn(&Item) -> bool) -> Vec<Write> {
        let unused: Vec<&Item> = self.revisions.iter().filter(|revision| !in_use(revision)).collect();
        let surplus = unused.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        unused.into_iter().take(surplus).map(|revision| revision.delete(&REVISIONS)).collect()
    }
}

/// A revision's data: a strategic merge patch that replaces the template. Clients compare its bytes with what they
/// would write themselves, so its members are in order.
fn data_of(template: &Value) -> Value {
    let mut template = template.clone();
    template["$patch"] = json!("replace");
    without_nulls(&json!({"spec": {"template": template}}))
}

/// Null members say nothing, whoever wrote them; the others in the order of their names.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut kept: Vec<_> = members.iter().filter(|(_, value)| !value.is_null()).collect();
            kept.sort_by_key(|(key, _)| *key);
            Value::Object(kept.into_iter().map(|(key, value)| (key.clone(), without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_of_a_revision_is_written_as_go_writes_maps() {
        let template = json!({"spec": {"containers": [{"name": "a", "image": "b"}], "x": null}, "metadata": {}});
        let expected = r#"{"spec":{"template":{"$patch":"replace","metadata":{},"spec":{"containers":[{"image":"b","name":"a"}]}}}}"#;
        assert_eq!(data_of(&template).to_string(), expected);
    }
}
