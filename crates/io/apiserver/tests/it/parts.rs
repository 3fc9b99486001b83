//! Parts of objects with URLs of their own, and what is answered and never kept.

use bytes::Bytes;
use coracle_apiserver::{Caller, Identity};
use serde_json::{Value, json};

use super::fixture;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_approval_keeps_what_was_asked_and_takes_annotations() {
    let fixture = fixture().await;
    let asked = json!({"metadata": {"name": "a"}, "spec": {"request": "", "username": "root",
        "signerName": "example.com/x", "usages": ["client auth"]}});
    let made = fixture.ok("POST", REQUESTS, &asked).await;
    assert_eq!(made["spec"]["username"], "kubernetes-admin");
    let patch = json!({"metadata": {"annotations": {"a": "b"}}, "spec": {"signerName": "example.com/y"},
        "status": {"certificate": "eA==", "conditions": [{"type": "Approved", "status": "True", "reason": "r"}]}});
    let approved = fixture.ok("PATCH", &format!("{REQUESTS}/a/approval"), &patch).await;
    assert_eq!(approved["metadata"]["annotations"]["a"], "b");
    assert_eq!(approved["spec"]["signerName"], "example.com/x");
    assert!(approved["status"]["certificate"].is_null());
    assert!(approved["status"]["conditions"][0]["lastUpdateTime"].is_string());
    let denied = json!({"status": {"conditions": [{"type": "Denied", "status": "True", "reason": "r"}]}});
    assert_eq!(fixture.call("PATCH", &format!("{REQUESTS}/a/approval"), &denied).await.0, 422);
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scale_is_applied_to_its_workload() {
    let fixture = fixture().await;
    let labels = json!({"app": "a"});
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    let set = json!({"metadata": {"name": "a"}, "spec": {"replicas": 1, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    fixture.ok("POST", &format!("{sets}?fieldManager=maker"), &set).await;
    let apply = async |query: &str, replicas: Value| {
        let body = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "a"},
            "spec": {"replicas": replicas}});
        let request = http::Request::patch(format!("{sets}/a/scale?fieldManager=scaler{query}"))
            .header("content-type", "application/apply-patch+yaml")
            .body(Bytes::from(body.to_string()));
        let (code, text) = fixture.send(Caller::Local(Identity::admin()), request.unwrap()).await;
        (code, serde_json::from_str::<Value>(&text).unwrap())
    };
    let (code, refused) = apply("", json!(3)).await;
    assert_eq!((code, &refused["details"]["causes"][0]["field"]), (409, &json!(".spec.replicas")), "{refused:#}");
    let (code, scaled) = apply("&force=true", json!(3)).await;
    assert_eq!((code, &scaled["kind"], &scaled["spec"]["replicas"]), (200, &json!("Scale"), &json!(3)));
    let whole = fixture.get(&format!("{sets}/a")).await;
    assert_eq!((&whole["spec"]["replicas"], &whole["metadata"]["generation"]), (&json!(3), &json!(2)));
    let records = whole["metadata"]["managedFields"].as_array().unwrap();
    let own = records.iter().find(|record| record["manager"] == "scaler").unwrap();
    assert_eq!((&own["operation"], &own["subresource"]), (&json!("Apply"), &json!("scale")));
    assert_eq!(own["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(apply("", json!("many")).await.0, 400);
    fixture.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_review_has_no_table() {
    let fixture = fixture().await;
    let review = json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    let request = http::Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
        .header("content-type", "application/json")
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Bytes::from(review.to_string()));
    assert_eq!(fixture.send(Caller::Local(Identity::admin()), request.unwrap()).await.0, 406);
    fixture.close().await;
}
