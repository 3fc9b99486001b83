//! What Services and workloads select: the pods of one of them are spread by default though they do not ask for it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use coracle_meta::selector::LabelSelector;

use crate::interests::Interests;
use crate::pod::Shape;
use crate::select::label;

type Pair = (String, String);

#[derive(Clone, Debug, Default)]
pub struct Workloads {
    namespaces: HashMap<String, Namespace>,
    /// Labels that they name, or once named.
    interests: Interests,
    /// How often any of them changed.
    changes: u64,
}

#[derive(Clone, Debug, Default)]
struct Namespace {
    /// Exact labels, at least one.
    services: BTreeMap<String, Vec<Pair>>,
    /// Services by the first label that they select by.
    by_label: HashMap<Pair, BTreeSet<String>>,
    /// By kind and name.
    controllers: HashMap<Pair, LabelSelector>,
    /// Which of all changes was its last.
    changed: u64,
}

impl Workloads {
    /// An absent or empty selector selects nothing. Tells whether anything changed.
    pub fn set_service(&mut self, namespace: &str, name: &str, selector: Vec<Pair>) -> bool {
        self.interests.add(&LabelSelector::from_pairs(selector.iter().cloned()));
        self.change(namespace, |known| {
            if known.services.get(name).map_or(&[][..], Vec::as_slice) == selector {
                return false;
            }
            if let Some(first) = known.services.remove(name).and_then(|was| was.into_iter().next())
                && let Some(names) = known.by_label.get_mut(&first)
            {
                names.remove(name);
                if names.is_empty() {
                    known.by_label.remove(&first);
                }
            }
            if let Some(first) = selector.first() {
                known.by_label.entry(first.clone()).or_default().insert(name.to_owned());
                known.services.insert(name.to_owned(), selector);
            }
            true
        })
    }

    /// `kind` is that of owner references: `ReplicaSet`, `StatefulSet` or `ReplicationController`.
    pub fn set_controller(&mut self, kind: &str, namespace: &str, name: &str, selector: Option<LabelSelector>) -> bool {
        let key = (kind.to_owned(), name.to_owned());
        if let Some(selector) = &selector {
            self.interests.add(selector);
        }
        self.change(namespace, |known| match selector {
            Some(selector) if known.controllers.get(&key) == Some(&selector) => false,
            Some(selector) => {
                known.controllers.insert(key, selector);
                true
            }
            None => known.controllers.remove(&key).is_some(),
        })
    }

    fn change(&mut self, namespace: &str, change: impl FnOnce(&mut Namespace) -> bool) -> bool {
        if !self.namespaces.contains_key(namespace) {
            self.namespaces.insert(namespace.to_owned(), Namespace::default());
        }
        let Some(known) = self.namespaces.get_mut(namespace) else { return false };
        let changed = change(known);
        if changed {
            self.changes += 1;
            known.changed = self.changes;
        }
        if known.services.is_empty() && known.controllers.is_empty() {
            self.namespaces.remove(namespace);
        }
        changed
    }

    /// Another number than before whenever something in the namespace may be selected otherwise; 0 where nothing is.
    pub fn version(&self, namespace: &str) -> u64 {
        self.namespaces.get(namespace).map_or(0, |known| known.changed)
    }

    /// Whether pods of different values of a label may be counted differently.
    pub fn names(&self, key: &str) -> bool {
        self.interests.names(key)
    }

    /// The labels that pods like this one are counted by; `None` where nothing selects them.
    pub fn selector_of(&self, shape: &Shape) -> Option<LabelSelector> {
        let known = self.namespaces.get(&shape.namespace)?;
        let mut exact = BTreeMap::new();
        let services = shape.labels.iter().filter_map(|pair| known.by_label.get(pair)).flatten();
        for selector in services.filter_map(|name| known.services.get(name)) {
            if selector.iter().all(|(key, value)| label(&shape.labels, key) == Some(value)) {
                exact.extend(selector.iter().cloned());
            }
        }
        let own = shape.owner.as_ref().and_then(|owner| known.controllers.get(owner));
        let selector = LabelSelector::from_pairs(exact);
        let selector = match own {
            Some(own) => selector.and(own),
            None => selector,
        };
        (!selector.is_everything()).then_some(selector)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::pod::Bare;

    #[test]
    fn pods_are_counted_by_all_that_selects_them() {
        let mut workloads = Workloads::default();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let bare = Arc::new(Bare { namespace: "n".into(), ..Bare::default() });
        let mut shape = Shape { bare, labels: vec![pair("app", "a")], ..Shape::default() };
        assert_eq!(workloads.selector_of(&shape), None);
        assert!(workloads.set_service("n", "s", vec![pair("app", "a")]));
        assert!(!workloads.set_service("n", "s", vec![pair("app", "a")]));
        workloads.set_service("n", "other", vec![pair("app", "b")]);
        assert_eq!(workloads.selector_of(&shape), Some(LabelSelector::from_pairs([pair("app", "a")])));
        let selector = LabelSelector::from_pairs([pair("hash", "1")]);
        workloads.set_controller("ReplicaSet", "n", "r", Some(selector));
        shape.owner = Some(pair("ReplicaSet", "r"));
        let both = LabelSelector::from_pairs([pair("app", "a"), pair("hash", "1")]);
        assert_eq!(workloads.selector_of(&shape), Some(both));
    }

    #[test]
    fn a_namespace_has_another_version_with_each_change_and_leaves_nothing_behind() {
        let mut workloads = Workloads::default();
        let pair = |key: &str| (key.to_owned(), "x".to_owned());
        let selects = |workloads: &Workloads, labels: &[Pair]| {
            let bare = Arc::new(Bare { namespace: "n".into(), ..Bare::default() });
            let shape = Shape { bare, labels: labels.to_vec(), ..Shape::default() };
            workloads.selector_of(&shape).is_some()
        };
        workloads.set_service("n", "s", vec![pair("a"), pair("b")]);
        let first = workloads.version("n");
        assert!(selects(&workloads, &[pair("a"), pair("b")]) && !selects(&workloads, &[pair("a")]));
        workloads.set_service("n", "s", vec![pair("b")]);
        assert!(workloads.version("n") != first && selects(&workloads, &[pair("b")]));
        assert_eq!(workloads.version("elsewhere"), 0);
        assert!(workloads.set_service("n", "s", Vec::new()) && !workloads.set_service("n", "s", Vec::new()));
        assert!(!selects(&workloads, &[pair("b")]) && workloads.namespaces.is_empty());
        let selector = LabelSelector::from_pairs([pair("a")]);
        assert!(workloads.set_controller("ReplicaSet", "n", "r", Some(selector.clone())));
        assert!(!workloads.set_controller("ReplicaSet", "n", "r", Some(selector)));
        assert_eq!(workloads.version("n"), 4);
    }
}
