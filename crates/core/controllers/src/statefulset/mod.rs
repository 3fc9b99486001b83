//! StatefulSets: pods with ordinals, names and claims of their own, made and replaced in order.

mod claims;
mod identity;
mod order;
mod status;
#[cfg(test)]
mod tests;

use coracle_meta::{Object, Resource, Status};
use coracle_reconcile::{Controller, EventKind, Key, Outcome, Plan, View, Watch};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::claim::{Claim, Claimed};
use crate::history::{Collision, History, Owner, REVISIONS};
use crate::pods::{self, PODS, Refused};
use crate::selector::Selector;
use crate::shape::{Item, controller_key, remove};
pub use claims::CLAIMS;
use identity::{REVISION_LABEL, ordinal_of, parent_of};

pub const STATEFUL_SETS: Resource = Resource::new("apps", "statefulsets");
const OWNER: Owner =
    Owner { resource: &STATEFUL_SETS, kind: "StatefulSet", hash_label: "controller.kubernetes.io/hash" };

pub struct StatefulSet;

impl Controller for StatefulSet {
    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        let owner = |_: &dyn View, item: &Object| controller_key(item, "apps", "StatefulSet").into_iter().collect();
        vec![
            Watch::itself(STATEFUL_SETS),
            Watch { resource: PODS, keys: pod_keys },
            Watch { resource: REVISIONS, keys: owner },
        ]
    }

    fn reads(&self) -> Vec<Resource> {
        vec![CLAIMS]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, now: Timestamp) -> Plan {
        let Some(set) = Item::get(view, &STATEFUL_SETS, key) else { return Plan::default() };
        if Selector::parse(set.at("/spec/selector")).is_everything() {
            return Plan::default();
        }
        Decision::decide(view, set, last, now)
    }
}

/// The owner of a pod, or all that might adopt an orphan.
fn pod_keys(view: &dyn View, pod: &Object) -> Vec<Key> {
    if pod.meta.controller().is_some() {
        return controller_key(pod, "apps", "StatefulSet").into_iter().collect();
    }
    let sets = Item::all(view.list(&STATEFUL_SETS, Some(&pod.meta.namespace)));
    let adopting = sets.iter().filter(|set| Selector::parse(set.at("/spec/selector")).matches(&pod.meta));
    adopting.map(|set| Key::of(&set.object)).collect()
}

/// A revision by name, with its template.
#[derive(Clone)]
struct Revision {
    name: String,
    template: Value,
}

/// One place in the set: an ordinal and the pod that has it.
#[derive(Clone)]
struct Replica {
    ordinal: i64,
    pod: Option<Item>,
}

/// One look at a set.
struct Decision<'a> {
    view: &'a dyn View,
    set: Item,
    /// What pods were made of before, and what they are to be made of.
    current: Revision,
    update: Revision,
    replicas: Vec<Replica>,
    /// Pods beyond the range, highest ordinal first.
    condemned: Vec<Item>,
    counts: status::Counts,
    refused: Refused<'a>,
    now: Timestamp,
    plan: Plan,
}

impl<'a> Decision<'a> {
    fn decide(view: &'a dyn View, set: Item, last: &'a Outcome, now: Timestamp) -> Plan {
        let selector = Selector::parse(set.at("/spec/selector"));
        let claim = Claim {
            owner: &set,
            owners: &STATEFUL_SETS,
            api_version: "apps/v1",
            kind: "StatefulSet",
            selector: &selector,
            resource: &PODS,
            finalizer: None,
            last,
        };
        let Claimed { items, writes, wait } = claim.run(view, |pod| parent_of(pod) == set.name());
        let mut history = History::read(view, &set, OWNER, last);
        if let Some(wait) = wait.or_else(|| history.wait.take()) {
            return wait;
        }
        let mut plan = Plan { writes, ..Plan::default() };
        let update = match history.present(view, &set) {
            Ok(present) => Revision { name: present.name, template: set.at("/spec/template").clone() },
            Err(Collision) => {
                let status = json!({"status": {"collisionCount": set.int("/status/collisionCount") + 1}});
                plan.writes.push(set.patch(&STATEFUL_SETS, Some("status"), status));
                return plan;
            }
        };
        plan.writes.append(&mut history.writes);
        let current = history.named(set.text("/status/currentRevision")).filter(|known| known.name() != update.name);
        let current = current.map(|known| Revision { name: known.name().into(), template: template_of(known) });
        let current = current.unwrap_or_else(|| update.clone());
        let (counts, refused) = (status::Counts::default(), Refused::of(last));
        let (replicas, condemned) = places(&set, &items);
        let mut decision = Decision { view, set, current, update, replicas, condemned, counts, refused, now, plan };
        decision.counts = decision.count(&items);
        decision.carry_out();
        let in_use = |revision: &Item| {
            let name = revision.name();
            let worn = items.iter().any(|pod| pod.meta().label(REVISION_LABEL) == Some(name));
            worn || name == decision.current.name || name == decision.update.name
        };
        let limit = decision.set.at("/spec/revisionHistoryLimit").as_i64().unwrap_or(10);
        let surplus = history.surplus(limit, in_use);
        decision.plan.writes.extend(surplus);
        decision.plan
    }

    /// After a failure the status comes first, since the next attempt may fail as well.
    fn carry_out(&mut self) {
        if self.refused.replicas().is_some() {
            let status = self.status();
            self.plan.writes.extend(self.set.status_write(&STATEFUL_SETS, &status));
        }
        if !self.set.meta().is_deleting() {
            self.put_in_order();
        }
        if self.refused.replicas().is_none() {
            let status = self.status();
            self.plan.writes.extend(self.set.status_write(&STATEFUL_SETS, &status));
        }
        self.wait_for_availability();
    }

    fn size(&self) -> i64 {
        self.set.at("/spec/replicas").as_i64().unwrap_or(1)
    }

    fn is_ordered(&self) -> bool {
        self.set.at("/spec/podManagementPolicy") != "Parallel"
    }

    fn is_available(&self, pod: &Item) -> bool {
        pods::is_available(pod, self.set.int("/spec/minReadySeconds"), self.now)
    }

    fn is_unavailable(&self, pod: Option<&Item>) -> bool {
        pod.is_none_or(|pod| pod.meta().is_deleting() || !self.is_available(pod))
    }

    fn note_of_failure(&mut self, reason: &'static str, what: &str, error: &Status) {
        let message = format!("{what} in StatefulSet {} failed error: {}", self.set.name(), error.message);
        self.plan.events.push(self.set.note(EventKind::Warning, reason, message));
    }

    fn note_of_pod(&mut self, reason: &'static str, verb: &str, pod: &str) {
        let message = format!("{verb} Pod {pod} in StatefulSet {} successful", self.set.name());
        let mut note = self.set.note(EventKind::Normal, reason, message);
        note.of_write = Some(self.plan.writes.len());
        self.plan.events.push(note);
    }
}

/// The template that a revision holds.
fn template_of(revision: &Item) -> Value {
    let mut template = revision.at("/data/spec/template").clone();
    remove(&mut template, "$patch");
    template
}

fn start_of(set: &Item) -> i64 {
    set.int("/spec/ordinals/start")
}

fn in_range(set: &Item, ordinal: i64) -> bool {
    let start = start_of(set);
    (start..start + set.at("/spec/replicas").as_i64().unwrap_or(1)).contains(&ordinal)
}

fn places(set: &Item, pods: &[Item]) -> (Vec<Replica>, Vec<Item>) {
    let start = start_of(set);
    let highest = pods.iter().filter_map(ordinal_of).filter(|ordinal| in_range(set, *ordinal)).max();
    // However large the set is to be: beyond its pods, only as many places as are filled at once matter now.
    let enough = highest.map_or(0, |highest| highest - start + 1) + order::BURST_MAX as i64;
    let size = set.at("/spec/replicas").as_i64().unwrap_or(1).min(enough);
    let mut replicas: Vec<Replica> = (start..start + size).map(|ordinal| Replica { ordinal, pod: None }).collect();
    let mut condemned: Vec<Item> = Vec::new();
    for pod in pods {
        let Some(ordinal) = ordinal_of(pod) else { continue };
        let place = usize::try_from(ordinal - start).ok();
        match place.and_then(|place| replicas.get_mut(place)) {
            Some(replica) => replica.pod = Some(pod.clone()),
            None => condemned.push(pod.clone()),
        }
    }
    condemned.sort_by_key(|pod| std::cmp::Reverse(ordinal_of(pod)));
    (replicas, condemned)
}
