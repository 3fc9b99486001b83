//! A controller with a witness: every decision is counted, and what its plans tell and write is noted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coracle_meta::Resource;
use coracle_reconcile::{Controller, Key, Outcome, Plan, View, Watch, WatchAll};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::watch::Watchdog;

/// Keys that controllers were asked about, by their name.
pub type Asked = Arc<Mutex<BTreeMap<&'static str, BTreeSet<Key>>>>;

pub struct Witnessed {
    pub controller: Box<dyn Controller>,
    pub watchdog: Arc<Watchdog>,
    pub asked: Asked,
}

impl Controller for Witnessed {
    fn name(&self) -> &'static str {
        self.controller.name()
    }

    fn component(&self) -> &'static str {
        self.controller.component()
    }

    fn identity(&self) -> &'static str {
        self.controller.identity()
    }

    fn watches(&self) -> Vec<Watch> {
        self.controller.watches()
    }

    fn reads(&self) -> Vec<Resource> {
        self.controller.reads()
    }

    fn watches_all(&self) -> Option<WatchAll> {
        self.controller.watches_all()
    }

    fn standing_keys(&self) -> Vec<Key> {
        self.controller.standing_keys()
    }

    fn concurrency_max(&self) -> usize {
        self.controller.concurrency_max()
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, now: Timestamp) -> Plan {
        self.watchdog.count_reconcile(self.name());
        self.asked.lock().entry(self.name()).or_default().insert(key.clone());
        let plan = self.controller.reconcile(view, key, last, now);
        for event in &plan.events {
            self.watchdog.note(format!("{} tells {} {}", self.name(), event.reason, event.message));
        }
        plan
    }
}
