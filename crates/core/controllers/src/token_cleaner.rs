//! Bootstrap tokens go when they expire.

use std::time::Duration;

use coracle_reconcile::{Controller, Key, Outcome, Plan, View, Watch};
use jiff::Timestamp;

use crate::bootstrap_tokens::{NAMESPACE, SECRETS, expires, is_token};
use crate::shape::Item;

pub struct TokenCleaner;

impl Controller for TokenCleaner {
    fn name(&self) -> &'static str {
        "token-cleaner-controller"
    }

    fn component(&self) -> &'static str {
        "token-cleaner"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch {
            resource: SECRETS,
            keys: |_, secret| if secret.meta.namespace == NAMESPACE { vec![Key::of(secret)] } else { Vec::new() },
        }]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, now: Timestamp) -> Plan {
        let Some(secret) = Item::get(view, &SECRETS, key).filter(is_token) else { return Plan::default() };
        match expires(&secret) {
            None => Plan::default(),
            Some(end) if end <= now => Plan { writes: vec![secret.delete(&SECRETS)], ..Plan::default() },
            Some(end) => Plan::wake(Duration::try_from(end.duration_since(now)).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate_request::to_base64;
    use coracle_testkit::FakeView;
    use serde_json::json;

    #[test]
    fn tokens_go_in_their_time() {
        let token = |expiration: &str| {
            json!({"metadata": {"name": "t", "namespace": NAMESPACE}, "type": "bootstrap.kubernetes.io/token",
                "data": {"expiration": to_base64(expiration.as_bytes())}})
        };
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (expiration, stays) in
            [("", true), ("2026-01-01T00:00:01Z", true), ("2025-12-31T23:00:00Z", false), ("x", false)]
        {
            let view = FakeView::new().with(SECRETS, token(expiration));
            view.settle(&TokenCleaner, &Key::new(NAMESPACE, "t"), now);
            assert_eq!(!view.names(&SECRETS).is_empty(), stays, "{expiration}");
        }
    }
}
