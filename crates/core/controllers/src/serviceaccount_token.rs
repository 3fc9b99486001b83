//! Secrets of type `kubernetes.io/service-account-token`: each is filled with a token of the account that its
//! annotation names, and goes when the account is gone. Accounts that list such a secret forget it when it is gone.

use std::time::Duration;

use coracle_meta::Object;
use coracle_reconcile::controller::COMPONENT_IDENTITY;
use coracle_reconcile::{Answer, Ask, Controller, Key, Outcome, Plan, View, Watch, Write};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::bootstrap_tokens::{SECRETS, entry};
use crate::certificate_request::to_base64;
use crate::serviceaccount::SERVICE_ACCOUNTS;
use crate::shape::Item;

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const NEXT_LOOK: Duration = Duration::from_secs(10);

/// Keys are secrets.
pub struct ServiceAccountToken {
    /// PEM, put beside each token.
    pub root_ca: String,
}

impl Controller for ServiceAccountToken {
    fn name(&self) -> &'static str {
        "serviceaccount-token-controller"
    }

    fn component(&self) -> &'static str {
        "tokens-controller"
    }

    /// It makes what the accounts of other controllers need: it cannot wait for one of its own.
    fn identity(&self) -> &'static str {
        COMPONENT_IDENTITY
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch { resource: SECRETS, keys: own_key }, Watch { resource: SERVICE_ACCOUNTS, keys: secrets_of }]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, _now: Timestamp) -> Plan {
        let Some(secret) = Item::get(view, &SECRETS, key) else {
            return Plan { writes: forget(view, key), ..Plan::default() };
        };
        if !is_token(&secret) || secret.meta().is_deleting() {
            return Plan::default();
        }
        let name = account_name(&secret).to_owned();
        let uid = secret.annotation(ACCOUNT_UID).unwrap_or_default();
        let is_same = |found: &str| uid.is_empty() || uid == found;
        if let Some(account) = view.get(&SERVICE_ACCOUNTS, &key.namespace, &name)
            && is_same(&account.meta.uid)
        {
            return self.fill(&secret, &name, &account.meta.uid, last);
        }
        let ask = Ask::Read { resource: SERVICE_ACCOUNTS, namespace: key.namespace.clone(), name };
        match last.answer(&ask) {
            None => Plan { asks: vec![ask], ..Plan::default() },
            Some(Answer::Object(found)) => match found.as_ref().and_then(|found| found["metadata"]["uid"].as_str()) {
                Some(found) if is_same(found) => Plan::wake(NEXT_LOOK),
                _ => Plan { writes: vec![secret.delete(&SECRETS)], ..Plan::default() },
            },
            Some(_) => Plan::wake(NEXT_LOOK),
        }
    }
}

fn is_token(secret: &Item) -> bool {
    secret.text("/type") == TYPE && !account_name(secret).is_empty()
}

fn account_name(secret: &Item) -> &str {
    secret.annotation(ACCOUNT_NAME).unwrap_or_default()
}

/// A token's, also when it is gone.
fn own_key(_: &dyn View, secret: &Object) -> Vec<Key> {
    let tree = secret.decode::<Value>().unwrap_or_default();
    let names_account = tree["metadata"]["annotations"][ACCOUNT_NAME].as_str().is_some_and(|name| !name.is_empty());
    if tree["type"] == TYPE && names_account { vec![Key::of(secret)] } else { Vec::new() }
}

/// Takes a secret that is gone off the accounts that list it.
fn forget(view: &dyn View, secret: &Key) -> Vec<Write> {
    let accounts = Item::all(view.list(&SERVICE_ACCOUNTS, Some(&secret.namespace)));
    let without = |account: &Item| {
        let listed = account.list("/secrets");
        let kept: Vec<&Value> = listed.iter().filter(|listed| listed["name"] != *secret.name).collect();
        let patch = json!({"secrets": if kept.is_empty() { Value::Null } else { json!(kept) }});
        (kept.len() < listed.len()).then(|| account.patch_this_version(&SERVICE_ACCOUNTS, patch))
    };
    accounts.iter().filter_map(without).collect()
}

fn secrets_of(view: &dyn View, account: &Object) -> Vec<Key> {
    let secrets = Item::all(view.list(&SECRETS, Some(&account.meta.namespace)));
    let own = secrets.iter().filter(|secret| is_token(secret) && account_name(secret) == account.meta.name);
    own.map(|secret| Key::of(&secret.object)).collect()
}

impl ServiceAccountToken {
    /// Whatever is missing is added, in one write.
    fn fill(&self, secret: &Item, name: &str, uid: &str, last: &Outcome) -> Plan {
        let mut data = json!({});
        if !self.root_ca.is_empty() && entry(secret, "ca.crt") != self.root_ca {
            data["ca.crt"] = json!(to_base64(self.root_ca.as_bytes()));
        }
        if entry(secret, "namespace").is_empty() {
            data["namespace"] = json!(to_base64(secret.namespace().as_bytes()));
        }
        if entry(secret, "token").is_empty() {
            let ask = Ask::Token { claims: claims(secret, name, uid) };
            match last.answer(&ask) {
                None => return Plan { asks: vec![ask], ..Plan::default() },
                Some(Answer::Signed(token)) => data["token"] = json!(to_base64(token.as_bytes())),
                Some(_) => return Plan::wake(NEXT_LOOK),
            }
        }
        if data.as_object().is_none_or(|data| data.is_empty()) {
            return Plan::default();
        }
        let patch = json!({"metadata": {"annotations": {ACCOUNT_NAME: name, ACCOUNT_UID: uid}}, "data": data});
        Plan { writes: vec![secret.patch_this_version(&SECRETS, patch)], ..Plan::default() }
    }
}

fn claims(secret: &Item, name: &str, uid: &str) -> Value {
    let namespace = secret.namespace();
    json!({"iss": "kubernetes/serviceaccount",
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret.name(),
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": uid,
        "sub": format!("system:serviceaccount:{namespace}:{name}")})
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::{FakeView, Witness};

    fn secret() -> Value {
        json!({"metadata": {"name": "t", "namespace": "n", "annotations": {ACCOUNT_NAME: "robot"}}, "type": TYPE})
    }

    fn run(view: &FakeView, answer: Answer) {
        let (controller, key) = (ServiceAccountToken { root_ca: "PEM".into() }, Key::new("n", "t"));
        let asks = controller.decide(view, &key, &Outcome::default(), Timestamp::UNIX_EPOCH).asks;
        assert_eq!(asks.len(), 1);
        let last = Outcome { asked: asks, answers: vec![answer], ..Outcome::default() };
        view.apply(&controller.decide(view, &key, &last, Timestamp::UNIX_EPOCH));
        assert!(controller.decide(view, &key, &Outcome::default(), Timestamp::UNIX_EPOCH).is_empty());
    }

    #[test]
    fn a_secret_that_asks_for_a_token_gets_one() {
        let account = json!({"metadata": {"name": "robot", "namespace": "n"}});
        let view = FakeView::new().with(SECRETS, secret()).with(SERVICE_ACCOUNTS, account);
        run(&view, Answer::Signed("jwt".into()));
        let filled = view.json(&SECRETS, "n", "t");
        assert_eq!(filled["data"], json!({"ca.crt": "UEVN", "namespace": "bg==", "token": "and0"}));
        assert_eq!(filled["metadata"]["annotations"][ACCOUNT_UID], "robot-uid");
    }

    #[test]
    fn an_account_forgets_a_secret_that_is_gone() {
        let account = |secrets: Value| json!({"metadata": {"name": "robot", "namespace": "n"}, "secrets": secrets});
        let cases = [
            (json!([{"name": "t"}, {"name": "other"}]), json!([{"name": "other"}])),
            (json!([{"name": "t"}]), Value::Null),
            (json!([{"name": "other"}]), json!([{"name": "other"}])),
        ];
        for (listed, kept) in cases {
            let view = FakeView::new().with(SERVICE_ACCOUNTS, account(listed));
            let controller = ServiceAccountToken { root_ca: "PEM".into() };
            view.settle(&controller, &Key::new("n", "t"), Timestamp::UNIX_EPOCH);
            assert_eq!(view.json(&SERVICE_ACCOUNTS, "n", "robot")["secrets"], kept);
        }
        let gone = |secret: Value| Object::new(secret.to_string().into(), 1).unwrap();
        assert_eq!(own_key(&FakeView::new(), &gone(secret())), [Key::new("n", "t")]);
        let plain = json!({"metadata": {"name": "t", "namespace": "n"}, "type": "Opaque"});
        assert_eq!(own_key(&FakeView::new(), &gone(plain)), []);
    }

    #[test]
    fn a_token_goes_with_its_account() {
        let view = FakeView::new().with(SECRETS, secret());
        run(&view, Answer::Object(None));
        assert!(view.names(&SECRETS).is_empty());
    }
}
