//! Workloads, PodGroups and pods that name theirs: there where their gate is on, and only there.

use coracle_apiserver::Identity;
use coracle_meta::Gates;
use serde_json::{Value, json};

use super::{Extent, Fixture, PODS, fixture, fixture_with, pod};

const WORKLOADS: &str = "/apis/scheduling.k8s.io/v1alpha2/namespaces/default/workloads";
const GROUPS: &str = "/apis/scheduling.k8s.io/v1alpha2/namespaces/default/podgroups";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const ON: Extent = Extent { gates: Gates::GANGS, runtime_config: &["scheduling.k8s.io/v1alpha2=true"] };
const FINALIZER: &str = "scheduling.k8s.io/podgroup-protection";

fn gang(name: &str, least: u32) -> Value {
    json!({"metadata": {"name": name}, "spec": {"schedulingPolicy": {"gang": {"minCount": least}}}})
}

fn member(name: &str) -> Value {
    let mut member = pod(name);
    member["spec"]["schedulingGroup"] = json!({"podGroupName": "g"});
    member
}

async fn versions(fixture: &Fixture) -> Vec<String> {
    let group = fixture.get("/apis/scheduling.k8s.io").await;
    let names = group["versions"].as_array().unwrap().iter().map(|version| version["version"].as_str().unwrap());
    names.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_gate_there_are_no_groups_whatever_versions_are_asked_for() {
    let asked = Extent { runtime_config: &["api/all=true"], ..Extent::default() };
    for fixture in [fixture().await, fixture_with(None, asked).await] {
        assert_eq!(versions(&fixture).await, ["v1"]);
        assert_eq!(fixture.call("POST", GROUPS, &gang("g", 2)).await.0, 404);
        let made = fixture.ok("POST", PODS, &member("p")).await;
        assert_eq!(made["spec"]["schedulingGroup"], Value::Null, "dropped, as every member of a gate that is off");
        let scheduler = fixture.get(&format!("{ROLES}/system:kube-scheduler")).await;
        assert!(!scheduler.to_string().contains("podgroups"));
        fixture.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_gate_and_the_version_groups_are_served_and_protected() {
    let fixture = fixture_with(None, ON).await;
    assert_eq!(versions(&fixture).await, ["v1", "v1alpha2"]);
    let resources = fixture.get("/apis/scheduling.k8s.io/v1alpha2").await;
    let names = resources["resources"].as_array().unwrap().iter().map(|resource| resource["name"].as_str().unwrap());
    assert_eq!(names.collect::<Vec<_>>(), ["podgroups", "podgroups/status", "workloads"]);

    let reference = json!({"workload": {"workloadName": "w", "podGroupTemplateName": "t"}});
    let mut made_of = gang("g", 2);
    made_of["spec"]["podGroupTemplateRef"] = reference;
    made_of["spec"]["priority"] = json!(7);
    let (code, refused) = fixture.call("POST", GROUPS, &made_of).await;
    let words = "podgroups.scheduling.k8s.io \"g\" is forbidden: PodGroup rejected: Workload \"w\" not found";
    assert_eq!((code, &refused["message"]), (403, &json!(words)));
    let template = json!({"name": "t", "schedulingPolicy": {"gang": {"minCount": 2}}});
    let workload = json!({"metadata": {"name": "w"}, "spec": {"podGroupTemplates": [template]}});
    fixture.ok("POST", WORKLOADS, &workload).await;
    let made = fixture.ok("POST", GROUPS, &made_of).await;
    assert_eq!(made["metadata"]["finalizers"], json!([FINALIZER]));
    assert_eq!((&made["spec"]["priority"], &made["spec"]["disruptionMode"]), (&Value::Null, &json!("Pod")));

    let other = json!({"spec": {"schedulingPolicy": {"gang": {"minCount": 3}}}});
    let (code, refused) = fixture.call("PATCH", &format!("{GROUPS}/g"), &other).await;
    let words = "PodGroup.scheduling.k8s.io \"g\" is invalid: spec.schedulingPolicy: Invalid value: null: field is \
                 immutable";
    assert_eq!((code, &refused["message"]), (422, &json!(words)));

    let pod = fixture.ok("POST", PODS, &member("p")).await;
    assert_eq!(pod["spec"]["schedulingGroup"], json!({"podGroupName": "g"}));
    let mut nameless = member("q");
    nameless["spec"]["schedulingGroup"] = json!({});
    let (code, refused) = fixture.call("POST", PODS, &nameless).await;
    let words = "Pod \"q\" is invalid: spec.schedulingGroup.podGroupName: Invalid value: null: must specify one of: \
                 `podGroupName`";
    assert_eq!((code, &refused["message"]), (422, &json!(words)));
    let going = fixture.ok("DELETE", &format!("{GROUPS}/g"), &Value::Null).await;
    assert!(going["metadata"]["deletionTimestamp"].is_string(), "its finalizer holds it");
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_that_is_switched_on_later_brings_its_roles_and_one_that_is_switched_off_keeps_what_was_written() {
    let first = fixture().await;
    let later = first.beside_with(ON);
    later.server.start().await.unwrap();
    later.ok("POST", GROUPS, &gang("g", 1)).await;
    let condition = json!({"type": "PodGroupScheduled", "status": "True", "reason": "Scheduled", "message": "",
                           "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({"status": {"conditions": [condition]}});
    let path = format!("{GROUPS}/g/status");
    let (code, written) = later.as_user(Identity::scheduler(), "PATCH", &path, &status).await;
    assert_eq!((code, &written["status"]["conditions"]), (200, &json!([condition])), "{written:#}");
    let protection = Identity::controller("podgroup-protection-controller");
    assert_eq!(later.as_user(protection, "GET", GROUPS, &Value::Null).await.0, 200);
    later.ok("POST", PODS, &member("p")).await;

    let again = first.beside();
    again.server.start().await.unwrap();
    assert_eq!(again.call("GET", GROUPS, &Value::Null).await.0, 404);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let pod = again.ok("PATCH", &format!("{PODS}/p"), &label).await;
    assert_eq!(pod["spec"]["schedulingGroup"], json!({"podGroupName": "g"}), "what a pod has already stays");
    first.close().await;
}
