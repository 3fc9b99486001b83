//! Revisions: which set carries a template, its name and hash, and the annotations that make up the history.

use coracle_meta::Status;
use coracle_reconcile::{EventKind, View, Write};
use serde_json::{Value, json};

use super::{DEPLOYMENTS, DESIRED_REPLICAS, HASH_LABEL, MAX_REPLICAS, REVISION, REVISION_HISTORY, Rollout, Set};
use crate::pods::is_namespace_terminating;
use crate::replicaset::REPLICA_SETS;

/// Annotations of a deployment that its sets do not take over.
const OWN_ANNOTATIONS: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
const HISTORY_CHARACTERS_MAX: usize = 2000;
const NAME_BYTES_MAX: usize = 253;

/// A template without its hash label, members sorted and empty ones left out: equal for equal meaning.
pub fn plain(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.shift_remove(HASH_LABEL);
    }
    sorted(&template)
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut members: Vec<(&String, Value)> =
                members.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key, sorted(value))).collect();
            members.sort_by_key(|(key, _)| *key);
            Value::Object(members.into_iter().map(|(key, value)| (key.clone(), value)).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// FNV-1a of the template and the collision count, in letters that make no words. No collisions are the same as none told.
pub fn hash(template: &Value, collisions: Option<i64>) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let collisions = collisions.filter(|count| *count > 0).map(|count| count.to_string());
    let text = format!("{}{}", plain(template), collisions.unwrap_or_default());
    let number = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    number.to_string().bytes().map(|digit| char::from(ALPHABET[digit as usize % ALPHABET.len()])).collect()
}

impl Rollout<'_> {
    fn next_revision(&self) -> i64 {
        self.old.iter().map(Set::revision).max().unwrap_or(0).saturating_add(1)
    }

    /// Brings the new set's annotations and the deployment's revision up to date.
    pub(super) fn sync_revision(&mut self, new: &Set) {
        let annotations = self.annotations(new);
        let min_ready = self.item.int("/spec/minReadySeconds");
        let mut patch = json!({});
        if annotations.as_object().is_some_and(|changed| !changed.is_empty()) {
            patch["metadata"]["annotations"] = annotations.clone();
        }
        if new.item.int("/spec/minReadySeconds") != min_ready {
            patch["spec"]["minReadySeconds"] = json!(min_ready);
        }
        if patch.as_object().is_some_and(|patch| !patch.is_empty()) {
            self.plan.writes.push(new.item.patch(&REPLICA_SETS, None, patch));
        }
        let revision = annotations[REVISION].as_str().or(new.item.annotation(REVISION)).unwrap_or_default().to_owned();
        self.record_revision(&revision);
        if self.deadline().is_some() && self.progressing().is_none() {
            let message = format!("Found new replica set \"{}\"", new.item.name());
            self.set_progressing("True", "FoundNewReplicaSet", &message);
        }
    }

    fn record_revision(&mut self, revision: &str) {
        if self.item.annotation(REVISION) != Some(revision) {
            let patch = json!({"metadata": {"annotations": {REVISION: revision}}});
            // As part of the status: elsewhere a changed annotation counts as a new generation.
            self.plan.writes.push(self.item.patch(&DEPLOYMENTS, Some("status"), patch));
        }
    }

    /// The annotations of an existing new set that have to change.
    fn annotations(&self, new: &Set) -> Value {
        let mut changed = json!({});
        for (key, value) in self.inherited() {
            if new.item.annotation(&key) != value.as_str() {
                changed[key] = value;
            }
        }
        let (next, old) = (self.next_revision(), new.revision());
        if old < next {
            changed[REVISION] = json!(next.to_string());
            if let Some(before) = new.item.annotation(REVISION) {
                changed[REVISION_HISTORY] = json!(history(new.item.annotation(REVISION_HISTORY), before));
            }
        }
        changed
    }

    fn inherited(&self) -> Vec<(String, Value)> {
        let all = self.item.at("/metadata/annotations").as_object().cloned().unwrap_or_default();
        all.into_iter().filter(|(key, _)| !OWN_ANNOTATIONS.contains(&key.as_str())).collect()
    }

    /// Creates the set of the current template; a name that is taken by another template raises the collision count.
    pub(super) fn create_new(&mut self, view: &dyn View) {
        let template = self.item.at("/spec/template").clone();
        let hash = hash(&template, self.item.at("/status/collisionCount").as_i64());
        let prefix_max = NAME_BYTES_MAX - 1 - hash.len();
        let prefix = self.item.name();
        let name = format!("{}-{hash}", &prefix[..prefix.len().min(prefix_max)]);
        if view.get(&REPLICA_SETS, self.item.namespace(), &name).is_some() {
            let count = self.item.int("/status/collisionCount") + 1;
            self.status["collisionCount"] = json!(count);
            return;
        }
        match self.error {
            Some(error) if is_namespace_terminating(error) => return,
            Some(error) => self.tell_failed_creation(&name, error),
            None => {}
        }
        let replicas = self.new_replicas(0);
        let object = self.new_set(&name, &hash, template, replicas);
        let created = self.plan.writes.len();
        let namespace = self.item.namespace().to_owned();
        self.plan.writes.push(Write::Create { resource: REPLICA_SETS, namespace, object });
        if replicas > 0 {
            let message = format!("Scaled up replica set {name} from 0 to {replicas}");
            let mut note = self.item.note(EventKind::Normal, "ScalingReplicaSet", message);
            note.of_write = Some(created);
            self.plan.events.push(note);
        }
        self.record_revision(&self.next_revision().to_string());
        if self.deadline().is_some() && self.error.is_none() {
            self.set_progressing("True", "NewReplicaSetCreated", &format!("Created new replica set \"{name}\""));
        }
    }

    fn tell_failed_creation(&mut self, name: &str, error: &Status) {
        let message = format!("Failed to create new replica set \"{name}\": {}", error.message);
        if self.deadline().is_some() {
            self.set_progressing("False", "ReplicaSetCreateError", &message);
        }
        self.plan.events.push(self.item.note(EventKind::Warning, "ReplicaSetCreateError", message));
        let status = self.status.clone();
        self.plan.writes.extend(self.item.status_write(&DEPLOYMENTS, &status));
    }

    fn new_set(&self, name: &str, hash: &str, mut template: Value, replicas: i64) -> Value {
        template["metadata"]["labels"][HASH_LABEL] = json!(hash);
        let mut selector = self.item.at("/spec/selector").clone();
        selector["matchLabels"][HASH_LABEL] = json!(hash);
        let mut annotations: serde_json::Map<String, Value> = self.inherited().into_iter().collect();
        annotations.insert(REVISION.into(), json!(self.next_revision().to_string()));
        annotations.insert(DESIRED_REPLICAS.into(), json!(self.replicas().to_string()));
        annotations.insert(MAX_REPLICAS.into(), json!((self.replicas() + self.max_surge()).to_string()));
        let mut spec = json!({"replicas": replicas, "selector": selector, "template": template});
        let min_ready = self.item.int("/spec/minReadySeconds");
        if min_ready != 0 {
            spec["minReadySeconds"] = json!(min_ready);
        }
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": name, "namespace": self.item.namespace(), "annotations": annotations,
                "labels": spec["template"]["metadata"]["labels"],
                "ownerReferences": [self.item.controller_reference("apps/v1", "Deployment")]},
            "spec": spec})
    }
}

/// The revisions a set served before, bounded by dropping the first.
fn history(before: Option<&str>, revision: &str) -> String {
    let mut list: Vec<&str> = before.unwrap_or_default().split(',').filter(|entry| !entry.is_empty()).collect();
    list.push(revision);
    while list.len() > 1 && list.join(",").len() > HISTORY_CHARACTERS_MAX {
        list.remove(0);
    }
    list.join(",")
}
