//! Carrying out what the scheduler decided: bindings, conditions, evictions, and what volumes need first. Requests and
//! words are kube-scheduler's.

use std::sync::Arc;

use coracle_client::verbs::Preconditions;
use coracle_client::{Client, ClientError, DeleteOptions, Made, ObjectPath, Patch, WriteOptions};
use coracle_meta::{Object, Resource};
use coracle_reconcile::{EventKind, View};
use coracle_rt::Clock;
use coracle_scheduler::{Deed, Effect, Event, GroupOutcome, PodInfo, PodKey, Reason};
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::scheduling::v1alpha2::PodGroup;
use serde_json::{Value, json};

use super::events::{Events, Note, reference};
use super::extenders::Callers;
use crate::recorder::rfc3339;

pub(super) const PODS: Resource = Resource::new("", "pods");
const PODGROUPS: Resource = Resource::new("scheduling.k8s.io", "podgroups");
/// An event's note is cut to this length.
const NOTE_BYTES_MAX: usize = 1024;

#[derive(Clone)]
pub struct Deeds {
    pub view: Arc<dyn View>,
    pub client: Client,
    pub clock: Clock,
    pub events: Events,
    pub extenders: Arc<Callers>,
}

impl Deeds {
    /// Does it, and tells what the scheduler has to know of how it went.
    pub async fn carry_out(&self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Bind { pod, node } => self.bind(&pod, &node).await,
            Effect::BindBy { pod, node, extender } => self.bind_by(&pod, &node, extender).await,
            Effect::Ask { pod, question } => {
                let answer = self.extenders.ask(&pod, question).await;
                Some(Event::Answered { key: pod.key.clone(), uid: pod.uid.to_string(), answer })
            }
            Effect::Prepare { pod, node, deeds } => {
                let done = self.prepare(&pod, &node, &deeds).await;
                if let Err(error) = &done {
                    tracing::warn!(object = ?pod.key, %error, "volumes could not be prepared");
                }
                Some(Event::Prepared { key: pod.key.clone(), uid: pod.uid.to_string(), done: done.is_ok() })
            }
            Effect::Failed { pod, reason, message, nominate } => {
                self.tell_failed(&pod, reason, &message, nominate).await;
                None
            }
            Effect::Group { group, outcome } => {
                self.tell_group(&group, outcome).await;
                None
            }
            Effect::Preempt { pod, node, victims, displaced } => {
                let done = self.preempt(&pod, &node, &victims, &displaced).await;
                if let Err(error) = &done {
                    tracing::warn!(object = ?pod.key, %error, "victims could not be evicted");
                }
                Some(Event::Preempted { key: pod.key.clone(), uid: pod.uid.to_string(), done: done.is_ok() })
            }
        }
    }

    pub(super) async fn bind(&self, pod: &PodInfo, node: &str) -> Option<Event> {
        let path = path(pod).subresource("binding");
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": &*pod.key.name, "namespace": &*pod.key.namespace, "uid": pod.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        match self.client.create_sub(&path, &binding).await {
            Ok(_) => {
                let note = format!("Successfully assigned {}/{} to {node}", pod.key.namespace, pod.key.name);
                self.note(pod, EventKind::Normal, ("Scheduled", "Binding"), note);
                None
            }
            Err(error) => {
                let error = error.into_status();
                tracing::debug!(object = ?pod.key, node, %error, "binding refused");
                let message = format!("running Bind plugin \"DefaultBinder\": {error}");
                Some(Event::BindFailed { key: pod.key.clone(), uid: pod.uid.to_string(), message })
            }
        }
    }

    /// A pod that is gone has nobody to tell.
    async fn tell_failed(&self, pod: &PodInfo, reason: Reason, message: &str, nominate: Option<String>) {
        let found = self.view.get(&PODS, &pod.key.namespace, &pod.key.name);
        if found.is_none_or(|found| *found.meta.uid != *pod.uid) {
            return;
        }
        let kind = EventKind::Warning;
        self.note(pod, kind, ("FailedScheduling", "Scheduling"), cut(message));
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": reason.as_str(), "message": message,
        });
        let mut status = self.with_condition(pod, condition);
        if let Some(node) = nominate {
            let node = if node.is_empty() { Value::Null } else { node.into() };
            status.get_or_insert_with(|| json!({}))["nominatedNodeName"] = node;
        }
        let Some(status) = status else { return };
        if let Err(error) = self.patch_status(pod, status).await {
            tracing::debug!(object = ?pod.key, %error, "condition not written");
        }
    }

    /// Writes a group's PodGroupScheduled condition, unless it says so already, or True and is to say less.
    async fn tell_group(&self, group: &PodKey, outcome: GroupOutcome) {
        let Some(object) = self.view.get(&PODGROUPS, &group.namespace, &group.name) else { return };
        let (status, reason, message) = match outcome {
            GroupOutcome::Scheduled => ("True", "Scheduled", String::new()),
            GroupOutcome::Not { reason, message } => ("False", reason.as_str(), message),
        };
        let known = conditions(&object).into_iter().find(|known| known["type"] == "PodGroupScheduled");
        let says = |field: &str, value: &str| known.as_ref().is_some_and(|known| known[field] == value);
        let says_all = says("status", status) && says("reason", reason) && says("message", &message);
        if says_all || (status == "False" && says("status", "True")) {
            return;
        }
        let changed = match known {
            Some(mut known) if known["status"] == status => known["lastTransitionTime"].take(),
            _ => rfc3339(self.clock.now()).into(),
        };
        let condition = json!({
            "type": "PodGroupScheduled", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": changed,
        });
        let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        let path = ObjectPath::of::<PodGroup>(&group.namespace, &group.name).subresource("status");
        if let Err(error) = self.client.patch(&path, &patch, &WriteOptions::default()).await {
            tracing::debug!(object = ?group, %error, "condition not written");
        }
    }

    /// The part of the status that changes by a condition; `None` where it says so already.
    fn with_condition(&self, pod: &PodInfo, mut condition: Value) -> Option<Value> {
        let object = self.view.get(&PODS, &pod.key.namespace, &pod.key.name)?;
        let known = conditions(&object).into_iter().find(|known| known["type"] == condition["type"]);
        let same = |field: &str, known: &Value| known[field] == condition[field];
        if known.as_ref().is_some_and(|known| ["status", "reason", "message"].iter().all(|field| same(field, known))) {
            return None;
        }
        condition["observedGeneration"] = object.meta.generation.into();
        condition["lastProbeTime"] = Value::Null;
        condition["lastTransitionTime"] = match known {
            Some(mut known) if known["status"] == condition["status"] => known["lastTransitionTime"].take(),
            _ => rfc3339(self.clock.now()).into(),
        };
        Some(json!({"conditions": [condition]}))
    }

    async fn patch_status(&self, pod: &PodInfo, status: Value) -> Result<(), ClientError> {
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid}, "status": status}));
        self.client.patch_of(&path(pod).subresource("status"), &patch, &WriteOptions::default()).await.map(|_: Made| ())
    }

    /// Takes back the nominations of those that lose by it, then evicts; the last victim goes when all others are gone.
    async fn preempt(
        &self,
        pod: &PodInfo,
        node: &str,
        victims: &[Arc<PodInfo>],
        displaced: &[Arc<PodInfo>],
    ) -> Result<(), ClientError> {
        let clear = |other: &Arc<PodInfo>| {
            let other = other.clone();
            async move { self.patch_status(&other, json!({"nominatedNodeName": null})).await }
        };
        for result in join_all(displaced.iter().map(clear)).await {
            if let Err(error) = result {
                tracing::debug!(%error, "nomination not taken back");
            }
        }
        let Some((last, others)) = victims.split_last() else { return Ok(()) };
        for evicted in join_all(others.iter().map(|victim| self.evict(pod, node, victim))).await {
            evicted?;
        }
        self.evict(pod, node, last).await
    }

    async fn evict(&self, pod: &PodInfo, node: &str, victim: &PodInfo) -> Result<(), ClientError> {
        let message = format!("{}: preempting to accommodate a higher priority pod", pod.scheduler_name);
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": message,
        });
        if let Some(status) = self.with_condition(victim, condition)
            && gone(self.patch_status(victim, status).await)?
        {
            return Ok(());
        }
        let options = DeleteOptions {
            preconditions: Some(Preconditions { uid: Some(victim.uid.to_string()), resource_version: None }),
            ..DeleteOptions::default()
        };
        if gone(self.client.delete_of(&path(victim), &options).await.map(|_: Made| ()))? {
            return Ok(());
        }
        self.events.tell(Note {
            regarding: reference(victim),
            related: Some(reference(pod)),
            controller: pod.scheduler_name.to_string(),
            kind: EventKind::Normal,
            reason: "Preempted",
            action: "Preempting",
            note: format!("Preempted by pod {} on node {node}", pod.uid),
        });
        Ok(())
    }

    async fn prepare(&self, pod: &PodInfo, node: &str, deeds: &[Deed]) -> Result<(), ClientError> {
        if let Err(error) = self.patch_status(pod, json!({"nominatedNodeName": node})).await {
            tracing::debug!(object = ?pod.key, %error, "the expected node was not told");
        }
        for deed in deeds {
            let (path, patch) = match deed {
                Deed::PromiseVolume { volume, namespace, claim, claim_uid } => (
                    ObjectPath::of::<PersistentVolume>("", volume),
                    json!({
                        "metadata": {"annotations": {"pv.kubernetes.io/bound-by-controller": "yes"}},
                        "spec": {"claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                                 "namespace": namespace, "name": claim, "uid": claim_uid}},
                    }),
                ),
                Deed::SelectNode { namespace, claim, node } => (
                    ObjectPath::of::<PersistentVolumeClaim>(namespace, claim),
                    json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": node}}}),
                ),
            };
            self.client.patch(&path, &Patch::Merge(patch), &WriteOptions::default()).await?;
        }
        Ok(())
    }

    pub(super) fn note(
        &self,
        pod: &PodInfo,
        kind: EventKind,
        (reason, action): (&'static str, &'static str),
        note: String,
    ) {
        let controller = pod.scheduler_name.to_string();
        self.events.tell(Note { regarding: reference(pod), related: None, controller, kind, reason, action, note });
    }
}

fn path(pod: &PodInfo) -> ObjectPath {
    ObjectPath::of::<Pod>(&pod.key.namespace, &pod.key.name)
}

fn conditions(object: &Object) -> Vec<Value> {
    let mut known: Value = serde_json::from_slice(&object.bytes).unwrap_or_default();
    serde_json::from_value(known["status"]["conditions"].take()).unwrap_or_default()
}

/// Whether the object was gone already; any other failure stays one.
fn gone(result: Result<(), ClientError>) -> Result<bool, ClientError> {
    match result {
        Ok(()) => Ok(false),
        Err(ClientError::Status(status)) if status.is_not_found() => Ok(true),
        Err(error) => Err(error),
    }
}

fn cut(message: &str) -> String {
    if message.len() <= NOTE_BYTES_MAX {
        return message.to_owned();
    }
    let end = (0..=NOTE_BYTES_MAX - 4).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    format!("{} ...", &message[..end])
}
