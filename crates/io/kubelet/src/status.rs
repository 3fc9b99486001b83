//! Writes the status of a pod: as a patch of what changed, so that others' conditions stay theirs.

use coracle_client::{ClientError, ObjectPath, Patch, WriteOptions};
use coracle_reconcile::plan::merge_patch;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};

use crate::node_context::{NodeContext, name_of, namespace_of, uid_of};

const OWN_CONDITIONS: [&str; 7] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "PodResizePending",
    "PodResizeInProgress",
];

pub(crate) enum StatusWrite {
    /// The status that was written.
    Done(Box<PodStatus>),
    /// The pod is not in the API any more, or another of its name is.
    Gone,
    Failed,
}

/// The pod as the API has it, with the status that was decided here last: own writes come back late. Who manages which
/// field is left out: it is the larger part of a pod, and nothing here asks for it.
pub(crate) fn overlay(pod: &Pod, last: Option<&PodStatus>) -> Pod {
    let mut pod = pod.clone();
    pod.metadata.managed_fields = None;
    let Some(last) = last else { return pod };
    let from_api = pod.status.clone().unwrap_or_default();
    if matches!(from_api.phase.as_deref(), Some("Failed" | "Succeeded")) && from_api.phase != last.phase {
        return pod;
    }
    let mut status = last.clone();
    let is_own = |name: &str| OWN_CONDITIONS.contains(&name);
    let others = from_api.conditions.into_iter().flatten().filter(|condition| !is_own(&condition.type_));
    let own = last.conditions.iter().flatten().filter(|condition| is_own(&condition.type_)).cloned();
    status.conditions = Some(others.chain(own).collect());
    status.nominated_node_name = from_api.nominated_node_name;
    status.resource_claim_statuses = from_api.resource_claim_statuses;
    status.extended_resource_claim_status = from_api.extended_resource_claim_status;
    status.qos_class = from_api.qos_class;
    pod.status = Some(status);
    pod
}

pub(crate) async fn write_status(node: &NodeContext, pod: &Pod, before: &PodStatus) -> StatusWrite {
    let status = pod.status.clone().unwrap_or_default();
    let Some(change) = status_patch(before, &status) else { return StatusWrite::Done(Box::new(status)) };
    let patch = Patch::Strategic(json!({"metadata": {"uid": uid_of(pod)}, "status": change}));
    let path = ObjectPath::of::<Pod>(namespace_of(pod), name_of(pod)).subresource("status");
    match node.client.patch(&path, &patch, &WriteOptions::default()).await {
        Ok(_) => StatusWrite::Done(Box::new(status)),
        Err(ClientError::Status(status)) if status.is_not_found() => StatusWrite::Gone,
        Err(ClientError::Status(refused)) if refused.is_conflict() && refused.message.contains("uid") => {
            StatusWrite::Gone
        }
        Err(error) => {
            tracing::warn!(%error, object = name_of(pod), "writing the status of a pod");
            StatusWrite::Failed
        }
    }
}

/// A strategic merge patch; `None` where nothing differs.
fn status_patch(before: &PodStatus, after: &PodStatus) -> Option<Value> {
    let old = serde_json::to_value(before).unwrap_or_default();
    let new = serde_json::to_value(after).unwrap_or_default();
    let mut patch = merge_patch(&old, &new)?;
    if let Some(Value::Array(conditions)) = patch.get_mut("conditions") {
        conditions.retain(|condition| OWN_CONDITIONS.contains(&condition["type"].as_str().unwrap_or_default()));
    }
    let types = |status: &Value| -> Vec<String> {
        let all = status["conditions"].as_array().into_iter().flatten();
        all.filter_map(|condition| condition["type"].as_str().map(str::to_owned)).collect()
    };
    let left = types(&new);
    if let Some(Value::Array(conditions)) = patch.get_mut("conditions") {
        let gone =
            types(&old).into_iter().filter(|name| OWN_CONDITIONS.contains(&name.as_str()) && !left.contains(name));
        conditions.extend(gone.map(|name| json!({"$patch": "delete", "type": name})));
    }
    // Elements are merged, not replaced: what a condition no longer says has to be taken out by name.
    let kept = patch.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten();
    for condition in kept.filter(|condition| condition.get("$patch").is_none()) {
        let before = old["conditions"].as_array().into_iter().flatten().find(|old| old["type"] == condition["type"]);
        for key in before.and_then(Value::as_object).into_iter().flat_map(|before| before.keys()) {
            if condition.get(key).is_none() {
                condition[key] = Value::Null;
            }
        }
    }
    for (list, key) in [("podIPs", "ip"), ("hostIPs", "ip")] {
        let Some(Value::Array(kept)) = patch.get_mut(list) else { continue };
        let gone = old[list]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|item| !new[list].as_array().into_iter().flatten().any(|now| now[key] == item[key]));
        kept.extend(gone.map(|item| json!({"$patch": "delete", key: item[key]})));
    }
    Some(patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodCondition, PodIP};

    fn condition(name: &str, status: &str) -> PodCondition {
        PodCondition { type_: name.into(), status: status.into(), ..PodCondition::default() }
    }

    #[test]
    fn a_patch_leaves_others_conditions_alone_and_drops_old_addresses() {
        let before = PodStatus { pod_ips: Some(vec![PodIP { ip: "10.0.0.1".into() }]), ..PodStatus::default() };
        let after = PodStatus {
            pod_ips: Some(vec![PodIP { ip: "10.0.0.2".into() }]),
            conditions: Some(vec![condition("example.com/gate", "True"), condition("Ready", "False")]),
            ..PodStatus::default()
        };
        let patch = status_patch(&before, &after).unwrap();
        assert_eq!(patch["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(patch["podIPs"], json!([{"ip": "10.0.0.2"}, {"$patch": "delete", "ip": "10.0.0.1"}]));
        assert_eq!(status_patch(&after, &after), None);
    }

    #[test]
    fn what_a_condition_no_longer_says_is_taken_out() {
        let with = |condition: PodCondition| PodStatus { conditions: Some(vec![condition]), ..PodStatus::default() };
        let before = with(PodCondition { reason: Some("ContainersNotReady".into()), ..condition("Ready", "False") });
        let patch = status_patch(&before, &with(condition("Ready", "True"))).unwrap();
        assert_eq!(patch["conditions"][0], json!({"type": "Ready", "status": "True", "reason": null}));
    }
}
