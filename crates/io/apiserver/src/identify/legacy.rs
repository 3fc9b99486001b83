//! Tokens that Secrets hold: they never expire, but stand only as long as their Secret holds them and their service
//! account is the same. The day of use is noted on the Secret, so that tokens nobody uses can be told.
//! Source: Kubernetes `pkg/serviceaccount/legacy.go`.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_meta::{Object, Resource, Status, User, Value};
use coracle_reconcile::{Key, View};
use jiff::tz::TimeZone;
use parking_lot::Mutex;

use crate::identify::Proof;
use crate::server::Server;
use crate::store;

pub const ISSUER: &str = "kubernetes/serviceaccount";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const SECRETS: Resource = Resource::new("", "secrets");
/// Secrets being marked at the same time; the use of others is noted with a later request.
const MARKS_MAX: usize = 64;
const SECRET_ID: &str = "kubernetes.io/legacy-token-secret-name";

/// The Secrets whose day of use is being written.
#[derive(Default)]
pub struct Marks(Mutex<BTreeSet<Key>>);

/// The user of claims whose signature holds. Such tokens name no audience: they are meant for the API server.
pub fn check(server: &Arc<Server>, token: &str, claims: &Value, audiences: &[String]) -> Option<Proof> {
    let claim = |name: &str| claims.str_at(&[&format!("kubernetes.io/serviceaccount/{name}")]).to_owned();
    let (namespace, name, uid) = (claim("namespace"), claim("service-account.name"), claim("service-account.uid"));
    let secret_name = claim("secret.name");
    let is_complete = [&namespace, &name, &uid, &secret_name].iter().all(|part| !part.is_empty());
    if !is_complete || claims.str_at(&["sub"]) != format!("system:serviceaccount:{namespace}:{name}") {
        return None;
    }
    let own = server.audiences();
    let shared: Vec<String> = audiences.iter().filter(|audience| own.contains(audience)).cloned().collect();
    let secret = server.view.get(&SECRETS, &namespace, &secret_name)?;
    let holds = Value::from_json(&secret.bytes).ok()?;
    let held = STANDARD.decode(holds.str_at(&["data", "token"])).ok()?;
    let stands = held == token.as_bytes() && !secret.meta.is_deleting();
    let account = server.view.get(&Resource::new("", "serviceaccounts"), &namespace, &name)?;
    if shared.is_empty() || !stands || account.meta.is_deleting() || account.meta.uid != uid {
        return None;
    }
    // Also in vain: whoever looks for what would be missed must see it.
    note_use(server, &secret);
    if secret.meta.label(INVALID_SINCE).is_some_and(|since| !since.is_empty()) {
        return None;
    }
    let mut user = User::service_account(&namespace, &name);
    user.uid = uid;
    user.extra.push((SECRET_ID.into(), vec![secret_name]));
    Some(Proof { user: Arc::new(user), audiences: shared })
}

/// Once a day, beside the request.
fn note_use(server: &Arc<Server>, secret: &Object) {
    let today = server.clock.now().to_zoned(TimeZone::UTC).date();
    let day = today.strftime("%Y-%m-%d").to_string();
    // Another server's day may have begun.
    let tomorrow = today.tomorrow().map(|day| day.strftime("%Y-%m-%d").to_string()).unwrap_or_default();
    if secret.meta.label(LAST_USED).is_some_and(|noted| noted == day || noted == tomorrow) {
        return;
    }
    let key = Key::of(secret);
    let mut marks = server.marks.0.lock();
    if marks.len() >= MARKS_MAX || !marks.insert(key.clone()) {
        return;
    }
    drop(marks);
    let (server, uid) = (server.clone(), secret.meta.uid.clone());
    server.scope.clone().spawn_until_cancelled("token-use", async move {
        if let Err(error) = mark(&server, &key, (&uid, &day)).await {
            tracing::debug!(component = "apiserver", object = key.name, %error, "the use of a token is not noted");
        }
        server.marks.0.lock().remove(&key);
    });
}

/// A write that comes between is no harm: the next request is noted.
async fn mark(server: &Server, key: &Key, (uid, day): (&str, &str)) -> Result<(), Status> {
    let kind = coracle_kinds::find(&SECRETS).ok_or_else(|| Status::internal("no kind for secrets"))?;
    let cache = server.resource(kind).await?;
    let found = cache.get_fresh(&key.namespace, &key.name).await.map_err(store::failed)?;
    let Some(found) = found.filter(|found| found.meta.uid == uid && found.meta.label(LAST_USED) != Some(day)) else {
        return Ok(());
    };
    let mut secret = store::tree(&found)?;
    secret.set(&["metadata", "labels", LAST_USED], day);
    store::swap(server, kind, &found, &mut secret).await.map(|_| ())
}
