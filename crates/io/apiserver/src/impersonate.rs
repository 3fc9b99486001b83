//! Third step: a caller may speak for another, by headers, if it may `impersonate` every part of that identity.
//! Source: Kubernetes `apiserver/pkg/endpoints/filters/impersonation.go`.

use std::sync::Arc;

use coracle_access::{Attributes, authorize};
use coracle_meta::{Resource, Status, User};
use http::HeaderMap;

use crate::authorise::decide;
use crate::query::{Plus, percent_decode};
use crate::server::Server;

/// The user whom the request is for: the caller, or the one it may speak for.
pub fn impersonate(server: &Server, caller: Arc<User>, headers: &HeaderMap) -> Result<Arc<User>, Status> {
    let Some(mut wanted) = read(headers)? else { return Ok(caller) };
    let ask = |group: &'static str, resource: &'static str, subresource: &str, namespace: &str, name: &str| {
        let resource = Resource::new(group, resource);
        let asked = Attributes { subresource, namespace, name, ..Attributes::of(&caller, "impersonate", &resource) };
        match decide(server, &asked) {
            decision if decision.is_allowed() => Ok(()),
            decision => Err(authorize::forbidden(&asked, decision.reason())),
        }
    };
    match wanted.as_service_account() {
        Some((namespace, name)) => ask("", "serviceaccounts", "", namespace, name)?,
        None => ask("", "users", "", "", &wanted.name)?,
    }
    for group in &wanted.groups {
        ask("", "groups", "", "", group)?;
    }
    if !wanted.uid.is_empty() {
        ask("authentication.k8s.io", "uids", "", "", &wanted.uid)?;
    }
    for (key, values) in &wanted.extra {
        for value in values {
            ask("authentication.k8s.io", "userextras", key, "", value)?;
        }
    }
    complete(&mut wanted);
    Ok(Arc::new(wanted))
}

/// The groups that every user of that kind has.
fn complete(user: &mut User) {
    if let Some((namespace, name)) = user.as_service_account()
        && user.groups.is_empty()
    {
        user.groups = User::service_account(namespace, name).groups;
    }
    let general = if user.name == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" };
    if !user.is_in("system:authenticated") && !user.is_in(general) {
        user.groups.push(general.into());
    }
}

fn read(headers: &HeaderMap) -> Result<Option<User>, Status> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let all = headers.get_all("impersonate-group");
    let mut user = User { name: text("impersonate-user"), uid: text("impersonate-uid"), ..User::default() };
    user.groups = all.iter().filter_map(|value| value.to_str().ok().map(str::to_owned)).collect();
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix("impersonate-extra-") else { continue };
        let (key, value) = (percent_decode(key, Plus::Literal), value.to_str().unwrap_or_default().to_owned());
        match user.extra.iter_mut().find(|(own, _)| *own == key) {
            Some((_, values)) => values.push(value),
            None => user.extra.push((key, vec![value])),
        }
    }
    if !user.name.is_empty() {
        return Ok(Some(user));
    }
    if user.groups.is_empty() && user.uid.is_empty() && user.extra.is_empty() {
        return Ok(None);
    }
    Err(Status::internal("requested impersonation without impersonating a user"))
}
