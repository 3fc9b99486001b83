//! Approves the certificate requests of kubelets that are entitled to them, by asking the API server what the requestor
//! may do.

use coracle_meta::Resource;
use coracle_reconcile::{Answer, Ask, Controller, Key, Outcome, Plan, View, Watch};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::certificate_request::{Asked, COMPONENT, KUBELET_CLIENT, REQUESTS, has, is_issued, pem, usages};
use crate::shape::{Item, rfc3339};

const REVIEWS: Resource = Resource::new("authorization.k8s.io", "subjectaccessreviews");

pub struct CsrApproving;

/// What entitles to approval: a permission on a subresource that exists for this purpose alone.
const ENTITLEMENTS: [(&str, &str); 2] = [
    ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."),
    ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."),
];

impl Controller for CsrApproving {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-approving-controller"
    }

    fn component(&self) -> &'static str {
        COMPONENT
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::itself(REQUESTS)]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, now: Timestamp) -> Plan {
        let Some(request) = Item::get(view, &REQUESTS, key) else { return Plan::default() };
        if is_issued(&request) || has(&request, "Approved") || has(&request, "Denied") {
            return Plan::default();
        }
        for (permission, message) in ENTITLEMENTS {
            if !is_recognised(&request, permission) {
                continue;
            }
            let ask = review(&request, permission);
            match last.answer(&ask) {
                None => return Plan { asks: vec![ask], ..Plan::default() },
                Some(Answer::Object(Some(review))) if review["status"]["allowed"] == true => {
                    return Plan { writes: vec![approval(&request, message, now)], ..Plan::default() };
                }
                Some(_) => {}
            }
        }
        Plan::default()
    }
}

fn is_recognised(request: &Item, permission: &str) -> bool {
    if request.text("/spec/signerName") != KUBELET_CLIENT {
        return false;
    }
    let Some(asked) = pem(request).and_then(|pem| Asked::parse(&pem)) else { return false };
    let is_own = asked.common_name == request.text("/spec/username");
    asked.kubelet_client(&usages(request)).is_ok() && (permission != "selfnodeclient" || is_own)
}

fn review(request: &Item, permission: &str) -> Ask {
    let mut spec = json!({"user": request.at("/spec/username"), "resourceAttributes": {"verb": "create",
        "group": REQUESTS.group, "resource": REQUESTS.plural, "subresource": permission, "version": "*"}});
    for key in ["uid", "groups", "extra"] {
        if !request.at("/spec")[key].is_null() {
            spec[key] = request.at("/spec")[key].clone();
        }
    }
    let object = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "metadata": {}, "spec": spec});
    Ask::Review { resource: REVIEWS, namespace: String::new(), object }
}

fn approval(request: &Item, message: &str, now: Timestamp) -> coracle_reconcile::Write {
    let mut conditions: Vec<Value> = request.list("/status/conditions").to_vec();
    conditions.push(json!({"type": "Approved", "status": "True", "reason": "AutoApproved", "message": message,
        "lastUpdateTime": rfc3339(now)}));
    request.patch(&REQUESTS, Some("approval"), json!({"status": {"conditions": conditions}}))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use coracle_testkit::{FakeView, Witness};

    /// Of `system:node:a` in `system:nodes`, made with openssl.
    pub const REQUEST: &str = include_str!("testdata/node.csr");

    pub fn request(signer: &str, usages: &[&str]) -> Value {
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "r"},
            "spec": {"request": crate::certificate_request::to_base64(REQUEST.as_bytes()), "signerName": signer,
                "usages": usages, "username": "system:node:a", "groups": ["system:nodes"]}})
    }

    #[test]
    fn an_entitled_kubelet_is_approved() {
        let view = FakeView::new().with(REQUESTS, request(KUBELET_CLIENT, &["client auth", "digital signature"]));
        let key = Key::new("", "r");
        let plan = CsrApproving.decide(&view, &key, &Outcome::default(), Timestamp::UNIX_EPOCH);
        let Ask::Review { object, .. } = &plan.asks[0] else { panic!("{plan:?}") };
        assert_eq!(object["spec"]["resourceAttributes"]["subresource"], "selfnodeclient");
        let answered = |allowed: bool| Outcome {
            asked: plan.asks.clone(),
            answers: vec![Answer::Object(Some(json!({"status": {"allowed": allowed}})))],
            ..Outcome::default()
        };
        let next = CsrApproving.decide(&view, &key, &answered(false), Timestamp::UNIX_EPOCH);
        assert!(matches!(&next.asks[0], Ask::Review { object, .. }
            if object["spec"]["resourceAttributes"]["subresource"] == "nodeclient"));
        view.apply(&CsrApproving.decide(&view, &key, &answered(true), Timestamp::UNIX_EPOCH));
        let approved = view.json(&REQUESTS, "", "r")["status"]["conditions"][0].clone();
        assert_eq!((&approved["type"], &approved["reason"]), (&json!("Approved"), &json!("AutoApproved")));
        let after = CsrApproving.decide(&view, &key, &Outcome::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(after, Plan::default());
    }

    #[test]
    fn what_no_kubelet_asks_for_is_left_to_people() {
        let view = FakeView::new().with(REQUESTS, request(KUBELET_CLIENT, &["server auth"]));
        let plan = CsrApproving.decide(&view, &Key::new("", "r"), &Outcome::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(plan, Plan::default());
    }
}
