//! First step: who is asking. A verified client certificate, a bearer token from the table, or a service account's
//! token; without any, the anonymous user, who may only what is granted to everyone.

pub mod bound;
pub mod genuine;
pub mod jwt;
pub mod legacy;

use std::sync::Arc;

use coracle_meta::{Status, User};
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::caller::Caller;
use crate::identify::genuine::Claims;
use crate::server::Server;

/// The caller's user, or why the proof it brought does not hold.
pub fn identify(server: &Arc<Server>, caller: &Caller, headers: &HeaderMap) -> Result<Arc<User>, Status> {
    let certificate = match caller {
        Caller::Local(identity) => return Ok(identity.user().clone()),
        Caller::Socket { certificate, .. } => certificate,
    };
    if let Some(user) = certificate {
        return Ok(user.clone());
    }
    match bearer(headers) {
        Some(token) => token_user(server, token, server.audiences()).map(|proof| proof.user),
        None => Ok(Arc::new(User::anonymous())),
    }
}

/// What a token proves.
pub struct Proof {
    pub user: Arc<User>,
    /// Those of the audiences asked for that the token is meant for.
    pub audiences: Vec<String>,
}

/// The user of a bearer token meant for one of the audiences.
pub fn token_user(server: &Arc<Server>, token: &str, audiences: &[String]) -> Result<Proof, Status> {
    if let Some(user) = server.tokens.get(token) {
        return Ok(Proof { user: user.clone(), audiences: audiences.to_vec() });
    }
    let read = || Claims::read(server.keys.verify(token)?);
    let claims = server.genuine.get(token, read).ok_or_else(Status::unauthorized)?;
    let proof = match claims.as_ref() {
        Claims::Bound(claims) => claims.check(server, audiences),
        Claims::Legacy(claims) => legacy::check(server, token, claims, audiences),
    };
    proof.ok_or_else(Status::unauthorized)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token);
    }
    None
}
