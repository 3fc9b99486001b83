//! Replacing pods of old templates: within maxUnavailable old pods go first, within maxSurge new pods come first.

use super::placement::Fit;
use super::{Changes, Decision};
use crate::shape::Item;

/// The pods of one node by template; `None` for a node where either has more than one.
type Pair<'a> = Option<(Option<&'a Item>, Option<&'a Item>)>;

impl Decision<'_> {
    pub(super) fn roll(&self) -> Changes {
        let desired = self.nodes.iter().filter(|(_, fit)| fit.should_run).count() as i64;
        let max_surge = self.max_surge(desired);
        let max_unavailable = self.rolling("maxUnavailable", desired);
        if max_surge > 0 {
            return self.roll_surging(max_surge, desired);
        }
        self.roll_in_place(if desired > 0 { max_unavailable.max(1) } else { max_unavailable })
    }

    /// Nodes that have pods, and those that should.
    fn pairs(&self) -> Vec<(&str, Pair<'_>)> {
        let mut pairs: Vec<(&str, Pair<'_>)> =
            self.pods.iter().map(|(node, pods)| (node.as_str(), self.pair(pods))).collect();
        let bare = self.nodes.iter().filter(|(node, fit)| fit.should_run && !self.pods.contains_key(node.name()));
        pairs.extend(bare.map(|(node, _)| (node.name(), Some((None, None)))));
        pairs
    }

    fn pair<'p>(&self, pods: &'p [Item]) -> Pair<'p> {
        let (mut new, mut old) = (None, None);
        for pod in pods.iter().filter(|pod| !pod.meta().is_deleting()) {
            let place = if self.is_updated(pod) { &mut new } else { &mut old };
            if place.replace(pod).is_some() {
                return None;
            }
        }
        Some((new, old))
    }

    fn roll_in_place(&self, max_unavailable: i64) -> Changes {
        let mut unavailable = 0;
        let (mut allowed, mut candidates) = (Vec::new(), Vec::new());
        for (_, pair) in self.pairs() {
            match pair {
                Some((None, Some(old))) if self.is_available(old) => candidates.push(old.clone()),
                Some((None, Some(old))) => {
                    allowed.push(old.clone());
                    unavailable += 1;
                }
                Some((Some(new), None)) => unavailable += i64::from(!self.is_available(new)),
                _ => unavailable += 1,
            }
        }
        let left = (max_unavailable - unavailable).max(0) as usize;
        allowed.extend(candidates.into_iter().take(left));
        Changes { create: Vec::new(), delete: allowed }
    }

    fn roll_surging(&self, max_surge: i64, desired: i64) -> Changes {
        let (mut surge, mut available) = (0, 0);
        let (mut delete, mut unwanted) = (Vec::new(), Vec::new());
        let (mut create, mut candidates) = (Vec::new(), Vec::new());
        for (name, pair) in self.pairs() {
            let Some((new, old)) = pair else {
                surge += 1;
                continue;
            };
            available += i64::from(old.or(new).is_some_and(|pod| self.is_available(pod)));
            match (new, old) {
                (_, None) => {}
                (Some(new), Some(_)) if !self.is_available(new) => surge += 1,
                (Some(_), Some(old)) => delete.push(old.clone()),
                (None, Some(old)) => match (self.is_available(old), self.fit_of(name).should_run) {
                    (false, false) => delete.push(old.clone()),
                    (false, true) => create.push(name.to_owned()),
                    (true, false) => unwanted.push(old.clone()),
                    (true, true) => candidates.push(name.to_owned()),
                },
            }
        }
        delete.extend(unwanted.into_iter().take((available - desired).max(0) as usize));
        create.extend(candidates.into_iter().take((max_surge - surge).max(0) as usize));
        Changes { create, delete }
    }

    fn fit_of(&self, name: &str) -> Fit {
        let found = self.nodes.iter().find(|(node, _)| node.name() == name);
        found.map_or(Fit { should_run: false, may_stay: false }, |(_, fit)| *fit)
    }
}
