//! Token Secrets that were once made for service accounts of their own accord, and that nobody has used for a year,
//! are first told invalid and a year later deleted. Use is tracked by the API server since a day it notes itself;
//! without that note nothing is judged.

use std::time::Duration;

use coracle_meta::Resource;
use coracle_reconcile::{Answer, Ask, Controller, Key, Outcome, Plan, View, Watch, Write};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::bootstrap_tokens::SECRETS;
use crate::pods::PODS;
use crate::serviceaccount::SERVICE_ACCOUNTS;
use crate::shape::{Item, later};

const CONFIG_MAPS: Resource = Resource::new("", "configmaps");
const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
const TYPE: &str = "kubernetes.io/service-account-token";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Upstream's `--legacy-service-account-token-clean-up-period`.
const UNUSED: SignedDuration = SignedDuration::from_hours(365 * 24);
const PERIOD: Duration = Duration::from_secs(24 * 3600);

/// One key stands for all secrets, judged once a day.
pub struct LegacyTokenCleaner;

impl Controller for LegacyTokenCleaner {
    fn name(&self) -> &'static str {
        "legacy-serviceaccount-token-cleaner-controller"
    }

    fn component(&self) -> &'static str {
        "legacy-service-account-token-cleaner"
    }

    fn watches(&self) -> Vec<Watch> {
        Vec::new()
    }

    fn reads(&self) -> Vec<Resource> {
        vec![SECRETS, SERVICE_ACCOUNTS, PODS]
    }

    fn standing_keys(&self) -> Vec<Key> {
        vec![Key::new("", "all")]
    }

    fn reconcile(&self, view: &dyn View, _key: &Key, last: &Outcome, now: Timestamp) -> Plan {
        let ask = Ask::Read { resource: CONFIG_MAPS, namespace: "kube-system".into(), name: TRACKING.into() };
        let since = match last.answer(&ask) {
            None => return Plan { asks: vec![ask], ..Plan::default() },
            Some(Answer::Object(Some(map))) => map["data"]["since"].as_str().and_then(day),
            Some(_) => None,
        };
        // From the end of that day on.
        let tracked = since.and_then(|since| since.tomorrow().ok()?.to_zoned(TimeZone::UTC).ok());
        if tracked.is_none_or(|tracked| now < later(tracked.timestamp(), UNUSED)) {
            return Plan::wake(PERIOD);
        }
        let secrets = Item::all(view.list(&SECRETS, None));
        let writes = secrets.iter().filter_map(|secret| judge(view, secret, now)).collect();
        Plan { writes, wake_after: Some(PERIOD), ..Plan::default() }
    }
}

fn day(text: &str) -> Option<Date> {
    Date::strptime("%Y-%m-%d", text).ok()
}

/// Labels hold days, and a day counts to its end.
fn judge(view: &dyn View, secret: &Item, now: Timestamp) -> Option<Write> {
    let bound = now - UNUSED;
    let bound_day = bound.to_zoned(TimeZone::UTC).date();
    let old = secret.text("/type") == TYPE && !secret.meta().is_deleting() && secret.created() < bound;
    let used = match secret.meta().label(LAST_USED) {
        None => false,
        Some(text) => day(text).is_none_or(|used| used >= bound_day),
    };
    if !old || used || !is_made_for_account(view, secret) || is_mounted(view, secret) {
        return None;
    }
    let today = now.strftime("%Y-%m-%d").to_string();
    match secret.meta().label(INVALID_SINCE).map(day) {
        Some(Some(since)) if since >= bound_day => None,
        Some(Some(_)) => {
            let mut write = secret.delete(&SECRETS);
            if let Write::Delete { resource_version, .. } = &mut write {
                *resource_version = Some(secret.object.revision.to_string());
            }
            Some(write)
        }
        _ => Some(secret.patch(&SECRETS, None, json!({"metadata": {"labels": {INVALID_SINCE: today}}}))),
    }
}

/// Listed by its account: such secrets came without anybody asking.
fn is_made_for_account(view: &dyn View, secret: &Item) -> bool {
    let name = secret.annotation("kubernetes.io/service-account.name").unwrap_or_default();
    let uid = secret.annotation("kubernetes.io/service-account.uid").unwrap_or_default();
    let account = Item::get(view, &SERVICE_ACCOUNTS, &Key::new(secret.namespace(), name));
    account
        .filter(|account| uid.is_empty() || account.uid() == uid)
        .is_some_and(|account| account.list("/secrets").iter().any(|reference| reference["name"] == secret.name()))
}

fn is_mounted(view: &dyn View, secret: &Item) -> bool {
    let pods = Item::all(view.list(&PODS, Some(secret.namespace())));
    pods.iter().any(|pod| names(&pod.tree()["spec"], secret.name()))
}

/// Whether anything in a pod's spec names the secret. Containers and volumes may be called like it.
fn names(spec: &Value, secret: &str) -> bool {
    match spec {
        Value::Object(members) => members.iter().any(|(key, value)| match key.as_str() {
            "secretName" => *value == secret,
            "secret" | "secretRef" | "secretKeyRef" | "nodePublishSecretRef" => {
                value["name"] == secret || names(value, secret)
            }
            "imagePullSecrets" => value.as_array().into_iter().flatten().any(|named| named["name"] == secret),
            _ => names(value, secret),
        }),
        Value::Array(items) => items.iter().any(|item| names(item, secret)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::{FakeView, Witness};

    fn run(view: &FakeView, since: &str, now: &str) {
        let (key, now) = (Key::new("", "all"), now.parse().unwrap());
        let asks = LegacyTokenCleaner.decide(view, &key, &Outcome::default(), now).asks;
        let answers = vec![Answer::Object(Some(json!({"data": {"since": since}})))];
        let last = Outcome { asked: asks, answers, ..Outcome::default() };
        view.apply(&LegacyTokenCleaner.decide(view, &key, &last, now));
    }

    fn view(labels: Value, spec: Value) -> FakeView {
        let secret = json!({"metadata": {"name": "t", "namespace": "n", "creationTimestamp": "2020-01-01T00:00:00Z",
            "labels": labels, "annotations": {"kubernetes.io/service-account.name": "robot"}}, "type": TYPE});
        let account = json!({"metadata": {"name": "robot", "namespace": "n"}, "secrets": [{"name": "t"}]});
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec});
        FakeView::new().with(SECRETS, secret).with(SERVICE_ACCOUNTS, account).with(PODS, pod)
    }

    #[test]
    fn an_unused_token_is_told_invalid_and_goes_a_year_later() {
        let view = view(json!({}), json!({}));
        run(&view, "2025-06-01", "2026-01-01T00:00:00Z");
        assert_eq!(view.json(&SECRETS, "n", "t")["metadata"]["labels"], json!({}));
        run(&view, "2024-01-01", "2026-01-01T00:00:00Z");
        assert_eq!(view.json(&SECRETS, "n", "t")["metadata"]["labels"][INVALID_SINCE], "2026-01-01");
        run(&view, "2024-01-01", "2027-01-01T23:00:00Z");
        assert_eq!(view.names(&SECRETS), ["t"], "a year is full at the end of its last day");
        run(&view, "2024-01-01", "2027-01-02T00:00:00Z");
        assert!(view.names(&SECRETS).is_empty());
    }

    #[test]
    fn a_token_in_use_stays_valid() {
        let cases = [
            (json!({LAST_USED: "2025-01-01"}), json!({}), true),
            (json!({LAST_USED: "2024-12-31"}), json!({}), false),
            (json!({LAST_USED: "once"}), json!({}), true),
            (json!({}), json!({"imagePullSecrets": [{"name": "t"}]}), true),
            (json!({}), json!({"volumes": [{"name": "v", "secret": {"secretName": "t"}}]}), true),
            (json!({}), json!({"containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "t"}}]}]}), true),
            (json!({}), json!({"containers": [{"name": "t"}], "volumes": [{"name": "t", "emptyDir": {}}]}), false),
        ];
        for (labels, spec, stays) in cases {
            let view = view(labels.clone(), spec.clone());
            run(&view, "2023-01-01", "2026-01-01T12:00:00Z");
            let told = &view.json(&SECRETS, "n", "t")["metadata"]["labels"][INVALID_SINCE];
            assert_eq!(told.is_null(), stays, "{labels} {spec}");
        }
    }
}
