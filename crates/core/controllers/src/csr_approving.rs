//! Approves the certificate requests of kubelets that are entitled to them, by asking the API server what the requestor
//! may do. Who is not entitled yet may become so: such requests are looked at again.

use std::time::Duration;

use coracle_meta::Resource;
use coracle_reconcile::{Answer, Ask, Controller, Key, Outcome, Plan, View, Watch};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::certificate_request::{Asked, COMPONENT, KUBELET_CLIENT, REQUESTS, has, is_issued, pem, usages};
use crate::shape::{Item, rfc3339};

const REVIEWS: Resource = Resource::new("authorization.k8s.io", "subjectaccessreviews");

/// Until a request is reviewed again whose requestor was not entitled.
const NEXT_LOOK_MIN: Duration = Duration::from_secs(1);
const NEXT_LOOK_MAX: Duration = Duration::from_secs(1000);

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
        let recognised = ENTITLEMENTS.into_iter().filter(|(permission, _)| is_recognised(&request, permission));
        // All at once: answers come with the next decision and no later.
        let asks: Vec<(Ask, &str)> =
            recognised.map(|(permission, message)| (review(&request, permission), message)).collect();
        for (ask, message) in &asks {
            match last.answer(ask) {
                Some(Answer::Object(Some(review))) if review["status"]["allowed"] == true => {
                    return Plan { writes: vec![approval(&request, message, now)], ..Plan::default() };
                }
                Some(Answer::Object(_)) => {}
                _ => return Plan { asks: asks.into_iter().map(|(ask, _)| ask).collect(), ..Plan::default() },
            }
        }
        if asks.is_empty() { Plan::default() } else { Plan::wake(next_look(&request, now)) }
    }
}

/// After as long as the request has waited already.
fn next_look(request: &Item, now: Timestamp) -> Duration {
    let waited = Duration::try_from(now.duration_since(request.created())).unwrap_or_default();
    waited.clamp(NEXT_LOOK_MIN, NEXT_LOOK_MAX)
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

    fn decide(view: &FakeView, last: &Outcome, seconds: i64) -> Plan {
        let now = "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_secs(seconds);
        CsrApproving.decide(view, &Key::new("", "r"), last, now)
    }

    #[test]
    fn an_entitled_kubelet_is_approved() {
        let cases: [(&str, &[bool], &str); 4] = [
            ("system:node:a", &[true, false], ENTITLEMENTS[0].1),
            ("system:node:a", &[false, true], ENTITLEMENTS[1].1),
            ("system:bootstrap:abcdef", &[true], ENTITLEMENTS[1].1),
            ("system:node:a", &[false, false], ""),
        ];
        for (user, allowed, message) in cases {
            let mut request = request(KUBELET_CLIENT, &["client auth", "digital signature"]);
            request["spec"]["username"] = json!(user);
            let view = FakeView::new().with(REQUESTS, request);
            let asks = decide(&view, &Outcome::default(), 0).asks;
            let permission = |ask: &Ask| match ask {
                Ask::Review { object, .. } => object["spec"]["resourceAttributes"]["subresource"].clone(),
                other => panic!("{other:?}"),
            };
            let wanted = ["selfnodeclient", "nodeclient"].into_iter().skip(2 - allowed.len());
            assert_eq!(asks.iter().map(permission).collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
            let answer = |allowed: &bool| Answer::Object(Some(json!({"status": {"allowed": allowed}})));
            let last = Outcome { asked: asks, answers: allowed.iter().map(answer).collect(), ..Outcome::default() };
            let plan = decide(&view, &last, 40);
            view.apply(&plan);
            let condition = view.json(&REQUESTS, "", "r")["status"]["conditions"][0].clone();
            if message.is_empty() {
                assert_eq!((plan, condition), (Plan::wake(Duration::from_secs(40)), Value::Null));
                continue;
            }
            let told = ["type", "reason", "message"].map(|key| condition[key].as_str().unwrap());
            assert_eq!(told, ["Approved", "AutoApproved", message], "{user} {allowed:?}");
            assert_eq!(decide(&view, &Outcome::default(), 40), Plan::default());
        }
    }

    #[test]
    fn a_review_that_fails_is_asked_for_again() {
        let view = FakeView::new().with(REQUESTS, request(KUBELET_CLIENT, &["client auth", "digital signature"]));
        let asks = decide(&view, &Outcome::default(), 0).asks;
        let failed = Answer::Failed(coracle_meta::Status::internal("no"));
        let last = Outcome { asked: asks.clone(), answers: vec![failed; asks.len()], ..Outcome::default() };
        assert_eq!(decide(&view, &last, 0).asks, asks);
    }

    #[test]
    fn what_no_kubelet_asks_for_is_left_to_people() {
        let view = FakeView::new().with(REQUESTS, request(KUBELET_CLIENT, &["server auth"]));
        let plan = CsrApproving.decide(&view, &Key::new("", "r"), &Outcome::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(plan, Plan::default());
    }
}
