//! Which labels of pods matter: those that some selector names. Pods that differ only in others are decided about alike,
//! as those of a StatefulSet or an indexed Job do.

use std::collections::BTreeSet;

use coracle_meta::selector::LabelSelector;

use crate::pod::Shape;

/// Where selectors name more, every label counts as named.
const KEYS_MAX: usize = 1024;

#[derive(Clone, Debug, Default)]
pub struct Interests {
    keys: BTreeSet<String>,
}

impl Interests {
    /// Takes in what a selector names; tells whether any of it is new.
    pub fn add(&mut self, selector: &LabelSelector) -> bool {
        let mut new = false;
        for requirement in selector.requirements() {
            if self.keys.len() <= KEYS_MAX && !self.keys.contains(&requirement.key) {
                self.keys.insert(requirement.key.clone());
                new = true;
            }
        }
        new
    }

    pub fn names(&self, key: &str) -> bool {
        self.keys.len() > KEYS_MAX || self.keys.contains(key)
    }
}

/// The shape without the labels that do not matter; `None` where all do.
pub fn reduced(shape: &Shape, matters: impl Fn(&str) -> bool) -> Option<Shape> {
    if shape.labels.iter().all(|(key, _)| matters(key)) {
        return None;
    }
    let labels = shape.labels.iter().filter(|(key, _)| matters(key)).cloned().collect();
    Some(Shape { labels, ..shape.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(text: &str) -> LabelSelector {
        LabelSelector::parse(text).unwrap()
    }

    #[test]
    fn labels_that_no_selector_names_do_not_matter() {
        let mut interests = Interests::default();
        assert!(interests.add(&selector("app=a,!tier")));
        assert!(!interests.add(&selector("tier in (x,y)")));
        let labels = [("app", "a"), ("index", "0"), ("tier", "x")].map(|(key, value)| (key.into(), value.into()));
        let shape = Shape { labels: labels.to_vec(), priority: 3, ..Shape::default() };
        let less = reduced(&shape, |key| interests.names(key)).unwrap();
        assert_eq!(less.labels, [labels[0].clone(), labels[2].clone()]);
        assert_eq!(less.priority, 3);
        assert_eq!(reduced(&less, |key| interests.names(key)), None);
    }

    #[test]
    fn beyond_the_bound_every_label_matters() {
        let mut interests = Interests::default();
        let new = (0..2 * KEYS_MAX).filter(|key| interests.add(&selector(&format!("k{key}=v")))).count();
        assert_eq!(new, KEYS_MAX + 1, "the last that is new makes all others matter");
        assert!(interests.names("whatever"));
    }
}
