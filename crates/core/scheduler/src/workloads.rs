//! What Services and workloads select: the pods of one of them are spread by default though they do not ask for it.

use std::collections::BTreeMap;

use coracle_meta::selector::LabelSelector;

use crate::interests::Interests;
use crate::pod::Shape;
use crate::select::label;

#[derive(Clone, Debug, Default)]
pub struct Workloads {
    /// By namespace and name; exact labels.
    services: BTreeMap<(String, String), Vec<(String, String)>>,
    /// By kind, namespace and name.
    controllers: BTreeMap<(String, String, String), LabelSelector>,
    /// Labels that they name, or once named.
    interests: Interests,
}

impl Workloads {
    /// An absent or empty selector selects nothing. Tells whether anything changed.
    pub fn set_service(&mut self, namespace: &str, name: &str, selector: Vec<(String, String)>) -> bool {
        let key = (namespace.to_owned(), name.to_owned());
        self.interests.add(&LabelSelector::from_pairs(selector.iter().cloned()));
        match selector.is_empty() {
            true => self.services.remove(&key).is_some(),
            false => self.services.insert(key, selector.clone()) != Some(selector),
        }
    }

    /// `kind` is that of owner references: `ReplicaSet`, `StatefulSet` or `ReplicationController`.
    pub fn set_controller(&mut self, kind: &str, namespace: &str, name: &str, selector: Option<LabelSelector>) -> bool {
        let key = (kind.to_owned(), namespace.to_owned(), name.to_owned());
        if let Some(selector) = &selector {
            self.interests.add(selector);
        }
        match selector {
            Some(selector) => self.controllers.insert(key, selector.clone()) != Some(selector),
            None => self.controllers.remove(&key).is_some(),
        }
    }

    /// Whether pods of different values of a label may be counted differently.
    pub fn names(&self, key: &str) -> bool {
        self.interests.names(key)
    }

    /// The labels that pods like this one are counted by; `None` where nothing selects them.
    pub fn selector_of(&self, shape: &Shape) -> Option<LabelSelector> {
        let mut exact = BTreeMap::new();
        let first = (shape.namespace.clone(), String::new());
        let services = self.services.range(first..).take_while(|((namespace, _), _)| *namespace == shape.namespace);
        for (_, selector) in services {
            if selector.iter().all(|(key, value)| label(&shape.labels, key) == Some(value)) {
                exact.extend(selector.iter().cloned());
            }
        }
        let own = shape
            .owner
            .as_ref()
            .and_then(|(kind, name)| self.controllers.get(&(kind.clone(), shape.namespace.clone(), name.clone())));
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
    use super::*;

    #[test]
    fn pods_are_counted_by_all_that_selects_them() {
        let mut workloads = Workloads::default();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let mut shape = Shape { namespace: "n".into(), labels: vec![pair("app", "a")], ..Shape::default() };
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
}
