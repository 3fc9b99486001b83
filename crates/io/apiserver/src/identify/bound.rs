//! Tokens of service accounts are bound to live objects: what they name must still exist, under the same uid. Source:
//! Kubernetes `pkg/serviceaccount/claims.go`.

use std::sync::Arc;

use coracle_meta::{Object, Resource, User, Value, time};
use coracle_reconcile::View;

use crate::identify::Proof;
use crate::server::Server;

const ISSUER: &str = crate::server::ISSUER;

/// How long a token outlives its object's deletion timestamp.
const DELETION_LEEWAY_SECONDS: i64 = 60;

/// What a token is bound to.
#[derive(Clone, Debug, Default)]
pub struct Binding {
    pub namespace: String,
    pub account: (String, String),
    pub pod: Option<(String, String)>,
    pub secret: Option<(String, String)>,
    pub node: Option<(String, String)>,
}

/// What a token of ours says, whoever shows it and whenever.
pub struct Claims {
    expires: i64,
    not_before: i64,
    issuer: String,
    audiences: Vec<String>,
    binding: Binding,
    user: Arc<User>,
}

impl Claims {
    /// `None` for claims that no token of a service account has.
    pub fn read(claims: &Value) -> Option<Claims> {
        let binding = Binding::read(claims.get("kubernetes.io"));
        let audiences = match claims.get("aud") {
            Value::String(one) => vec![one.to_string()],
            list => list.as_list()?.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect(),
        };
        Some(Claims {
            expires: claims.int_at(&["exp"])?,
            not_before: claims.int_at(&["nbf"]).unwrap_or(0),
            issuer: claims.str_at(&["iss"]).to_owned(),
            audiences,
            user: Arc::new(binding.user(claims.str_at(&["jti"]))),
            binding,
        })
    }

    /// The user, as of now; `None` when the claims are late, early, for others, or of what is gone.
    pub fn check(&self, server: &Server, audiences: &[String]) -> Option<Proof> {
        let now = server.clock.now().as_second();
        let in_time = self.expires > now && self.not_before <= now + 5;
        if !in_time || self.issuer != ISSUER {
            return None;
        }
        let shared: Vec<String> = audiences.iter().filter(|one| self.audiences.contains(one)).cloned().collect();
        if shared.is_empty() || !self.binding.is_alive(server.view.as_ref(), now) {
            return None;
        }
        Some(Proof { user: self.user.clone(), audiences: shared })
    }
}

impl Binding {
    fn read(value: &Value) -> Binding {
        let pair = |key: &str| {
            let part = value.get(key);
            let pair = (part.str_at(&["name"]).to_owned(), part.str_at(&["uid"]).to_owned());
            (!part.is_null()).then_some(pair)
        };
        Binding {
            namespace: value.str_at(&["namespace"]).into(),
            account: pair("serviceaccount").unwrap_or_default(),
            pod: pair("pod"),
            secret: pair("secret"),
            node: pair("node"),
        }
    }

    pub fn claims(&self) -> Value {
        let mut value = Value::map();
        value.set(&["namespace"], self.namespace.as_str());
        let parts =
            [("node", &self.node), ("pod", &self.pod), ("secret", &self.secret)].map(|(key, part)| (key, part.clone()));
        for (key, part) in parts.into_iter().chain([("serviceaccount", Some(self.account.clone()))]) {
            let Some((name, uid)) = part else { continue };
            value.set(&[key, "name"], name);
            if !uid.is_empty() {
                value.set(&[key, "uid"], uid);
            }
        }
        value
    }

    fn is_alive(&self, view: &dyn View, now: i64) -> bool {
        let stands = |plural: &'static str, namespace: &str, (name, uid): &(String, String)| {
            let found = view.get(&Resource::new("", plural), namespace, name);
            found.is_some_and(|object| object.meta.uid == *uid && !is_long_deleted(&object, now))
        };
        let account_stands = stands("serviceaccounts", &self.namespace, &self.account);
        let part = |plural, part: &Option<(String, String)>| {
            part.as_ref().is_none_or(|part| stands(plural, &self.namespace, part))
        };
        let node_stands = match (&self.pod, &self.node) {
            // A node named beside a pod is told, not required: the pod's own life decides.
            (None, Some(node)) => stands("nodes", "", node),
            _ => true,
        };
        account_stands && part("pods", &self.pod) && part("secrets", &self.secret) && node_stands
    }

    fn user(&self, id: &str) -> User {
        let mut user = User::service_account(&self.namespace, &self.account.0);
        user.uid.clone_from(&self.account.1);
        let mut add = |key: &str, value: &str| {
            if !value.is_empty() {
                user.extra.push((format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]));
            }
        };
        if !id.is_empty() {
            add("credential-id", &format!("JTI={id}"));
        }
        for (what, part) in [("pod", &self.pod), ("node", &self.node)] {
            if let Some((name, uid)) = part {
                add(&format!("{what}-name"), name);
                add(&format!("{what}-uid"), uid);
            }
        }
        user
    }
}

fn is_long_deleted(object: &Object, now: i64) -> bool {
    time::parse(&object.meta.deletion_timestamp).is_some_and(|at| at.as_second() + DELETION_LEEWAY_SECONDS < now)
}
