//! What a cache of one resource holds: the live objects in the store's order, the look-ups that views ask for, and the
//! window of past events that watchers read from.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use coracle_meta::{Object, Resource};
use coracle_reconcile::{Change, Index, PodFacts, is_adopted};

use crate::store::Revision;
use crate::watch::{CacheEvent, EventKind};

const WINDOW_EVENTS_MAX: usize = 20_000;
/// Of superseded objects kept alive by the window alone.
const WINDOW_BYTES_MAX: usize = 8 << 20;

#[derive(Default)]
pub(crate) struct State {
    pub objects: BTreeMap<Arc<str>, Arc<Object>>,
    /// Up to where the store's changes are in; 0 before the first list.
    pub revision: Revision,
    /// Of the newest change to this resource.
    pub last_change: Revision,
    pub window: Window,
    per_namespace: HashMap<String, usize>,
    lookups: Lookups,
}

/// Past events, oldest first. Watchers hold a position; one that falls behind the oldest is gone.
#[derive(Default)]
pub(crate) struct Window {
    events: VecDeque<Arc<CacheEvent>>,
    bytes: usize,
    /// Position of the oldest event kept.
    pub first: u64,
    /// Every event after this revision is kept.
    pub floor: Revision,
}

#[derive(Default)]
struct Lookups {
    with_nodes: bool,
    with_uncontrolled: bool,
    owner: HashMap<String, BTreeSet<Arc<str>>>,
    /// By namespace.
    uncontrolled: HashMap<String, BTreeSet<Arc<str>>>,
    node: HashMap<String, BTreeSet<Arc<str>>>,
}

impl State {
    pub fn new(resource: &Resource) -> State {
        let with_nodes = resource.group.is_empty() && resource.plural == "pods";
        let with_uncontrolled = is_adopted(resource);
        State { lookups: Lookups { with_nodes, with_uncontrolled, ..Lookups::default() }, ..State::default() }
    }

    /// Puts or removes the object at `path`. `None` where that changes nothing.
    pub fn apply(&mut self, path: &str, object: Option<Arc<Object>>, revision: Revision) -> Option<Change> {
        let object = object.map(|object| self.shared(path, object));
        let old = match &object {
            Some(new) => {
                let path: Arc<str> = path.into();
                self.lookups.add(&path, new);
                self.count(&new.meta.namespace);
                self.objects.insert(path, new.clone())
            }
            None => self.objects.remove(path),
        };
        if let Some(old) = &old {
            self.forget(path, old, object.as_deref());
        }
        let change = Change { old, new: object };
        let event = event_of(&change, revision)?;
        self.last_change = revision;
        self.window.push(event);
        Some(change)
    }

    /// Holds once what a new version has in common with the one before, or with something else of the same owner.
    fn shared(&self, path: &str, mut object: Arc<Object>) -> Arc<Object> {
        if let Some(new) = Arc::get_mut(&mut object)
            && let Some(known) = self.objects.get(path).or_else(|| self.sibling(new))
        {
            new.meta.share(&known.meta);
        }
        object
    }

    fn sibling(&self, object: &Object) -> Option<&Arc<Object>> {
        let siblings = self.lookups.owner.get(&object.meta.owner_references.first()?.uid)?;
        self.objects.get(siblings.first()?)
    }

    fn count(&mut self, namespace: &str) {
        match self.per_namespace.get_mut(namespace) {
            Some(count) => *count += 1,
            None => drop(self.per_namespace.insert(namespace.to_owned(), 1)),
        }
    }

    fn forget(&mut self, path: &str, old: &Object, new: Option<&Object>) {
        self.lookups.remove(path, old, new);
        if let Some(count) = self.per_namespace.get_mut(&old.meta.namespace) {
            *count -= 1;
            if *count == 0 {
                self.per_namespace.remove(&old.meta.namespace);
            }
        }
    }

    pub fn holds(&self, namespace: &str) -> bool {
        self.per_namespace.contains_key(namespace)
    }

    /// Objects of a namespace, or all, behind `after`, at most `limit` where that is not 0; and how many are left.
    pub fn page(&self, namespace: Option<&str>, after: Option<&str>, limit: usize) -> (Vec<Arc<Object>>, u64) {
        let start = match (after, namespace) {
            (Some(after), _) => Bound::Excluded(after.to_owned()),
            (None, Some(namespace)) => Bound::Included(format!("{namespace}/")),
            (None, None) => Bound::Unbounded,
        };
        let inside = |path: &str| namespace.is_none_or(|namespace| is_in(path, namespace));
        let bounds = (start.as_ref().map(String::as_str), Bound::<&str>::Unbounded);
        let range = self.objects.range::<str, _>(bounds).take_while(|(path, _)| inside(path));
        if limit == 0 {
            return (range.map(|(_, object)| object.clone()).collect(), 0);
        }
        let items: Vec<_> = range.clone().take(limit).map(|(_, object)| object.clone()).collect();
        let left = match (after, namespace) {
            (None, None) => self.objects.len() - items.len(),
            (None, Some(namespace)) => self.per_namespace.get(namespace).copied().unwrap_or(0) - items.len(),
            (Some(_), _) => range.skip(limit).count(),
        };
        (items, left as u64)
    }

    pub fn by_index(&self, index: Index, value: &str) -> Vec<Arc<Object>> {
        let table = match index {
            Index::Owner => &self.lookups.owner,
            Index::Uncontrolled => &self.lookups.uncontrolled,
            Index::Node => &self.lookups.node,
        };
        let paths = table.get(value).into_iter().flatten();
        paths.filter_map(|path| self.objects.get(path).cloned()).collect()
    }
}

fn is_in(path: &str, namespace: &str) -> bool {
    path.strip_prefix(namespace).is_some_and(|rest| rest.starts_with('/'))
}

fn event_of(change: &Change, revision: Revision) -> Option<CacheEvent> {
    let (kind, object, previous) = match (&change.old, &change.new) {
        (None, Some(new)) => (EventKind::Added, new.clone(), None),
        (Some(old), Some(new)) => (EventKind::Modified, new.clone(), Some(old.clone())),
        (Some(old), None) => (EventKind::Deleted, Arc::new(old.at(revision)), Some(old.clone())),
        (None, None) => return None,
    };
    Some(CacheEvent { kind, object, previous, revision })
}

impl Window {
    /// The position behind the newest event.
    pub fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// Events from a position on; `None` where the oldest of them is no longer kept.
    pub fn from(&self, position: u64) -> Option<impl Iterator<Item = &Arc<CacheEvent>>> {
        let skip = position.checked_sub(self.first)?;
        Some(self.events.range((skip as usize).min(self.events.len())..))
    }

    /// The position of the first event after `revision`.
    pub fn position_after(&self, revision: Revision) -> Option<u64> {
        if revision < self.floor {
            return None;
        }
        Some(self.first + self.events.partition_point(|event| event.revision <= revision) as u64)
    }

    /// Ends every watcher's position: what happened up to `floor` is not known one by one.
    pub fn reset(&mut self, floor: Revision) {
        self.first = self.next() + 1;
        self.events.clear();
        self.bytes = 0;
        self.floor = floor;
    }

    fn push(&mut self, event: CacheEvent) {
        self.bytes += weight(&event);
        self.events.push_back(Arc::new(event));
        while self.events.len() > WINDOW_EVENTS_MAX || self.bytes > WINDOW_BYTES_MAX {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= weight(&oldest);
            self.first += 1;
            self.floor = oldest.revision;
        }
    }
}

fn weight(event: &CacheEvent) -> usize {
    event.previous.as_ref().map_or(0, |previous| previous.bytes.len()) + 256
}

impl Lookups {
    fn add(&mut self, path: &Arc<str>, object: &Object) {
        for owner in object.meta.owner_references.iter() {
            insert(&mut self.owner, &owner.uid, path);
        }
        if self.with_uncontrolled && object.meta.controller().is_none() {
            insert(&mut self.uncontrolled, &object.meta.namespace, path);
        }
        if self.with_nodes {
            let node = &PodFacts::of(object).node;
            insert(&mut self.node, node, path);
        }
    }

    /// Takes out what `old` was found by and `new`, which is in already, is not.
    fn remove(&mut self, path: &str, old: &Object, new: Option<&Object>) {
        let kept: &[_] = new.map_or(&[], |new| &new.meta.owner_references);
        for owner in old.meta.owner_references.iter().filter(|owner| !kept.iter().any(|kept| kept.uid == owner.uid)) {
            take(&mut self.owner, &owner.uid, path);
        }
        let stays = new.is_some_and(|new| new.meta.controller().is_none());
        if old.meta.controller().is_none() && !stays {
            take(&mut self.uncontrolled, &old.meta.namespace, path);
        }
        if self.with_nodes {
            let (was, is) = (PodFacts::of(old), new.map(PodFacts::of));
            if is.is_none_or(|is| is.node != was.node) {
                take(&mut self.node, &was.node, path);
            }
        }
    }
}

/// Nothing is found by an empty value.
fn insert(table: &mut HashMap<String, BTreeSet<Arc<str>>>, value: &str, path: &Arc<str>) {
    match table.get_mut(value) {
        Some(paths) => drop(paths.insert(path.clone())),
        None if value.is_empty() => {}
        None => drop(table.insert(value.to_owned(), BTreeSet::from([path.clone()]))),
    }
}

fn take(table: &mut HashMap<String, BTreeSet<Arc<str>>>, value: &str, path: &str) {
    if let Some(paths) = table.get_mut(value) {
        paths.remove(path);
        if paths.is_empty() {
            table.remove(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn siblings_share_what_they_have_in_common() {
        let mut state = State::new(&Resource::new("", "pods"));
        for (revision, name) in [(1, "a"), (2, "b")] {
            let json =
                format!(r#"{{"metadata":{{"name":"{name}","namespace":"n","ownerReferences":[{{"uid":"o"}}]}}}}"#);
            let pod = Arc::new(Object::new(json.into(), revision).unwrap());
            state.apply(&format!("n/{name}"), Some(pod), revision);
        }
        let pods = state.by_index(Index::Owner, "o");
        assert!(Arc::ptr_eq(&pods[0].meta.owner_references, &pods[1].meta.owner_references));
        assert_eq!([pods[0].meta.name.as_str(), &pods[1].meta.name], ["a", "b"]);
    }
}
