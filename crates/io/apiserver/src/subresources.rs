//! Parts of objects with URLs of their own, and kinds that are answered and never kept.

mod binding;
mod eviction;
mod finalize;
mod review;
mod scale;
pub mod token;

use std::sync::Arc;

use coracle_kinds::certificates::certificatesigningrequest::stamp_conditions;
use coracle_kinds::core::persistentvolume::stamp_phase;
use coracle_kinds::rules::restore_at;
use coracle_meta::{Status, Value, time};

use crate::answer::{self, Response};
use crate::call::Call;
use crate::encode::output::whole_only;
use crate::server::Server;
use crate::store::{self, Target};
use crate::verbs::patch::{Patch, in_served_version};
use crate::verbs::write::{show, stored};
use crate::{decode, tunnel, usage};

pub async fn route(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    let kind = target.served.kind;
    let part = kind.subresource(&target.subresource).ok_or_else(answer::not_found)?;
    // What a pod or Service can be asked is theirs to say.
    let is_options = part.name == "proxy" && call.head.method == http::Method::OPTIONS;
    if !part.verbs.contains(&call.info.verb) && !is_options {
        return Err(answer::method_not_allowed());
    }
    match (kind.plural, part.name) {
        (_, "scale") => scale::route(server, call, target).await,
        ("pods", "binding") => binding::bind(server, call, target).await,
        ("pods", "eviction") => eviction::evict(server, call, target).await,
        ("pods", "exec" | "attach" | "portforward" | "log") => tunnel::pod(server, call, target).await,
        ("pods" | "services" | "nodes", "proxy") => tunnel::proxy(server, call, target).await,
        ("serviceaccounts", "token") => token::request(server, call, target).await,
        ("namespaces", "finalize") => finalize::finalize(server, call, target).await,
        _ => whole(server, call, target).await,
    }
}

/// A part that is read and written as the kind itself: `status`, `approval`, `resize`, `ephemeralcontainers`.
async fn whole(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    let now = time::seconds(server.clock.now());
    let keep = |new: Value, old: &Value| part_of(target, new, old, &now);
    let written = match call.info.verb {
        "get" => return crate::verbs::read::get(server, call, target).await,
        "update" => {
            let object = stored(target, decode::object(call, target.served)?);
            store::update::update(server, call, target, &|old| Ok(keep(object.clone(), old))).await?
        }
        "patch" => {
            let patch = Patch::read(call)?;
            let change = |old: &Value| {
                let shown = in_served_version(target, old);
                let changed =
                    patch.apply(server, call, &shown, &target.served.api_version(), target.served.kind.kind)?;
                Ok(keep(stored(target, changed), old))
            };
            store::update::update(server, call, target, &change).await?
        }
        _ => return Err(answer::method_not_allowed()),
    };
    show(server, call, target, &written)
}

/// Of the parts whose preparation is not the kind's own, only what the part is about changes.
fn part_of(target: &Target, mut new: Value, old: &Value, now: &str) -> Value {
    let plural = target.served.kind.plural;
    match target.subresource.as_str() {
        "ephemeralcontainers" => {
            let mut kept = old.clone();
            restore_at(&mut kept, &new, &["spec", "ephemeralContainers"]);
            pin(&mut kept, &new);
            kept
        }
        "resize" => resized(&new, old),
        "approval" => {
            stamp_conditions(&mut new, old, now);
            approved(new, old)
        }
        "status" if plural == "certificatesigningrequests" => {
            stamp_conditions(&mut new, old, now);
            new
        }
        "status" if plural == "persistentvolumes" => {
            stamp_phase(&mut new, old, now);
            new
        }
        _ => new,
    }
}

/// An approval changes metadata and conditions, nothing of what was asked or signed.
fn approved(mut new: Value, old: &Value) -> Value {
    let conditions = new.at(&["status", "conditions"]).clone();
    restore_at(&mut new, old, &["spec"]);
    restore_at(&mut new, old, &["status"]);
    if !conditions.is_null() {
        new.set(&["status", "conditions"], conditions);
    } else {
        new.remove(&["status", "conditions"]);
    }
    new
}

fn resized(new: &Value, old: &Value) -> Value {
    let mut kept = old.clone();
    for key in ["containers", "initContainers"] {
        let wanted = new.list_at(&["spec", key]).to_vec();
        for container in kept.list_at_mut(&["spec", key]) {
            let same = wanted.iter().find(|one| one.get("name") == container.get("name"));
            for field in ["resources", "resizePolicy"] {
                if let Some(value) = same.map(|one| one.get(field)).filter(|value| !value.is_null()) {
                    container.set(&[field], value.clone());
                }
            }
        }
    }
    pin(&mut kept, new);
    kept
}

/// The new object's own claim to a version, kept for the conflict check.
fn pin(kept: &mut Value, new: &Value) {
    restore_at(kept, new, &["metadata", "resourceVersion"]);
}

/// Kinds that are asked and answered.
pub async fn unkept(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    if target.served.kind.group == "metrics.k8s.io" {
        return usage::answer(server, call, target).await;
    }
    whole_only(call)?;
    match (target.served.kind.group, target.served.kind.kind) {
        ("", "Binding") => binding::bind(server, call, target).await,
        ("", "ComponentStatus") => Ok(review::components(server, call).await),
        _ => review::route(server, call, target).await,
    }
}
