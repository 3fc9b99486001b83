//! `scale`: how many replicas a workload is to have, the same for every kind that has replicas.

use std::sync::Arc;

use coracle_kinds::scale;
use coracle_meta::{Status, Value};

use crate::answer::{self, Response};
use crate::call::Call;
use crate::decode;
use crate::encode::{self, served_tree};
use crate::managed;
use crate::server::Server;
use crate::store::{self, Target, failed};
use crate::verbs::patch::{Patch, in_served_version};
use crate::verbs::write::stored;

const VERSION: &str = "autoscaling/v1";

pub async fn route(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    // The workload itself is updated, with its generation counted.
    let whole = Target { subresource: String::new(), ..target.clone() };
    let object = match call.info.verb {
        "get" => {
            let cache = server.resource(target.served.kind).await?;
            let found = cache.get_fresh(&target.namespace, &target.name).await.map_err(failed)?;
            found.ok_or_else(|| target.not_found())?
        }
        "update" => {
            let wanted = decode::named(call, VERSION, "Scale")?;
            check(target, &wanted)?;
            let change = |old: &Value| Ok(stored(target, scaled(target, old, &wanted)));
            store::update::update(server, call, &whole, &change).await?.object
        }
        "patch" => {
            let patch = Patch::read(call)?;
            let change = |old: &Value| {
                if let Some(config) = patch.config() {
                    return applied(server, call, target, (old, config));
                }
                let shown = scale::of(&in_served_version(target, old));
                let wanted = patch.apply(server, call, &shown, VERSION, "Scale")?;
                check(target, &wanted)?;
                Ok(stored(target, scaled(target, old, &wanted)))
            };
            store::update::update(server, call, &whole, &change).await?.object
        }
        _ => return Err(answer::method_not_allowed()),
    };
    Ok(encode::value(call, 200, &scale::of(&served_tree(target.served, &object)?)))
}

/// A configuration of a `Scale` sets the workload's own replicas: it is applied to the workload, where the records of
/// who set them are.
fn applied(server: &Server, call: &Call, target: &Target, (old, config): (&Value, &Value)) -> Result<Value, Status> {
    let (version, kind) = (config.str_at(&["apiVersion"]), config.str_at(&["kind"]));
    if version != VERSION || kind != "Scale" {
        return Err(Status::bad_request(format!("invalid object type: {version}, Kind={kind}")));
    }
    let wanted = decode::patched(call, config, VERSION, "Scale")?;
    check(target, &wanted)?;
    let live = in_served_version(target, old);
    let mut own = Value::map();
    own.set(&["apiVersion"], target.served.api_version());
    own.set(&["kind"], target.served.kind.kind);
    for key in ["name", "namespace", "uid", "resourceVersion"] {
        let given = wanted.at(&["metadata", key]);
        if !given.is_null() {
            own.set(&["metadata", key], given.clone());
        }
    }
    if !config.at(&["spec", "replicas"]).is_null() {
        own.set(&["spec", "replicas"], wanted.int_at(&["spec", "replicas"]).unwrap_or_default());
    }
    let object = managed::apply(server, call, target.served, &live, &own);
    Ok(stored(target, object.map_err(|status| of_scale(target, status))?))
}

/// A conflict over replicas is told as one over the `Scale`.
fn of_scale(target: &Target, mut status: Status) -> Status {
    let (own, shown) = (format!("using {}", target.served.api_version()), format!("using {VERSION}"));
    status.message = status.message.replace(&own, &shown);
    for cause in status.details.iter_mut().flat_map(|details| &mut details.causes) {
        cause.message = cause.message.replace(&own, &shown);
    }
    status
}

fn check(target: &Target, wanted: &Value) -> Result<(), Status> {
    let replicas = wanted.int_at(&["spec", "replicas"]).unwrap_or_default();
    if replicas >= 0 {
        return Ok(());
    }
    let mut errors = coracle_meta::ErrorList::default();
    let path = coracle_meta::Path::new("spec.replicas");
    errors.invalid(&path, replicas, "must be greater than or equal to 0");
    Err(Status::invalid("autoscaling", "Scale", &target.name, &errors))
}

fn scaled(target: &Target, old: &Value, wanted: &Value) -> Value {
    let mut object = in_served_version(target, old).into_owned();
    scale::apply(&mut object, wanted);
    for key in ["uid", "resourceVersion"] {
        let given = wanted.str_at(&["metadata", key]);
        match given {
            "" => drop(object.remove(&["metadata", key])),
            given => object.set(&["metadata", key], given),
        }
    }
    object
}
