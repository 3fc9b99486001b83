//! Old certificate requests go: what was decided after an hour, what nobody decided or signed after a day, what is
//! issued when its certificate has expired.

use std::time::Duration;

use coracle_reconcile::{Controller, Key, Outcome, Plan, View, Watch};
use jiff::{SignedDuration, Timestamp};

use crate::certificate_request::{COMPONENT, REQUESTS, expires, is_issued};
use crate::shape::{Item, time};

const DECIDED: SignedDuration = SignedDuration::from_hours(1);
const PENDING: SignedDuration = SignedDuration::from_hours(24);

pub struct CsrCleaner;

impl Controller for CsrCleaner {
    fn name(&self) -> &'static str {
        "certificatesigningrequest-cleaner-controller"
    }

    fn component(&self) -> &'static str {
        COMPONENT
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::itself(REQUESTS)]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, now: Timestamp) -> Plan {
        let Some(request) = Item::get(view, &REQUESTS, key) else { return Plan::default() };
        let Some(end) = end(&request) else { return Plan::default() };
        if end < now {
            return Plan { writes: vec![request.delete(&REQUESTS)], ..Plan::default() };
        }
        let left = Duration::try_from(end.duration_since(now)).unwrap_or_default();
        Plan::wake(left + Duration::from_secs(1))
    }
}

/// When the request has lived long enough.
fn end(request: &Item) -> Option<Timestamp> {
    let issued = is_issued(request);
    let conditions = request.list("/status/conditions");
    if conditions.is_empty() {
        return request.created().checked_add(PENDING).ok();
    }
    let ends = conditions.iter().filter_map(|condition| {
        let stays = match condition["type"].as_str()? {
            "Approved" if !issued => PENDING,
            "Approved" | "Denied" | "Failed" => DECIDED,
            _ => return None,
        };
        time(&condition["lastUpdateTime"])?.checked_add(stays).ok()
    });
    let expired = expires(request).filter(|_| conditions.iter().any(|condition| condition["type"] == "Approved"));
    ends.chain(expired).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::FakeView;
    use serde_json::{Value, json};

    #[test]
    fn requests_go_when_their_time_is_over() {
        let condition = |kind: &str| json!([{"type": kind, "lastUpdateTime": "2026-01-01T00:00:00Z"}]);
        let cases = [
            (Value::Null, "", 24),
            (condition("Denied"), "", 1),
            (condition("Failed"), "", 1),
            (condition("Approved"), "", 24),
            (condition("Approved"), "UEVN", 1),
        ];
        for (conditions, certificate, hours) in cases {
            let status = json!({"conditions": conditions, "certificate": certificate});
            let view = FakeView::new().with(REQUESTS, json!({"metadata": {"name": "r"}, "status": status}));
            let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
            let at = |seconds: i64| start + SignedDuration::from_secs(hours * 3600 + seconds);
            let key = Key::new("", "r");
            assert!(view.settle(&CsrCleaner, &key, at(-1)).is_empty(), "{status}");
            view.settle(&CsrCleaner, &key, at(1));
            assert!(view.names(&REQUESTS).is_empty(), "{status}");
        }
    }
}
