//! The verbs that every kind has, led by its line of the table.

pub mod collection;
pub mod patch;
pub mod rbac;
pub mod read;
pub mod select;
pub mod watch;
pub mod write;

use std::sync::Arc;

use coracle_meta::Status;

use crate::answer::{self, Response};
use crate::call::Call;
use crate::server::Server;
use crate::store::Target;
use crate::subresources;

pub async fn route(server: &Arc<Server>, call: &Call) -> Result<Response, Status> {
    let info = &call.info;
    let served = server.groups.find(&info.group, &info.version, &info.resource).ok_or_else(answer::not_found)?;
    let kind = served.kind;
    if let Some(text) = deprecation(kind.group, kind.plural) {
        call.warn(text);
    }
    let is_object = !info.name.is_empty() && !matches!(info.verb, "list" | "watch" | "deletecollection");
    let needs_namespace = kind.is_namespaced() && (is_object || info.verb == "create");
    let is_self = kind.plural == "namespaces" && kind.group.is_empty();
    let lacks_name = info.name.is_empty() && matches!(info.verb, "update" | "patch");
    // Only what is passed on may be asked for its head.
    if lacks_name || (call.head.method == http::Method::HEAD && info.subresource != "proxy") {
        return Err(answer::method_not_allowed());
    }
    if kind.is_namespaced() && info.verb == "create" && info.namespace.is_empty() && info.name.is_empty() {
        return Err(answer::method_not_allowed());
    }
    if (needs_namespace && info.namespace.is_empty())
        || (!kind.is_namespaced() && !info.namespace.is_empty() && !is_self)
    {
        return Err(answer::not_found());
    }
    let mut target = Target::of(call, served);
    if !kind.is_namespaced() {
        target.namespace.clear();
    }
    if !info.subresource.is_empty() {
        return subresources::route(server, call, &target).await;
    }
    if !kind.verbs.contains(&info.verb) || (info.verb == "create" && !info.name.is_empty()) {
        return Err(answer::method_not_allowed());
    }
    if kind.storage.is_none() {
        return subresources::unkept(server, call, &target).await;
    }
    match info.verb {
        "get" => read::get(server, call, &target).await,
        "list" => read::list(server, call, &target).await,
        "watch" => watch::watch(server, call, &target).await,
        "create" => write::create(server, call, &target).await,
        "update" => write::update(server, call, &target).await,
        "patch" => patch::patch(server, call, &target).await,
        "delete" => write::delete(server, call, &target).await,
        "deletecollection" => collection::delete(server, call, &target).await,
        _ => Err(answer::method_not_allowed()),
    }
}

/// What every request about a resource that is on its way out is told.
fn deprecation(group: &str, plural: &str) -> Option<&'static str> {
    match (group, plural) {
        ("", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        ("", "endpoints") => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        _ => None,
    }
}
