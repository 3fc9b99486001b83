//! Which nodes hold which container images.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The size of an image at each node that holds it, by the node's serial number.
pub type Holders = Arc<BTreeMap<u64, i64>>;

#[derive(Clone, Debug, Default)]
pub struct Images {
    by_name: HashMap<String, Holders>,
    /// Grows with every change.
    pub version: u64,
}

impl Images {
    pub fn holders(&self, name: &str) -> Option<&Holders> {
        self.by_name.get(name)
    }

    /// Takes in what a node holds now in place of what it held before. Of two sizes for one name the first counts.
    pub fn set(&mut self, serial: u64, old: &[(String, i64)], new: &[(String, i64)]) {
        if old == new {
            return;
        }
        self.version += 1;
        for (name, _) in old {
            if let Some(holders) = self.by_name.get_mut(name) {
                Arc::make_mut(holders).remove(&serial);
                if holders.is_empty() {
                    self.by_name.remove(name);
                }
            }
        }
        for (name, size) in new {
            let holders = self.by_name.entry(name.clone()).or_default();
            Arc::make_mut(holders).entry(serial).or_insert(*size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_no_node_holds_is_unknown() {
        let mut images = Images::default();
        let held = [("a".to_owned(), 1), ("a".to_owned(), 2), ("b".to_owned(), 3)];
        images.set(7, &[], &held);
        images.set(8, &[], &held[..1]);
        assert_eq!(**images.holders("a").unwrap(), BTreeMap::from([(7, 1), (8, 1)]));
        images.set(7, &held, &[]);
        assert_eq!(images.holders("b"), None);
        assert_eq!(images.holders("a").unwrap().len(), 1);
    }
}
