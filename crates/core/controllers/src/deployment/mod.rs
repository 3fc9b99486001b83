//! Deployments: replica sets by revision of the template, rolled from the old to the new within the bounds of surge
//! and unavailability. Each decision takes at most one step of a rollout and tells the status.

pub(crate) mod revision;
mod rollout;
mod scale;
mod status;
#[cfg(test)]
mod tests;

use coracle_meta::{Object, Resource, Status};
use coracle_reconcile::{Controller, EventKind, Index, Key, Outcome, Plan, View, Watch, Write};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::claim::{Claim, Claimed};
use crate::pods::PODS;
use crate::replicaset::REPLICA_SETS;
use crate::selector::Selector;
use crate::shape::{Item, Rounding, controller_key, scaled};

pub const DEPLOYMENTS: Resource = Resource::new("apps", "deployments");
const HASH_LABEL: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

pub struct Deployment;

impl Controller for Deployment {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::itself(DEPLOYMENTS),
            Watch { resource: REPLICA_SETS, keys: set_keys },
            Watch { resource: PODS, keys: pod_keys },
        ]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, now: Timestamp) -> Plan {
        let Some(item) = Item::get(view, &DEPLOYMENTS, key) else { return Plan::default() };
        let mut rollout = match Rollout::new(view, item, last, now) {
            Ok(rollout) => rollout,
            Err(wait) => return wait,
        };
        rollout.decide(view);
        rollout.plan
    }
}

/// The deployment that owns a set, or all that might adopt it.
fn set_keys(view: &dyn View, set: &Object) -> Vec<Key> {
    if set.meta.controller().is_some() {
        return controller_key(set, "apps", "Deployment").into_iter().collect();
    }
    let all = Item::all(view.list(&DEPLOYMENTS, Some(&set.meta.namespace)));
    let adopting = all.iter().filter(|item| Selector::parse(item.at("/spec/selector")).matches(&set.meta));
    adopting.map(|item| Key::of(&item.object)).collect()
}

/// The deployment whose set owns a pod that has finished or is gone: only Recreate waits for that.
fn pod_keys(view: &dyn View, pod: &Object) -> Vec<Key> {
    let Some(set) = controller_key(pod, "apps", "ReplicaSet") else { return Vec::new() };
    let Some(set) = view.get(&REPLICA_SETS, &set.namespace, &set.name) else { return Vec::new() };
    let Some(key) = controller_key(&set, "apps", "Deployment") else { return Vec::new() };
    let deployment = view.get(&DEPLOYMENTS, &key.namespace, &key.name);
    if deployment.is_some_and(|deployment| deployment.kept(recreates).0) { vec![key] } else { Vec::new() }
}

/// Whether a deployment stops all old pods before it starts new ones.
struct Recreates(bool);

fn recreates(deployment: &Object) -> Recreates {
    let strategy = coracle_meta::Value::sparse(&deployment.bytes, &[&["spec", "strategy", "type"]]);
    Recreates(strategy.is_ok_and(|tree| tree.str_at(&["spec", "strategy", "type"]) == "Recreate"))
}

/// One replica set as the decision sees it; `replicas` follows what the plan changes.
#[derive(Clone)]
struct Set {
    item: Item,
    replicas: i64,
}

impl Set {
    fn status(&self, field: &str) -> i64 {
        self.item.at("/status")[field].as_i64().unwrap_or(0)
    }

    fn revision(&self) -> i64 {
        self.item.annotation(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// A replica count that an annotation records.
    fn recorded(&self, annotation: &str) -> Option<i64> {
        self.item.annotation(annotation)?.parse().ok().filter(|count| *count >= 0)
    }
}

/// A decision in the making.
struct Rollout<'a> {
    item: Item,
    /// The set of the current template, and the others, oldest first.
    new: Option<Set>,
    old: Vec<Set>,
    /// The status as this decision changes it beside the counts.
    status: Value,
    error: Option<&'a Status>,
    now: Timestamp,
    plan: Plan,
}

impl<'a> Rollout<'a> {
    /// Otherwise what there is to wait for.
    fn new(view: &dyn View, item: Item, last: &'a Outcome, now: Timestamp) -> Result<Rollout<'a>, Plan> {
        let selector = Selector::parse(item.at("/spec/selector"));
        let claim = Claim {
            owner: &item,
            owners: &DEPLOYMENTS,
            api_version: "apps/v1",
            kind: "Deployment",
            selector: &selector,
            resource: &REPLICA_SETS,
            finalizer: None,
            last,
        };
        let claimed = if selector.is_everything() { Claimed::default() } else { claim.run(view, |_| true) };
        if let Some(wait) = claimed.wait {
            return Err(wait);
        }
        let mut sets: Vec<Set> = claimed.items.into_iter().map(Set::from).collect();
        sets.sort_by_key(|set| (set.item.created(), set.item.name().to_owned()));
        let template = revision::plain(item.at("/spec/template"));
        let at = sets.iter().position(|set| revision::plain(set.item.at("/spec/template")) == template);
        let new = at.map(|at| sets.remove(at));
        let plan = Plan { writes: claimed.writes, ..Plan::default() };
        let status = crate::shape::status_of(&item);
        let error = last.refusal(|write| matches!(write, Write::Create { .. }));
        Ok(Rollout { item, new, old: sets, status, error, now, plan })
    }

    fn decide(&mut self, view: &dyn View) {
        if Selector::parse(self.item.at("/spec/selector")).is_everything() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.observe_only(message);
            return;
        }
        if self.item.meta().is_deleting() {
            return self.tell_status();
        }
        self.note_pause();
        let paused = self.is_paused();
        if let Some(new) = self.new.clone() {
            self.sync_revision(&new);
        }
        if paused || self.is_scaling() {
            self.scale();
            if paused {
                self.drop_history();
            }
            return self.tell_status();
        }
        match self.item.text("/spec/strategy/type") {
            "Recreate" => self.recreate(view),
            _ => self.roll(view),
        }
        self.tell_rollout_status();
    }

    fn observe_only(&mut self, message: &str) {
        if self.status["observedGeneration"].as_i64() != Some(self.item.meta().generation) {
            self.plan.events.push(self.item.note(EventKind::Warning, "SelectingAll", message));
            self.status["observedGeneration"] = json!(self.item.meta().generation);
            let status = std::mem::take(&mut self.status);
            self.plan.writes.extend(self.item.status_write(&DEPLOYMENTS, &status));
        }
    }

    fn replicas(&self) -> i64 {
        self.item.at("/spec/replicas").as_i64().unwrap_or(1)
    }

    fn is_paused(&self) -> bool {
        self.item.at("/spec/paused") == true
    }

    fn is_rolling(&self) -> bool {
        self.item.text("/spec/strategy/type") != "Recreate"
    }

    /// Seconds without progress before a rollout counts as failed; `None` where nobody asked.
    fn deadline(&self) -> Option<i64> {
        self.item.at("/spec/progressDeadlineSeconds").as_i64().filter(|seconds| *seconds != i64::from(i32::MAX))
    }

    fn max_surge(&self) -> i64 {
        if !self.is_rolling() {
            return 0;
        }
        scaled(self.item.at("/spec/strategy/rollingUpdate/maxSurge"), self.replicas(), Rounding::Up).unwrap_or(0)
    }

    fn max_unavailable(&self) -> i64 {
        if !self.is_rolling() || self.replicas() == 0 {
            return 0;
        }
        let bound = self.item.at("/spec/strategy/rollingUpdate/maxUnavailable");
        let unavailable = scaled(bound, self.replicas(), Rounding::Down).unwrap_or(0);
        // Both bounds rounded to nothing would never let a rollout start.
        let unavailable = if unavailable == 0 && self.max_surge() == 0 { 1 } else { unavailable };
        unavailable.min(self.replicas())
    }

    /// The new set last.
    fn sets(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(&self.new)
    }

    fn total(&self, field: &str) -> i64 {
        self.sets().map(|set| set.status(field)).sum()
    }

    fn total_replicas(&self) -> i64 {
        self.sets().map(|set| set.replicas).sum()
    }

    /// Whether pods of old sets are still there, those on their way out included.
    fn old_pods_running(&self, view: &dyn View) -> bool {
        self.old.iter().any(|set| {
            set.status("replicas") > 0
                || Item::all(view.by_index(&PODS, Index::Owner, set.item.uid()))
                    .iter()
                    .any(|pod| !matches!(crate::pods::phase(pod), "Succeeded" | "Failed"))
        })
    }

    /// Gives a set a size, and the annotations that tell scaling from rolling out.
    fn resize(&mut self, set: &Set, to: i64) -> Set {
        let annotations = json!({
            DESIRED_REPLICAS: self.replicas().to_string(),
            MAX_REPLICAS: (self.replicas() + self.max_surge()).to_string(),
        });
        let stands = annotations.as_object().into_iter().flatten();
        let recorded = stands.into_iter().all(|(key, value)| set.item.annotation(key) == value.as_str());
        if set.replicas == to && recorded {
            return set.clone();
        }
        if set.replicas != to {
            let direction = if set.replicas < to { "up" } else { "down" };
            let name = set.item.name();
            let message = format!("Scaled {direction} replica set {name} from {} to {to}", set.replicas);
            let mut note = self.item.note(EventKind::Normal, "ScalingReplicaSet", message);
            note.of_write = Some(self.plan.writes.len());
            self.plan.events.push(note);
        }
        let patch = json!({"metadata": {"annotations": annotations}, "spec": {"replicas": to}});
        self.plan.writes.push(set.item.patch(&REPLICA_SETS, None, patch));
        Set { item: set.item.clone(), replicas: to }
    }

    /// Deletes old sets beyond the history limit, oldest revision first.
    fn drop_history(&mut self) {
        let Some(limit) = self.item.at("/spec/revisionHistoryLimit").as_i64() else { return };
        let mut old: Vec<&Set> = self.old.iter().filter(|set| !set.item.meta().is_deleting()).collect();
        old.sort_by_key(|set| (set.revision(), set.item.created()));
        let surplus = (old.len() as i64 - limit).max(0) as usize;
        let idle = |set: &&&Set| {
            let observed = set.status("observedGeneration") >= set.item.meta().generation;
            set.replicas == 0 && set.status("replicas") == 0 && observed
        };
        let deletions: Vec<Write> =
            old.iter().take(surplus).filter(idle).map(|set| set.item.delete(&REPLICA_SETS)).collect();
        self.plan.writes.extend(deletions);
    }
}

impl From<Item> for Set {
    fn from(item: Item) -> Set {
        let replicas = item.at("/spec/replicas").as_i64().unwrap_or(1);
        Set { item, replicas }
    }
}
