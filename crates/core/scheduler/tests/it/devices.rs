//! Pods that name claims to devices.

use serde_json::{Value, json};

use crate::cluster::{Cluster, merge, node, pod};

fn user(extra: Value) -> Value {
    let mut user = pod("p", json!({"spec": {"resourceClaims": [{"name": "gpu", "resourceClaimName": "c"}]}}));
    merge(&mut user, extra);
    user
}

/// A pod that gets a claim of its own from a template.
fn from_template(status: Value) -> Value {
    let claims = json!([{"name": "gpu", "resourceClaimTemplateName": "t"}]);
    pod("p", json!({"spec": {"resourceClaims": claims}, "status": {"resourceClaimStatuses": status}}))
}

fn claim(extra: Value) -> Value {
    let mut claim =
        json!({"metadata": {"name": "c", "namespace": "n", "uid": "c"}, "spec": {"devices": {"requests": []}}});
    merge(&mut claim, extra);
    claim
}

fn allocated_on(node: &str, pod: &str) -> Value {
    let terms = json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": [node]}]}]);
    json!({"status": {"allocation": {"nodeSelector": {"nodeSelectorTerms": terms}},
        "reservedFor": [{"resource": "pods", "name": pod, "uid": pod}]}})
}

fn cluster() -> Cluster {
    Cluster::of_nodes(["a", "b"].map(|name| node(name, json!({}))))
}

#[test]
fn a_pod_whose_devices_are_not_to_be_had_goes_nowhere_and_is_told_why() {
    let made = || json!([{"name": "gpu", "resourceClaimName": "c"}]);
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "q", "uid": "q", "controller": true}]);
    let leaving = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let table = [
        (user(json!({})), None, "could not find ResourceClaim \"n/c\""),
        (from_template(json!([])), None, "pod \"n/p\": ResourceClaim not created yet"),
        (
            pod("p", json!({"spec": {"resourceClaims": [{"name": "gpu"}]}})),
            None,
            "pod \"n/p\", spec.resourceClaim \"gpu\": none of the supported fields are set",
        ),
        (user(json!({})), Some(claim(leaving)), "resourceclaim \"c\" is being deleted"),
        (
            from_template(made()),
            Some(claim(json!({"metadata": {"ownerReferences": owner}}))),
            "ResourceClaim n/c was not created for Pod n/p (Pod is not owner)",
        ),
        (
            user(json!({})),
            Some(claim(json!({}))),
            "resourceclaim \"c\" is not allocated, and this scheduler cannot allocate devices yet",
        ),
        (
            user(json!({})),
            Some(claim(allocated_on("a", "another"))),
            "resourceclaim \"c\" is not reserved for the pod, and this scheduler cannot reserve devices yet",
        ),
    ];
    for (pod, claim, why) in table {
        let mut cluster = cluster();
        if let Some(claim) = claim {
            cluster.set("resourceclaims", claim);
        }
        let message = cluster.schedule(pod).unwrap_err();
        let after = "no new claims to deallocate, preemption: 0/2 nodes are available: \
                     2 Preemption is not helpful for scheduling.";
        assert_eq!(message, format!("0/2 nodes are available: {why}. {after}"));
    }
}

#[test]
fn a_pod_goes_where_its_devices_were_allocated() {
    let mut cluster = cluster();
    cluster.set("resourceclaims", claim(allocated_on("b", "p")));
    assert_eq!(cluster.schedule(user(json!({}))), Ok("b".into()));
    let message = cluster.schedule(user(json!({"metadata": {"name": "q", "uid": "q"}}))).unwrap_err();
    assert!(message.contains("is not reserved for the pod"), "pods that ask the same are told apart: {message}");
}

#[test]
fn an_allocation_that_fits_no_node_is_told() {
    let mut cluster = cluster();
    cluster.set("resourceclaims", claim(allocated_on("elsewhere", "p")));
    let message = cluster.schedule(user(json!({}))).unwrap_err();
    assert!(message.starts_with("0/2 nodes are available: 2 resourceclaim not available on the node."), "{message}");
}

#[test]
fn a_pod_without_need_of_a_claim_is_scheduled() {
    assert!(cluster().schedule(from_template(json!([{"name": "gpu"}]))).is_ok());
}

#[test]
fn news_of_its_claims_wakes_a_pod() {
    let mut cluster = cluster();
    cluster.schedule(from_template(json!([]))).unwrap_err();
    cluster.now += 20;
    cluster.set("pods", from_template(json!([{"name": "gpu", "resourceClaimName": "c"}])));
    assert_eq!(cluster.run(), ["p refused"], "the claim has a name now, but is not there");
    cluster.now += 20;
    cluster.set("resourceclaims", claim(json!({"metadata": {"name": "other"}})));
    assert!(cluster.run().is_empty());
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p", "controller": true}]);
    let mut ready = claim(allocated_on("a", "p"));
    merge(&mut ready, json!({"metadata": {"ownerReferences": owner}}));
    cluster.set("resourceclaims", ready);
    assert_eq!(cluster.run(), ["p on a"]);
}
