//! Signs the public information about the cluster, ConfigMap `cluster-info` of `kube-public`, with each bootstrap token
//! that is for signing, so that a machine that knows a token can trust what it reads.

use std::collections::BTreeMap;
use std::time::Duration;

use coracle_meta::Resource;
use coracle_reconcile::{Controller, Key, Outcome, Plan, View, Watch};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::bootstrap_tokens::{NAMESPACE, SECRETS, entry, expires, is_token, signature};
use crate::shape::Item;

const CONFIG_MAPS: Resource = Resource::new("", "configmaps");
const PUBLIC: &str = "kube-public";
const INFO: &str = "cluster-info";
const CONTENT: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

pub struct BootstrapSigner;

impl Controller for BootstrapSigner {
    fn name(&self) -> &'static str {
        "bootstrap-signer-controller"
    }

    fn component(&self) -> &'static str {
        "bootstrap-signer"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch {
                resource: CONFIG_MAPS,
                keys: |_, map| match (map.meta.namespace.as_str(), map.meta.name.as_str()) {
                    (PUBLIC, INFO) => vec![Key::of(map)],
                    _ => Vec::new(),
                },
            },
            Watch {
                resource: SECRETS,
                keys: |_, secret| match secret.meta.namespace.as_str() {
                    NAMESPACE => vec![Key::new(PUBLIC, INFO)],
                    _ => Vec::new(),
                },
            },
        ]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        let Some(info) = Item::get(view, &CONFIG_MAPS, key) else { return plan };
        let empty = Map::new();
        let data = info.at("/data").as_object().unwrap_or(&empty);
        let Some(content) = data.get(CONTENT).and_then(Value::as_str) else { return plan };
        let mut wanted = BTreeMap::new();
        for secret in Item::all(view.list(&SECRETS, Some(NAMESPACE))).iter().filter(|secret| is_token(secret)) {
            let end = expires(secret);
            if let Some(end) = end.filter(|end| *end > now) {
                plan.wake_by(Duration::try_from(end.duration_since(now)).unwrap_or_default());
            }
            let (id, key) = (entry(secret, "token-id"), entry(secret, "token-secret"));
            let alive = end.is_none_or(|end| end > now) && is_named_after(secret, &id) && !key.is_empty();
            if alive && entry(secret, "usage-bootstrap-signing") == "true" {
                wanted.insert(format!("{SIGNATURE}{id}"), signature(content, &id, &key));
            }
        }
        let mut patch = json!({});
        for name in data.keys().filter(|name| name.starts_with(SIGNATURE) && !wanted.contains_key(*name)) {
            patch[name] = Value::Null;
        }
        for (name, signature) in
            wanted.into_iter().filter(|(name, signature)| data.get(name) != Some(&json!(signature)))
        {
            patch[name] = json!(signature);
        }
        if patch.as_object().is_some_and(|patch| !patch.is_empty()) {
            plan.writes.push(info.patch(&CONFIG_MAPS, None, json!({"data": patch})));
        }
        plan
    }
}

/// An id is six letters and digits, and its secret is called by it.
fn is_named_after(secret: &Item, id: &str) -> bool {
    let is_id = id.len() == 6 && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    is_id && secret.name().strip_prefix("bootstrap-token-") == Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate_request::to_base64;
    use coracle_testkit::FakeView;

    fn token(name: &str, id: &str, secret: &str) -> Value {
        let data = [("token-id", id), ("token-secret", secret), ("usage-bootstrap-signing", "true")];
        let data: Map<String, Value> =
            data.into_iter().map(|(key, value)| (key.to_owned(), json!(to_base64(value.as_bytes())))).collect();
        json!({"metadata": {"name": name, "namespace": NAMESPACE}, "type": "bootstrap.kubernetes.io/token", "data": data})
    }

    fn view() -> FakeView {
        FakeView::new().with(
            CONFIG_MAPS,
            json!({"metadata": {"name": INFO, "namespace": PUBLIC},
                "data": {CONTENT: "apiVersion: v1", "jws-kubeconfig-old": "x"}}),
        )
    }

    fn signed(view: &FakeView) -> Value {
        view.settle(&BootstrapSigner, &Key::new(PUBLIC, INFO), Timestamp::UNIX_EPOCH);
        view.json(&CONFIG_MAPS, PUBLIC, INFO)["data"].clone()
    }

    #[test]
    fn signatures_follow_tokens() {
        let view = view().with(SECRETS, token("bootstrap-token-abcdef", "abcdef", "0123456789abcdef"));
        let data = signed(&view);
        assert!(data["jws-kubeconfig-abcdef"].as_str().unwrap().contains("..") && data["jws-kubeconfig-old"].is_null());
        view.remove(&SECRETS, NAMESPACE, "bootstrap-token-abcdef");
        assert_eq!(signed(&view), json!({CONTENT: "apiVersion: v1"}));
    }

    #[test]
    fn what_is_no_whole_token_signs_nothing() {
        let cases =
            [("bootstrap-token-abcdef", "abcdef", ""), ("other", "abcdef", "s"), ("bootstrap-token-a", "a", "s")];
        for (name, id, secret) in cases {
            let view = view().with(SECRETS, token(name, id, secret));
            assert_eq!(signed(&view), json!({CONTENT: "apiVersion: v1"}), "{name} {id} {secret}");
        }
    }
}
