//! The objects of one resource in memory, ordered, with the indexes that views promise. Views over HTTPS and the
//! views of tests keep their objects here; it knows nothing of where they come from.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use coracle_meta::{Object, Resource};

use crate::controller::Key;
use crate::pod::PodFacts;
use crate::view::{Change, Index, is_adopted};

/// Objects by namespace and name, by owner and, if they are pods, by node. There may be very many of them: a key is held
/// once for all indexes, and so is what siblings have in common.
#[derive(Debug)]
pub struct ObjectTable {
    objects: BTreeMap<Arc<Key>, Arc<Object>>,
    by_owner: Lookup,
    /// By namespace; `None` where nobody adopts the objects.
    uncontrolled: Option<Lookup>,
    /// `None` where the objects are no pods.
    by_node: Option<Lookup>,
    /// The newest revision seen; 0 before the first list.
    pub revision: u64,
}

type Lookup = HashMap<String, BTreeSet<Arc<Key>>>;

impl ObjectTable {
    pub fn of(resource: &Resource) -> ObjectTable {
        let are_pods = resource.group.is_empty() && resource.plural == "pods";
        ObjectTable {
            objects: BTreeMap::new(),
            by_owner: HashMap::new(),
            uncontrolled: is_adopted(resource).then(HashMap::new),
            by_node: are_pods.then(HashMap::new),
            revision: 0,
        }
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.objects.get(&Key { namespace: namespace.into(), name: name.into() }).cloned()
    }

    pub fn count(&self) -> usize {
        self.objects.len()
    }

    pub fn list(&self, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let Some(namespace) = namespace else {
            return self.objects.values().cloned().collect();
        };
        let start = Key { namespace: namespace.into(), name: String::new() };
        let rest = self.objects.range::<Key, _>(&start..).take_while(|(key, _)| key.namespace == namespace);
        rest.map(|(_, object)| object.clone()).collect()
    }

    pub fn by_index(&self, index: Index, value: &str) -> Vec<Arc<Object>> {
        let keys = match index {
            Index::Owner => self.by_owner.get(value),
            Index::Uncontrolled => self.uncontrolled.as_ref().and_then(|uncontrolled| uncontrolled.get(value)),
            Index::Node => self.by_node.as_ref().and_then(|by_node| by_node.get(value)),
        };
        keys.into_iter().flatten().filter_map(|key| self.objects.get(key).cloned()).collect()
    }

    /// Adds or replaces an object.
    pub fn put(&mut self, mut object: Object) -> Change {
        let key = Key::of(&object);
        let (key, old) = match self.objects.remove_entry(&key) {
            Some((key, old)) => (key, Some(old)),
            None => (Arc::new(key), None),
        };
        if let Some(sibling) = old.as_ref().or_else(|| self.sibling(&object)) {
            object.meta.share(&sibling.meta);
        }
        let new = Arc::new(object);
        self.revision = self.revision.max(new.revision);
        self.objects.insert(key.clone(), new.clone());
        if let Some(old) = &old {
            self.unindex(&key, old);
        }
        self.index(&key, &new);
        Change { old, new: Some(new) }
    }

    /// Something else that the same owner has.
    fn sibling(&self, object: &Object) -> Option<&Arc<Object>> {
        let siblings = self.by_owner.get(&object.meta.owner_references.first()?.uid)?;
        self.objects.get(siblings.first()?)
    }

    /// Takes an object out, if it was there.
    pub fn remove(&mut self, key: &Key, revision: u64) -> Option<Change> {
        self.revision = self.revision.max(revision);
        let old = self.objects.remove(key)?;
        self.unindex(key, &old);
        Some(Change { old: Some(old), new: None })
    }

    /// Makes the table hold exactly `objects` and tells what that changed.
    pub fn replace(&mut self, objects: Vec<Object>, revision: u64) -> Vec<Change> {
        let present: BTreeSet<Key> = objects.iter().map(Key::of).collect();
        let gone: Vec<Arc<Key>> = self.objects.keys().filter(|key| !present.contains(&***key)).cloned().collect();
        let mut changes: Vec<Change> = gone.iter().filter_map(|key| self.remove(key, 0)).collect();
        for object in objects {
            let known = self.objects.get(&Key::of(&object));
            if known.is_none_or(|known| known.revision != object.revision || known.meta.uid != object.meta.uid) {
                changes.push(self.put(object));
            }
        }
        self.revision = self.revision.max(revision);
        changes
    }

    fn index(&mut self, key: &Arc<Key>, object: &Object) {
        for owner in object.meta.owner_references.iter() {
            self.by_owner.entry(owner.uid.clone()).or_default().insert(key.clone());
        }
        if let Some(uncontrolled) = &mut self.uncontrolled
            && object.meta.controller().is_none()
        {
            uncontrolled.entry(key.namespace.clone()).or_default().insert(key.clone());
        }
        let Some(by_node) = &mut self.by_node else { return };
        let node = &PodFacts::of(object).node;
        if !node.is_empty() {
            by_node.entry(node.clone().into()).or_default().insert(key.clone());
        }
    }

    fn unindex(&mut self, key: &Key, object: &Object) {
        for owner in object.meta.owner_references.iter() {
            drop_from(&mut self.by_owner, &owner.uid, key);
        }
        if let Some(uncontrolled) = &mut self.uncontrolled {
            drop_from(uncontrolled, &key.namespace, key);
        }
        if let Some(by_node) = &mut self.by_node {
            drop_from(by_node, &PodFacts::of(object).node, key);
        }
    }
}

fn drop_from(index: &mut Lookup, value: &str, key: &Key) {
    if let Some(keys) = index.get_mut(value) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, node: &str, revision: u64) -> Object {
        let json = format!(
            r#"{{"metadata":{{"name":"{name}","namespace":"n","uid":"{name}","ownerReferences":[{{"uid":"o"}}]}},"spec":{{"nodeName":"{node}"}}}}"#
        );
        Object::new(json.into(), revision).unwrap()
    }

    fn pods() -> ObjectTable {
        ObjectTable::of(&Resource::new("", "pods"))
    }

    #[test]
    fn only_pods_are_found_by_node() {
        let mut table = ObjectTable::of(&Resource::new("discovery.k8s.io", "endpointslices"));
        table.put(object("a", "x", 1));
        assert!(table.by_index(Index::Node, "x").is_empty());
        assert_eq!(table.by_index(Index::Owner, "o").len(), 1);
    }

    #[test]
    fn indexes_follow_changes() {
        let mut table = pods();
        table.put(object("a", "x", 1));
        table.put(object("a", "y", 2));
        assert!(table.by_index(Index::Node, "x").is_empty());
        assert_eq!(table.by_index(Index::Node, "y").len(), 1);
        assert_eq!(table.by_index(Index::Owner, "o").len(), 1);
        table.remove(&Key { namespace: "n".into(), name: "a".into() }, 3);
        assert!(table.by_index(Index::Owner, "o").is_empty());
        assert_eq!(table.revision, 3);
    }

    #[test]
    fn what_nobody_controls_is_found_by_namespace() {
        let mut table = pods();
        table.put(object("a", "x", 1));
        let names = |table: &ObjectTable| -> Vec<String> {
            let found = table.by_index(Index::Uncontrolled, "n");
            found.iter().map(|object| object.meta.name.clone()).collect()
        };
        assert_eq!(names(&table), ["a"]);
        let owned = r#"{"metadata":{"name":"a","namespace":"n","ownerReferences":[{"uid":"o","controller":true}]}}"#;
        table.put(Object::new(owned.into(), 2).unwrap());
        assert_eq!(names(&table), [""; 0]);
    }

    #[test]
    fn a_new_list_tells_only_what_changed() {
        let mut table = pods();
        table.replace(vec![object("a", "x", 1), object("b", "x", 2)], 5);
        let changes = table.replace(vec![object("b", "x", 2), object("c", "x", 6)], 7);
        assert_eq!(changes.len(), 2);
        assert_eq!(table.list(Some("n")).len(), 2);
    }
}
