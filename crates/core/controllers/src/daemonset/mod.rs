//! DaemonSets: one pod on each node that the template admits, replaced node by node when the template changes.

mod backoff;
mod placement;
mod rollout;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use coracle_meta::{Object, Resource};
use coracle_reconcile::{Controller, EventKind, Key, Outcome, Plan, View, Watch, Write};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::claim::{Claim, Claimed};
use crate::history::{Collision, History, Owner, REVISIONS};
use crate::pods::{self, PODS, Refused};
use crate::selector::Selector;
use crate::shape::{Item, Rounding, controller_key, scaled};
use backoff::Backoff;
use placement::{Fit, fit, target};

pub const DAEMON_SETS: Resource = Resource::new("apps", "daemonsets");
const NODES: Resource = Resource::new("", "nodes");
const HASH_LABEL: &str = "controller-revision-hash";
const GENERATION_LABEL: &str = "pod-template-generation";
const GENERATION: &str = "deprecated.daemonset.template.generation";
const OWNER: Owner = Owner { resource: &DAEMON_SETS, kind: "DaemonSet", hash_label: HASH_LABEL };
/// How long two revisions of one template stand beside each other: who made the second may still look for it.
const DOUBLE_STAYS: SignedDuration = SignedDuration::from_secs(2);
/// Pods created, and pods deleted, by one decision.
const BURST_MAX: usize = 250;

#[derive(Default)]
pub struct DaemonSet {
    backoff: Backoff,
}

impl Controller for DaemonSet {
    fn name(&self) -> &'static str {
        "daemonset-controller"
    }

    fn identity(&self) -> &'static str {
        "daemon-set-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::itself(DAEMON_SETS),
            Watch { resource: PODS, keys: pod_keys },
            Watch {
                resource: REVISIONS,
                keys: |_, item| controller_key(item, "apps", "DaemonSet").into_iter().collect(),
            },
            Watch {
                resource: NODES,
                keys: |view, _| view.list(&DAEMON_SETS, None).iter().map(|set| Key::of(set)).collect(),
            },
        ]
    }

    fn concurrency_max(&self) -> usize {
        2
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, now: Timestamp) -> Plan {
        let Some(set) = Item::get(view, &DAEMON_SETS, key) else { return Plan::default() };
        if Selector::parse(set.at("/spec/selector")).is_everything() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            let events = vec![set.note(EventKind::Warning, "SelectingAll", message)];
            return Plan { events, ..Plan::default() };
        }
        if set.meta().is_deleting() {
            return Plan::default();
        }
        Decision::decide(view, set, &self.backoff, last, now)
    }
}

/// The owner of a pod, or all that might adopt an orphan.
fn pod_keys(view: &dyn View, pod: &Object) -> Vec<Key> {
    if pod.meta.controller().is_some() {
        return controller_key(pod, "apps", "DaemonSet").into_iter().collect();
    }
    let sets = Item::all(view.list(&DAEMON_SETS, Some(&pod.meta.namespace)));
    let adopting = sets.iter().filter(|set| Selector::parse(set.at("/spec/selector")).matches(&pod.meta));
    adopting.map(|set| Key::of(&set.object)).collect()
}

/// What to do: nodes that get a pod, pods that go.
#[derive(Default)]
struct Changes {
    create: Vec<String>,
    delete: Vec<Item>,
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.create.is_empty() && self.delete.is_empty()
    }
}

/// One look at a set.
struct Decision<'a> {
    set: Item,
    nodes: Vec<(Item, Fit)>,
    /// By node, scheduled first, then by age. Nodes without pods are not in it.
    pods: BTreeMap<String, Vec<Item>>,
    hash: String,
    backoff: &'a Backoff,
    refused: Refused<'a>,
    now: Timestamp,
    plan: Plan,
}

impl<'a> Decision<'a> {
    fn decide(view: &dyn View, set: Item, backoff: &'a Backoff, last: &'a Outcome, now: Timestamp) -> Plan {
        let selector = Selector::parse(set.at("/spec/selector"));
        let claim = Claim {
            owner: &set,
            owners: &DAEMON_SETS,
            api_version: "apps/v1",
            kind: "DaemonSet",
            selector: &selector,
            resource: &PODS,
            finalizer: None,
            last,
        };
        let Claimed { items, writes, wait } = claim.run(view, |_| true);
        let mut history = History::read(view, &set, OWNER, last);
        if let Some(wait) = wait.or_else(|| history.wait.take()) {
            return wait;
        }
        let mut plan = Plan { writes, ..Plan::default() };
        let present = match history.present(view, &set) {
            Ok(present) => present,
            Err(Collision) => {
                let count = set.int("/status/collisionCount") + 1;
                plan.writes.push(set.patch(&DAEMON_SETS, Some("status"), json!({"status": {"collisionCount": count}})));
                return plan;
            }
        };
        plan.writes.append(&mut history.writes);
        let mut template = set.at("/spec/template/spec").clone();
        placement::add_tolerations(&mut template);
        let nodes = Item::all(view.list(&NODES, None)).into_iter().map(|node| (fit(&template, &node), node));
        let nodes = nodes.map(|(fit, node)| (node, fit)).collect();
        for double in &present.doubles {
            plan.writes.extend(
                items
                    .iter()
                    .filter(|pod| pod.meta().label(HASH_LABEL) != Some(&present.hash))
                    .map(|pod| pod.patch(&PODS, None, json!({"metadata": {"labels": {HASH_LABEL: present.hash}}}))),
            );
            let pair = [history.named(double), history.named(&present.name)];
            let age = pair.iter().flatten().map(|one| now.duration_since(one.created())).min().unwrap_or(DOUBLE_STAYS);
            match DOUBLE_STAYS - age {
                left if left.is_positive() && !age.is_negative() => plan.wake_by(left.unsigned_abs()),
                _ => plan.writes.extend(pair[0].map(|double| double.delete(&REVISIONS))),
            }
        }
        let live: Vec<String> =
            items.iter().filter_map(|pod| pod.meta().label(HASH_LABEL)).map(str::to_owned).collect();
        let (pods, refused) = (by_node(items), Refused::of(last));
        let mut decision = Decision { set, nodes, pods, hash: present.hash, backoff, refused, now, plan };
        decision.carry_out();
        let in_use = |revision: &Item| {
            let hash = revision.meta().label(HASH_LABEL).unwrap_or_default();
            revision.name() == present.name
                || live.iter().any(|live| live == hash)
                || present.doubles.iter().any(|double| double == revision.name())
        };
        let limit = decision.set.at("/spec/revisionHistoryLimit").as_i64().unwrap_or(10);
        decision.plan.writes.extend(history.surplus(limit, in_use));
        decision.plan
    }

    /// After a failure the status comes first, since the next attempt may fail as well.
    fn carry_out(&mut self) {
        let mut changes = self.manage();
        if changes.is_empty() && self.set.at("/spec/updateStrategy/type") == "RollingUpdate" {
            changes = self.roll();
        }
        let status = self.set.status_write(&DAEMON_SETS, &self.status());
        if self.refused.replicas().is_some() {
            self.plan.writes.extend(status.clone());
        }
        self.make(changes);
        if self.refused.replicas().is_none() {
            self.plan.writes.extend(status);
        }
        self.wait_for_availability();
    }

    /// What each node lacks or has too much of, whatever the template's revision.
    fn manage(&mut self) -> Changes {
        let mut changes = Changes::default();
        let nodes = std::mem::take(&mut self.nodes);
        for (node, fit) in &nodes {
            match self.pods.get(node.name()).cloned() {
                None if fit.should_run => changes.create.push(node.name().to_owned()),
                None => {}
                Some(pods) if fit.may_stay => self.keep_one(node.name(), *fit, &pods, &mut changes),
                Some(pods) => changes.delete.extend(pods.into_iter().filter(|pod| !pod.meta().is_deleting())),
            }
        }
        let known = |name: &str| nodes.iter().any(|(node, _)| node.name() == name);
        let lost = self.pods.iter().filter(|(name, _)| !known(name)).flat_map(|(_, pods)| pods);
        let lost = lost.filter(|pod| pod.text("/spec/nodeName").is_empty() && !pod.meta().is_deleting());
        changes.delete.extend(lost.cloned());
        self.nodes = nodes;
        changes
    }

    fn keep_one(&mut self, node: &str, fit: Fit, pods: &[Item], changes: &mut Changes) {
        let mut running = Vec::new();
        for pod in pods.iter().filter(|pod| !pod.meta().is_deleting()) {
            let about = format!("{}/{} on node {node}", pod.namespace(), pod.name());
            match pods::phase(pod) {
                "Failed" => {
                    let key = format!("{}/{}/{node}", self.set.uid(), self.set.int("/status/observedGeneration"));
                    let wait = self.backoff.next(key, self.now);
                    if !wait.is_zero() {
                        self.plan.wake_by(wait);
                        continue;
                    }
                    let message = format!("Found failed daemon pod {about}, will try to kill it");
                    self.plan.events.push(self.set.note(EventKind::Warning, "FailedDaemonPod", message));
                    changes.delete.push(pod.clone());
                }
                "Succeeded" => {
                    let message = format!("Found succeeded daemon pod {about}, will try to delete it");
                    self.plan.events.push(self.set.note(EventKind::Normal, "SucceededDaemonPod", message));
                    changes.delete.push(pod.clone());
                }
                _ => running.push(pod.clone()),
            }
        }
        if self.max_surge(1) == 0 {
            changes.delete.extend(running.into_iter().skip(1));
        } else if running.is_empty() && fit.should_run {
            changes.create.push(node.to_owned());
        } else if running.len() > 1 {
            self.keep_two(running, changes);
        }
    }

    /// While surging, the oldest pod of the new and of the old template stay until the new one is available.
    fn keep_two(&self, running: Vec<Item>, changes: &mut Changes) {
        let (mut new, mut old): (Vec<Item>, Vec<Item>) =
            running.into_iter().partition(|pod| pod.meta().label(HASH_LABEL) == Some(&self.hash));
        changes.delete.extend(new.drain(new.len().min(1)..).chain(old.drain(old.len().min(1)..)));
        if let (Some(new), Some(old)) = (new.pop(), old.pop())
            && (!pods::is_ready(&old) || self.is_available(&new))
        {
            changes.delete.push(old);
        }
    }

    fn make(&mut self, changes: Changes) {
        let futile = self.refused.create.is_some_and(pods::is_namespace_terminating);
        let most = if futile { 0 } else { BURST_MAX };
        let create = &changes.create[..changes.create.len().min(most)];
        if let Some(error) = self.refused.create.filter(|_| !create.is_empty()) {
            let message = format!("Error creating: {}", error.message);
            self.plan.events.push(self.set.note(EventKind::Warning, "FailedCreate", message));
        }
        for node in create {
            let (namespace, object) = (self.set.namespace().to_owned(), self.pod(node));
            self.write(Write::Create { resource: PODS, namespace, object }, "SuccessfulCreate", "Created pod: {name}");
        }
        if let Some(error) = self.refused.delete.filter(|_| !changes.delete.is_empty()) {
            let message = format!("Error deleting: {}", error.message);
            self.plan.events.push(self.set.note(EventKind::Warning, "FailedDelete", message));
        }
        for pod in changes.delete.iter().take(BURST_MAX) {
            self.write(pod.delete(&PODS), "SuccessfulDelete", "Deleted pod: {name}");
        }
    }

    fn write(&mut self, write: Write, reason: &'static str, message: &str) {
        let mut note = self.set.note(EventKind::Normal, reason, message);
        note.of_write = Some(self.plan.writes.len());
        self.plan.events.push(note);
        self.plan.writes.push(write);
    }

    fn pod(&self, node: &str) -> Value {
        let owner = self.set.controller_reference("apps/v1", "DaemonSet");
        let mut pod = pods::from_template(self.set.at("/spec/template"), &self.set, owner);
        placement::add_tolerations(&mut pod["spec"]);
        placement::pin(&mut pod["spec"], node);
        if let Some(generation) = self.generation() {
            pod["metadata"]["labels"][GENERATION_LABEL] = json!(generation);
        }
        pod["metadata"]["labels"][HASH_LABEL] = json!(self.hash);
        pod
    }

    fn generation(&self) -> Option<&str> {
        self.set.annotation(GENERATION).filter(|generation| generation.parse::<i64>().is_ok())
    }

    fn is_updated(&self, pod: &Item) -> bool {
        let generation = self.generation();
        pod.meta().label(HASH_LABEL) == Some(&self.hash)
            || (generation.is_some() && pod.meta().label(GENERATION_LABEL) == generation)
    }

    fn is_available(&self, pod: &Item) -> bool {
        pods::is_available(pod, self.set.int("/spec/minReadySeconds"), self.now)
    }

    fn max_surge(&self, total: i64) -> i64 {
        self.rolling("maxSurge", total)
    }

    fn rolling(&self, member: &str, total: i64) -> i64 {
        if self.set.at("/spec/updateStrategy/type") != "RollingUpdate" {
            return 0;
        }
        scaled(&self.set.at("/spec/updateStrategy/rollingUpdate")[member], total, Rounding::Up).unwrap_or(0)
    }
}

/// Pods by the node they are on or made for, without those that ended and are on their way out.
fn by_node(items: Vec<Item>) -> BTreeMap<String, Vec<Item>> {
    let mut pods: BTreeMap<String, Vec<Item>> = BTreeMap::new();
    for pod in items {
        let ended = matches!(pods::phase(&pod), "Succeeded" | "Failed") && pod.meta().is_deleting();
        if let Some(node) = target(&pod).filter(|_| !ended) {
            pods.entry(node.to_owned()).or_default().push(pod);
        }
    }
    for list in pods.values_mut() {
        list.sort_by_key(|pod| (pod.text("/spec/nodeName").is_empty(), pod.created(), pod.name().to_owned()));
    }
    pods
}
