//! Signs approved certificate requests of Kubernetes' own signers with the cluster's authority. The key itself is with
//! the shell, which is asked.

use coracle_reconcile::{Answer, Ask, Controller, Key, Outcome, Plan, SigningOrder, View, Watch};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::certificate_request::{
    Asked, CLIENT, COMPONENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY_UNKNOWN, REQUESTS, has, is_issued, pem,
    to_base64, usages,
};
use crate::shape::{Item, rfc3339};

const SIGNERS: [&str; 4] = [KUBELET_SERVING, KUBELET_CLIENT, CLIENT, LEGACY_UNKNOWN];
/// A year; upstream's `--cluster-signing-duration`.
const SECONDS_MAX: u64 = 365 * 24 * 3600;
const SECONDS_MIN: u64 = 600;

pub struct CsrSigning;

impl Controller for CsrSigning {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-signing-controller"
    }

    fn component(&self) -> &'static str {
        COMPONENT
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::itself(REQUESTS)]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, now: Timestamp) -> Plan {
        let Some(request) = Item::get(view, &REQUESTS, key) else { return Plan::default() };
        let approved = has(&request, "Approved") && !has(&request, "Denied") && !has(&request, "Failed");
        let signer = request.text("/spec/signerName");
        if is_issued(&request) || !approved || !SIGNERS.contains(&signer) {
            return Plan::default();
        }
        let Some(pem) = pem(&request) else { return Plan::default() };
        let Some(asked) = Asked::parse(&pem) else { return Plan::default() };
        if let Err(why) = asked.check(signer, &usages(&request)) {
            return fail(&request, &why, now);
        }
        let ask = Ask::Sign(order(&request, pem));
        match last.answer(&ask) {
            Some(Answer::Signed(certificate)) => {
                let status = json!({"status": {"certificate": to_base64(certificate.as_bytes())}});
                Plan { writes: vec![request.patch(&REQUESTS, Some("status"), status)], ..Plan::default() }
            }
            // A signer that fails may do better later: the request stays approved.
            _ => Plan { asks: vec![ask], ..Plan::default() },
        }
    }
}

fn order(request: &Item, pem: String) -> SigningOrder {
    let asked = request.at("/spec/expirationSeconds").as_u64();
    let seconds = asked.map_or(SECONDS_MAX, |seconds| seconds.clamp(SECONDS_MIN, SECONDS_MAX));
    SigningOrder { request: pem, usages: usages(request).into_iter().map(str::to_owned).collect(), seconds }
}

fn fail(request: &Item, message: &str, now: Timestamp) -> Plan {
    let mut conditions: Vec<Value> = request.list("/status/conditions").to_vec();
    conditions.push(json!({"type": "Failed", "status": "True", "reason": "SignerValidationFailure",
        "message": message, "lastUpdateTime": rfc3339(now)}));
    let write = request.patch(&REQUESTS, Some("status"), json!({"status": {"conditions": conditions}}));
    Plan { writes: vec![write], ..Plan::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csr_approving::tests::request;
    use coracle_testkit::{FakeView, Witness};

    fn approved(signer: &str, usages: &[&str]) -> FakeView {
        let mut request = request(signer, usages);
        request["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}]});
        FakeView::new().with(REQUESTS, request)
    }

    #[test]
    fn an_approved_request_is_signed() {
        let view = approved(CLIENT, &["client auth"]);
        let key = Key::new("", "r");
        let asks = CsrSigning.decide(&view, &key, &Outcome::default(), Timestamp::UNIX_EPOCH).asks;
        let Ask::Sign(order) = &asks[0] else { panic!("{asks:?}") };
        assert_eq!((order.seconds, order.usages.as_slice()), (SECONDS_MAX, ["client auth".to_owned()].as_slice()));
        let last = Outcome { answers: vec![Answer::Signed("PEM".into())], asked: asks, ..Outcome::default() };
        view.apply(&CsrSigning.decide(&view, &key, &last, Timestamp::UNIX_EPOCH));
        assert_eq!(view.json(&REQUESTS, "", "r")["status"]["certificate"], "UEVN");
        assert!(CsrSigning.decide(&view, &key, &Outcome::default(), Timestamp::UNIX_EPOCH).is_empty());
    }

    #[test]
    fn a_signer_that_fails_is_asked_again() {
        let (view, key) = (approved(CLIENT, &["client auth"]), Key::new("", "r"));
        let asks = CsrSigning.decide(&view, &key, &Outcome::default(), Timestamp::UNIX_EPOCH).asks;
        let failed = Answer::Failed(coracle_meta::Status::internal("no key"));
        let last = Outcome { answers: vec![failed], asked: asks.clone(), ..Outcome::default() };
        let plan = CsrSigning.decide(&view, &key, &last, Timestamp::UNIX_EPOCH);
        assert_eq!((plan.writes.len(), plan.asks), (0, asks));
    }

    #[test]
    fn what_a_signer_does_not_sign_fails() {
        let view = approved(CLIENT, &["server auth"]);
        view.settle(&CsrSigning, &Key::new("", "r"), Timestamp::UNIX_EPOCH);
        let failed = view.json(&REQUESTS, "", "r")["status"]["conditions"][1].clone();
        assert_eq!(failed["reason"], "SignerValidationFailure");
        assert_eq!(failed["message"], "invalid usage for client certificate: server auth");
    }

    #[test]
    fn requests_of_other_signers_are_theirs() {
        let view = approved("example.com/own", &["client auth"]);
        let plan = CsrSigning.decide(&view, &Key::new("", "r"), &Outcome::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(plan, Plan::default());
    }
}
