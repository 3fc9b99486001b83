//! Tokens that Secrets hold: they never expire, but stand only as long as their Secret holds them and their service
//! account is the same. Source: Kubernetes `pkg/serviceaccount/legacy.go`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_meta::{Resource, User, Value};
use coracle_reconcile::View;

use crate::identify::Proof;
use crate::server::Server;

pub const ISSUER: &str = "kubernetes/serviceaccount";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const SECRET_ID: &str = "kubernetes.io/legacy-token-secret-name";

/// The user of claims whose signature holds. Such tokens name no audience: they are meant for the API server.
pub fn check(server: &Server, token: &str, claims: &Value, audiences: &[String]) -> Option<Proof> {
    let claim = |name: &str| claims.str_at(&[&format!("kubernetes.io/serviceaccount/{name}")]).to_owned();
    let (namespace, name, uid) = (claim("namespace"), claim("service-account.name"), claim("service-account.uid"));
    let secret_name = claim("secret.name");
    let is_complete = [&namespace, &name, &uid, &secret_name].iter().all(|part| !part.is_empty());
    if !is_complete || claims.str_at(&["sub"]) != format!("system:serviceaccount:{namespace}:{name}") {
        return None;
    }
    let own = server.audiences();
    let shared: Vec<String> = audiences.iter().filter(|audience| own.contains(audience)).cloned().collect();
    let secret = server.view.get(&Resource::new("", "secrets"), &namespace, &secret_name)?;
    let holds = Value::from_json(&secret.bytes).ok()?;
    let held = STANDARD.decode(holds.str_at(&["data", "token"])).ok()?;
    let stands = held == token.as_bytes() && !secret.meta.is_deleting() && secret.meta.label(INVALID_SINCE).is_none();
    let account = server.view.get(&Resource::new("", "serviceaccounts"), &namespace, &name)?;
    if shared.is_empty() || !stands || account.meta.is_deleting() || account.meta.uid != uid {
        return None;
    }
    let mut user = User::service_account(&namespace, &name);
    user.uid = uid;
    user.extra.push((SECRET_ID.into(), vec![secret_name]));
    Some(Proof { user: Arc::new(user), audiences: shared })
}
