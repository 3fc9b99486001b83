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
            let id = entry(secret, "token-id");
            let alive = end.is_none_or(|end| end > now) && secret.name() == format!("bootstrap-token-{id}");
            if alive && entry(secret, "usage-bootstrap-signing") == "true" {
                wanted.insert(format!("{SIGNATURE}{id}"), signature(content, &id, &entry(secret, "token-secret")));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate_request::to_base64;
    use coracle_testkit::FakeView;

    #[test]
    fn signatures_follow_tokens() {
        let data = [("token-id", "abcdef"), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")];
        let data: Map<String, Value> =
            data.into_iter().map(|(key, value)| (key.to_owned(), json!(to_base64(value.as_bytes())))).collect();
        let view = FakeView::new()
            .with(
                CONFIG_MAPS,
                json!({"metadata": {"name": INFO, "namespace": PUBLIC},
                "data": {CONTENT: "apiVersion: v1", "jws-kubeconfig-old": "x"}}),
            )
            .with(
                SECRETS,
                json!({"metadata": {"name": "bootstrap-token-abcdef", "namespace": NAMESPACE},
                "type": "bootstrap.kubernetes.io/token", "data": data}),
            );
        let signed = || {
            view.settle(&BootstrapSigner, &Key::new(PUBLIC, INFO), Timestamp::UNIX_EPOCH);
            view.json(&CONFIG_MAPS, PUBLIC, INFO)["data"].clone()
        };
        let data = signed();
        assert!(data["jws-kubeconfig-abcdef"].as_str().unwrap().contains("..") && data["jws-kubeconfig-old"].is_null());
        view.remove(&SECRETS, NAMESPACE, "bootstrap-token-abcdef");
        assert_eq!(signed(), json!({CONTENT: "apiVersion: v1"}));
    }
}
