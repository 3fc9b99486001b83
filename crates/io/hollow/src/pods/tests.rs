//! What is written of hollow pods, beside what the kubelet's own decisions say of the same pods and containers.

use std::sync::Arc;

use coracle_podlife::{
    Action, ContainerKind, Desired, Instance, Memory, Observation, Outcome as Acted, Presence, RunState, Sandbox,
    container_hash, each_container, step,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::ledger::{Deed, Ledger, Outcome};
use crate::fleet::Fleet;

const UID: &str = "5f3f7a52-6a0e-4bd0-8f5e-0c2f6f4a1b2c";
const NODE: &str = "hollow-3";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn pod(spec: Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": UID, "resourceVersion": "5", "generation": 2,
            "annotations": {}},
        "spec": spec,
        "status": {"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(-9).to_string()}]},
    });
    pod["spec"]["nodeName"] = json!(NODE);
    pod
}

fn ledger() -> Ledger {
    Ledger::new(Arc::new(Fleet { nodes: 5, ..Fleet::default() }))
}

fn see(ledger: &mut Ledger, pod: &Value, now: Timestamp) {
    ledger.see(serde_json::from_str(&pod.to_string()).unwrap(), now);
}

/// The next write of the only pod, which succeeds: its status or nothing for a deletion.
fn write(ledger: &mut Ledger, now: Timestamp) -> Option<Value> {
    ledger.pass_time(now);
    let write = ledger.next_write(now)?;
    ledger.wrote(write.uid, Outcome::Written(6), now);
    match write.deed {
        Deed::Patch(patch) => Some(serde_json::from_slice::<Value>(&patch).unwrap()["status"].take()),
        Deed::Delete => Some(Value::Null),
    }
}

/// What the kubelet's decisions say where all init containers have ended well, and of the rest each runs or has ended.
fn kubelet_says(pod: &Value, hollow: &Value, ended: Option<i32>) -> Value {
    let now = at(if ended.is_some() { 1 } else { 0 });
    let mut pod: Pod = serde_json::from_value(pod.clone()).unwrap();
    pod.status.as_mut().unwrap().start_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)));
    let shown = |name: &str| {
        let lists = ["containerStatuses", "initContainerStatuses"].map(|list| hollow[list].as_array());
        lists.into_iter().flatten().flatten().find(|status| status["name"] == name).unwrap().clone()
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let exited = |code| RunState::Exited {
        code,
        reason: String::new(),
        message: String::new(),
        started_at: at(0),
        finished_at: now,
    };
    let instances = each_container(&pod).into_iter().map(|(kind, container)| {
        let status = shown(&container.name);
        let id = text(&status["containerID"]);
        Instance {
            id: id.trim_start_matches("hollow://").to_owned(),
            container_id: id,
            name: container.name.clone(),
            sandbox_id: "s".into(),
            attempt: 0,
            hash: container_hash(&container),
            state: match (kind, ended) {
                (ContainerKind::Init, _) => RunState::Exited {
                    code: 0,
                    reason: String::new(),
                    message: String::new(),
                    started_at: at(0),
                    finished_at: at(0),
                },
                (ContainerKind::Regular, Some(code)) => exited(code),
                (_, Some(_)) => exited(143),
                (_, None) => RunState::Running { started_at: at(0) },
            },
            image: text(&status["image"]),
            image_id: text(&status["imageID"]),
            resources: container.resources.clone(),
        }
    });
    let instances = instances.collect();
    let ips = vec![text(&hollow["podIP"])];
    let sandbox = Sandbox { id: "s".into(), ready: ended.is_none(), ips, ..Sandbox::default() };
    let mut memory = Memory::default();
    memory.finish(&Action::Prepare, &Acted::Done, now);
    let observed = Observation { sandboxes: vec![sandbox], instances };
    let desired = Desired { pod: &pod, presence: Presence::InApi, node_ip: "198.18.0.4", hindrance: None };
    serde_json::to_value(step(desired, &observed, &mut memory, now).status).unwrap()
}

/// Conditions by type, times aside: which of them are told anew differs, for a patch is not the whole.
fn conditions(status: &Value) -> Vec<Value> {
    let mut all: Vec<Value> = status["conditions"].as_array().unwrap().clone();
    all.retain(|condition| !condition["type"].as_str().unwrap().contains('/'));
    for condition in &mut all {
        let fields = condition.as_object_mut().unwrap();
        fields.retain(|name, value| !value.is_null() && name != "lastTransitionTime");
    }
    all.sort_by_key(|condition| condition["type"].to_string());
    all
}

fn assert_same(hollow: &Value, kubelet: &Value) {
    assert_eq!(conditions(hollow), conditions(kubelet));
    for field in ["phase", "observedGeneration", "hostIP", "hostIPs", "podIP", "podIPs", "startTime"] {
        assert_eq!(hollow[field], kubelet[field], "{field}");
    }
    for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
        assert_eq!(hollow[list], kubelet[list], "{list}\n{hollow:#}\n{kubelet:#}");
    }
}

fn specs() -> Vec<Value> {
    let resources = json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}});
    let mounts = json!([{"name": "a", "mountPath": "/a"}, {"name": "b", "mountPath": "/b", "readOnly": true}]);
    vec![
        json!({"containers": [{"name": "c", "image": "i:1", "resources": {}}]}),
        json!({"containers": [{"name": "c", "image": "i:1", "resources": resources, "volumeMounts": mounts},
            {"name": "d", "image": "j", "resources": {}}], "readinessGates": []}),
        json!({"containers": [{"name": "c", "image": "i", "resources": {}}],
            "initContainers": [{"name": "x", "image": "i", "resources": resources},
                {"name": "side", "image": "i", "restartPolicy": "Always", "resources": {}}]}),
        json!({"hostNetwork": true, "containers": [{"name": "c", "image": "i", "resources": {}}]}),
        json!({"containers": [{"name": "c", "image": "i", "resources": {}}],
            "readinessGates": [{"conditionType": "example.com/a"}, {"conditionType": "example.com/b"}]}),
    ]
}

#[test]
fn a_running_pod_looks_as_the_kubelet_would_show_it() {
    for mut spec in specs() {
        spec["restartPolicy"] = json!("Always");
        let mut pod = pod(spec);
        let gate = json!({"type": "example.com/b", "status": "False"});
        pod["status"]["conditions"].as_array_mut().unwrap().push(gate);
        let mut ledger = ledger();
        see(&mut ledger, &pod, at(0));
        let hollow = write(&mut ledger, at(0)).unwrap();
        assert_same(&hollow, &kubelet_says(&pod, &hollow, None));
        assert_eq!(write(&mut ledger, at(9999)), None, "and there is no more to say");
    }
}

#[test]
fn an_ended_pod_looks_as_the_kubelet_would_show_it() {
    for (mut spec, code) in specs().into_iter().zip([0, 1, 0, 3, 0]) {
        spec["restartPolicy"] = json!("Never");
        let mut pod = pod(spec);
        pod["metadata"]["annotations"] = json!({"coracle.dev/exit-code": code.to_string()});
        let mut ledger = ledger();
        see(&mut ledger, &pod, at(0));
        assert_eq!(write(&mut ledger, at(0)).unwrap()["phase"], "Running");
        assert_eq!(ledger.census().running, 1);
        let hollow = write(&mut ledger, at(1)).unwrap();
        assert_same(&hollow, &kubelet_says(&pod, &hollow, Some(code)));
        assert_eq!((ledger.census().running, write(&mut ledger, at(9))), (0, None));
    }
}

/// The pod as the API has it after a patch of its status, lists of conditions and all.
fn patched(pod: &Value, status: &Value, revision: u64) -> Value {
    let mut after = pod.clone();
    let old = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let new = status["conditions"].as_array().cloned().unwrap_or_default();
    let mut conditions: Vec<Value> =
        old.into_iter().filter(|old| !new.iter().any(|new| new["type"] == old["type"])).collect();
    conditions.extend(new);
    for (field, value) in status.as_object().unwrap() {
        after["status"][field] = value.clone();
    }
    after["status"]["conditions"] = json!(conditions);
    after["metadata"]["resourceVersion"] = json!(revision.to_string());
    after
}

#[test]
fn a_pod_is_taken_over_as_it_is_by_the_next_run() {
    let pod = pod(json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]}));
    let mut first = ledger();
    see(&mut first, &pod, at(0));
    let status = write(&mut first, at(0)).unwrap();
    let mut next = ledger();
    see(&mut next, &patched(&pod, &status, 6), at(60));
    assert_eq!((write(&mut next, at(60)), next.census().running), (None, 1));
    let mut other = patched(&pod, &status, 6);
    other["metadata"]["uid"] = json!(UID.replace('5', "6"));
    other["status"] = json!({"phase": "Pending"});
    see(&mut next, &other, at(60));
    assert_ne!(write(&mut next, at(60)).unwrap()["podIP"], status["podIP"], "its address stays its own");
}

#[test]
fn a_gate_makes_a_pod_ready_and_nothing_of_the_old_complaint_stays() {
    let pod = pod(json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}],
        "readinessGates": [{"conditionType": "example.com/a"}]}));
    let mut ledger = ledger();
    see(&mut ledger, &pod, at(0));
    let status = write(&mut ledger, at(0)).unwrap();
    let mut seen = patched(&pod, &status, 6);
    see(&mut ledger, &seen, at(1));
    assert_eq!(write(&mut ledger, at(1)), None);
    seen["status"]["conditions"].as_array_mut().unwrap().push(json!({"type": "example.com/a", "status": "True"}));
    seen["metadata"]["resourceVersion"] = json!("8");
    see(&mut ledger, &seen, at(2));
    let status = write(&mut ledger, at(2)).unwrap();
    let ready = status["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "Ready").unwrap();
    assert_eq!((&ready["status"], &ready["reason"], &ready["message"]), (&json!("True"), &json!(null), &json!(null)));
    assert!(ready.as_object().unwrap().contains_key("reason"), "null takes the reason out");
}

#[test]
fn a_deleted_pod_that_nobody_holds_is_removed_at_once() {
    let pod = pod(json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]}));
    let mut ledger = ledger();
    see(&mut ledger, &pod, at(0));
    let mut seen = patched(&pod, &write(&mut ledger, at(0)).unwrap(), 6);
    seen["metadata"]["deletionTimestamp"] = json!(at(35).to_string());
    seen["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    see(&mut ledger, &seen, at(5));
    assert_eq!(write(&mut ledger, at(5)), Some(Value::Null));
    see(&mut ledger, &seen, at(6));
    assert_eq!(write(&mut ledger, at(6)), None);
}

#[test]
fn a_deleted_pod_that_finalizers_hold_is_shown_ended_and_then_removed_once() {
    let mut pod = pod(json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]}));
    pod["metadata"]["finalizers"] = json!(["example.com/held"]);
    let mut ledger = ledger();
    see(&mut ledger, &pod, at(0));
    let mut seen = patched(&pod, &write(&mut ledger, at(0)).unwrap(), 6);
    seen["metadata"]["deletionTimestamp"] = json!(at(35).to_string());
    seen["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    see(&mut ledger, &seen, at(5));
    let last = write(&mut ledger, at(5)).unwrap();
    assert_eq!(
        (&last["phase"], &last["containerStatuses"][0]["state"]["terminated"]["exitCode"]),
        (&json!("Failed"), &json!(143))
    );
    assert_eq!(write(&mut ledger, at(5)), Some(Value::Null));
    let mut held = patched(&seen, &last, 7);
    held["metadata"]["deletionGracePeriodSeconds"] = json!(0);
    see(&mut ledger, &held, at(6));
    assert_eq!(write(&mut ledger, at(6)), None, "what is left is up to finalizers");
    ledger.remove(UID);
    assert_eq!(ledger.census().pods, 0);
}

#[test]
fn a_failed_write_is_tried_again_and_later_each_time() {
    let pod = pod(json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]}));
    let mut ledger = ledger();
    see(&mut ledger, &pod, at(0));
    let mut now = at(0);
    for pause in [500, 1000, 2000] {
        ledger.pass_time(now);
        let write = ledger.next_write(now).unwrap();
        assert_eq!(ledger.next_write(now), None, "one write at a time");
        ledger.wrote(write.uid, Outcome::Failed(SignedDuration::ZERO), now);
        ledger.pass_time(now + SignedDuration::from_millis(pause - 21));
        assert_eq!(ledger.next_write(now), None);
        now += SignedDuration::from_millis(pause + 20);
    }
    assert_eq!(write(&mut ledger, now).unwrap()["phase"], "Running");
}

#[test]
fn a_pod_that_is_seen_again_and_again_wakes_the_loop_once() {
    let mut ledger = ledger();
    let mut pod = pod(json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}));
    pod["metadata"]["annotations"]["coracle.dev/run-for"] = json!("1h");
    see(&mut ledger, &pod, at(0));
    let status = write(&mut ledger, at(0)).unwrap();
    let pod = patched(&pod, &status, 6);
    for second in 1..100 {
        see(&mut ledger, &pod, at(second));
        assert_eq!(write(&mut ledger, at(second)), None);
    }
    assert_eq!(ledger.pass_time(at(3600)), 1);
    assert_eq!(write(&mut ledger, at(3600)).unwrap()["phase"], "Succeeded");
}

#[test]
fn what_a_list_does_not_show_has_gone() {
    let pod = pod(json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "i"}]}));
    let mut ledger = ledger();
    ledger.begin_list();
    see(&mut ledger, &pod, at(0));
    ledger.end_list();
    assert_eq!(ledger.census().pods, 1);
    ledger.begin_list();
    ledger.end_list();
    assert_eq!((ledger.census().pods, ledger.next_write(at(0))), (0, None));
}
