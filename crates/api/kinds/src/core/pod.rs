//! Pods: created pending with their class of service, changed in few fields only, deleted with a grace period.

mod label_keys;
mod summary;
mod update;

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use crate::column::{AGE, Column, NAME, string_or, text};
use crate::rules::{Lifecycle, Rules, restore_at};
use crate::shapes::{pod_defaults, pod_spec, quantities, template, tree};

const COLUMNS: &[Column] = &[
    NAME,
    text("Ready", |pod, now| summary::of(pod, now).ready.into()).about("How many containers are ready."),
    text("Status", |pod, now| summary::of(pod, now).status.into()).about("What the containers do, in a word."),
    text("Restarts", |pod, now| summary::of(pod, now).restarts.into()).about("How often containers were restarted."),
    AGE,
    text("IP", |pod, _| match pod.list_at(&["status", "podIPs"]).first() {
        Some(address) => string_or(address, &["ip"], "<none>"),
        None => Value::string("<none>"),
    })
    .wide(),
    text("Node", |pod, _| string_or(pod, &["spec", "nodeName"], "<none>")).wide(),
    text("Nominated Node", |pod, _| string_or(pod, &["status", "nominatedNodeName"], "<none>")).wide(),
    text("Readiness Gates", |pod, _| summary::readiness_gates(pod).into()).wide(),
];

pub const RULES: Rules = Rules {
    default: |pod, _| pod_defaults::pod(pod),
    prepare_create,
    drop_gated: |gates, new, old| template::drop_gated_at(gates, new, old, &[]),
    prepare_status_update,
    validate,
    validate_update: update::validate,
    columns: COLUMNS,
    selectable_fields,
    selects_from: SELECTS_FROM,
    grace_seconds,
    lifecycle: Lifecycle::COUNTED,
    ..Rules::STANDARD
};

fn prepare_create(pod: &mut Value) {
    label_keys::merge(pod);
    let class = quantities::qos_class(pod.get("spec"));
    pod.set(&["status", "phase"], "Pending");
    pod.set(&["status", "qosClass"], class);
    if !pod.list_at(&["spec", "schedulingGates"]).is_empty() {
        let gated = r#"[{"type":"PodScheduled","status":"False","reason":"SchedulingGated","message":"Scheduling is blocked due to non-empty scheduling gates"}]"#;
        pod.set(&["status", "conditions"], tree(gated));
    }
}

/// The kubelet's write: whose the pod is and whether it is to go are not its business, the class of service is fixed.
fn prepare_status_update(new: &mut Value, old: &Value) {
    for member in ["ownerReferences", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        restore_at(new, old, &["metadata", member]);
    }
    if new.str_at(&["status", "qosClass"]).is_empty() {
        restore_at(new, old, &["status", "qosClass"]);
    }
}

fn validate(pod: &Value, errors: &mut ErrorList) {
    pod_spec::validate(pod.get("spec"), pod_spec::Within::Pod, &Path::new("spec"), errors);
}

const SELECTS_FROM: &[&[&str]] = &[
    &["spec", "nodeName"],
    &["spec", "restartPolicy"],
    &["spec", "schedulerName"],
    &["spec", "serviceAccountName"],
    &["spec", "hostNetwork"],
    &["status", "phase"],
    &["status", "podIPs"],
    &["status", "nominatedNodeName"],
];

fn selectable_fields(pod: &Value) -> Vec<(&'static str, String)> {
    let text = |path: &[&str]| pod.str_at(path).to_owned();
    let addresses: Vec<&str> =
        pod.list_at(&["status", "podIPs"]).iter().map(|address| address.str_at(&["ip"])).collect();
    vec![
        ("spec.nodeName", text(&["spec", "nodeName"])),
        ("spec.restartPolicy", text(&["spec", "restartPolicy"])),
        ("spec.schedulerName", text(&["spec", "schedulerName"])),
        ("spec.serviceAccountName", text(&["spec", "serviceAccountName"])),
        ("spec.hostNetwork", pod.bool_at(&["spec", "hostNetwork"]).to_string()),
        ("status.phase", text(&["status", "phase"])),
        ("status.podIP", addresses.first().copied().unwrap_or_default().to_owned()),
        ("status.podIPs", addresses.join(",")),
        ("status.nominatedNodeName", text(&["status", "nominatedNodeName"])),
    ]
}

/// What was asked for, else what the pod says, else 30 s; at once where nothing runs.
fn grace_seconds(pod: &Value, asked: Option<i64>) -> Option<i64> {
    let own = pod.int_at(&["spec", "terminationGracePeriodSeconds"]);
    let is_over = ["Succeeded", "Failed"].contains(&pod.str_at(&["status", "phase"]));
    if is_over || pod.str_at(&["spec", "nodeName"]).is_empty() {
        return Some(0);
    }
    let seconds = asked.or(own).unwrap_or(30);
    Some(if seconds < 0 { 1 } else { seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheduled_pod_gets_its_grace_period() {
        let cases = [
            (r#"{"spec":{"nodeName":"n","terminationGracePeriodSeconds":5}}"#, None, Some(5)),
            (r#"{"spec":{"nodeName":"n"}}"#, None, Some(30)),
            (r#"{"spec":{"nodeName":"n"}}"#, Some(0), Some(0)),
            (r#"{"spec":{}}"#, Some(9), Some(0)),
            (r#"{"spec":{"nodeName":"n"},"status":{"phase":"Failed"}}"#, Some(9), Some(0)),
        ];
        for (pod, asked, expected) in cases {
            assert_eq!(grace_seconds(&tree(pod), asked), expected, "{pod}");
        }
    }

    #[test]
    fn a_bad_pod_is_told_field_by_field() {
        let mut pod = tree(
            r#"{"spec":{"containers":[{"name":"A","ports":[{"containerPort":70000}],"env":[{"name":"x","valueFrom":{}}],
                "volumeMounts":[{"name":"v","mountPath":"/a"}]}],"tolerations":[{"operator":"Equal"}],"restartPolicy":"No"}}"#,
        );
        (RULES.default)(&mut pod, "v1");
        let mut errors = ErrorList::default();
        validate(&pod, &mut errors);
        let fields: Vec<&str> = errors.errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "spec.containers[0].name",
                "spec.containers[0].image",
                "spec.containers[0].ports[0].containerPort",
                "spec.containers[0].env[0].valueFrom",
                "spec.containers[0].volumeMounts[0].name",
                "spec.restartPolicy",
                "spec.tolerations[0].operator",
            ]
        );
    }
}
