//! Scaling outside a rollout's steps: when the size asked for has changed, or while paused. Sets keep their proportions.

use std::cmp::Reverse;

use super::{DESIRED_REPLICAS, MAX_REPLICAS, Rollout, Set};

impl Rollout<'_> {
    /// Whether an active set was last sized for another number of replicas.
    pub(super) fn is_scaling(&self) -> bool {
        let mut active = self.sets().filter(|set| set.replicas > 0);
        active.any(|set| set.recorded(DESIRED_REPLICAS).is_some_and(|desired| desired != self.replicas()))
    }

    pub(super) fn scale(&mut self) {
        let active = self.sets().filter(|set| set.replicas > 0).count();
        if active <= 1 {
            let only = self.sets().find(|set| set.replicas > 0).or(self.new.as_ref()).or(self.old.last()).cloned();
            // Also one of that size already, which is to say so: else it would be scaling for ever.
            if let Some(set) = only {
                self.put(&set, self.replicas());
            }
            return;
        }
        if self.new.as_ref().is_some_and(|new| self.is_saturated(new)) {
            for set in self.old.clone().iter().filter(|set| set.replicas > 0) {
                self.put(set, 0);
            }
            return;
        }
        if self.is_rolling() {
            self.scale_in_proportion();
        }
    }

    /// Full size by its own account, and all of it available.
    fn is_saturated(&self, new: &Set) -> bool {
        let replicas = self.replicas();
        new.replicas == replicas
            && new.recorded(DESIRED_REPLICAS) == Some(replicas)
            && new.status("availableReplicas") == replicas
    }

    /// Spreads what is to add or remove over the active sets by their sizes; the largest takes the rest.
    fn scale_in_proportion(&mut self) {
        let allowed = if self.replicas() > 0 { self.replicas() + self.max_surge() } else { 0 };
        let mut active: Vec<Set> = self.sets().filter(|set| set.replicas > 0).cloned().collect();
        let to_add = allowed - active.iter().map(|set| set.replicas).sum::<i64>();
        // Growing favours newer sets of one size, shrinking older ones.
        if to_add > 0 {
            active.sort_by_key(|set| (Reverse(set.replicas), Reverse(set.item.created())));
        } else {
            active.sort_by_key(|set| (Reverse(set.replicas), set.item.created()));
        }
        let mut added = 0;
        let mut sizes = Vec::new();
        for set in &active {
            let share = if to_add == 0 { 0 } else { self.share(set, allowed, to_add, added) };
            added += share;
            sizes.push(set.replicas + share);
        }
        if let Some(first) = sizes.first_mut() {
            *first = (*first + to_add - added).max(0);
        }
        for (set, size) in active.iter().zip(sizes) {
            self.put(set, size);
        }
    }

    fn share(&self, set: &Set, allowed: i64, to_add: i64, added: i64) -> i64 {
        if allowed == 0 {
            return -set.replicas;
        }
        let fallback = self.item.int("/status/replicas");
        let before = set.recorded(MAX_REPLICAS).filter(|max| *max > 0).unwrap_or(fallback);
        if before == 0 {
            return 0;
        }
        let size = set.replicas as f64 * allowed as f64 / before as f64;
        let share = size.round() as i64 - set.replicas;
        let left = to_add - added;
        if to_add > 0 { share.min(left).max(0) } else { share.max(left).min(0) }
    }

    fn put(&mut self, set: &Set, size: i64) {
        let resized = self.resize(set, size);
        let same = |other: &&mut Set| other.item.uid() == resized.item.uid();
        if let Some(place) = self.old.iter_mut().chain(&mut self.new).find(same) {
            *place = resized;
        }
    }
}
