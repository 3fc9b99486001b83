//! The steps of a rollout: up with the new set, down with the old ones, all at once for Recreate.

use coracle_reconcile::View;

use super::{Rollout, Set};

impl Rollout<'_> {
    /// One step of a rolling update.
    pub(super) fn roll(&mut self, view: &dyn View) {
        let Some(new) = self.new.clone() else {
            return self.create_new(view);
        };
        let wanted = if new.replicas > self.replicas() { self.replicas() } else { self.new_replicas(new.replicas) };
        if new.replicas != wanted {
            self.new = Some(self.resize(&new, wanted));
            return;
        }
        if !self.scale_old_down(&new) && self.is_complete() {
            self.drop_history();
        }
    }

    /// Recreate: the old sets go first, and their pods with them.
    pub(super) fn recreate(&mut self, view: &dyn View) {
        let mut scaled = false;
        for at in 0..self.old.len() {
            let set = self.old[at].clone();
            if set.replicas > 0 {
                self.old[at] = self.resize(&set, 0);
                scaled = true;
            }
        }
        if scaled || self.old_pods_running(view) {
            return;
        }
        let Some(new) = self.new.clone() else {
            return self.create_new(view);
        };
        if new.replicas != self.replicas() {
            self.new = Some(self.resize(&new, self.replicas()));
            return;
        }
        if self.is_complete() {
            self.drop_history();
        }
    }

    /// How large the new set may be, given the surge that is left.
    pub(super) fn new_replicas(&self, current: i64) -> i64 {
        if !self.is_rolling() {
            return self.replicas();
        }
        let room = self.replicas() + self.max_surge() - self.total_replicas();
        if room <= 0 {
            return current;
        }
        current + room.min(self.replicas() - current)
    }

    /// Takes unhealthy old pods away first, then as many as availability allows.
    fn scale_old_down(&mut self, new: &Set) -> bool {
        let min_available = self.replicas() - self.max_unavailable();
        let new_unavailable = new.replicas - new.status("availableReplicas");
        let most = self.total_replicas() - min_available - new_unavailable;
        if self.old.iter().all(|set| set.replicas == 0) || most <= 0 {
            return false;
        }
        let mut targets: Vec<i64> = self.old.iter().map(|set| set.replicas).collect();
        let mut cleaned = 0;
        for (set, target) in self.old.iter().zip(&mut targets) {
            let unhealthy = (*target - set.status("availableReplicas")).max(0);
            let step = unhealthy.min(most - cleaned);
            *target -= step;
            cleaned += step;
        }
        let mut spare = self.total("availableReplicas") - min_available;
        for target in &mut targets {
            let step = (*target).min(spare.max(0));
            *target -= step;
            spare -= step;
        }
        let mut scaled = false;
        for (at, target) in targets.into_iter().enumerate() {
            let set = self.old[at].clone();
            if set.replicas != target {
                self.old[at] = self.resize(&set, target);
                scaled = true;
            }
        }
        scaled
    }

    /// By the status as it was told last.
    fn is_complete(&self) -> bool {
        self.completes(self.item.at("/status"))
    }
}
