//! `pods/eviction`: a delete that disruption budgets may refuse. Source: Kubernetes
//! `pkg/registry/core/pod/storage/eviction.go`.

use std::sync::Arc;

use coracle_cache::store::TxnResponse;
use coracle_meta::status::{Cause, Details};
use coracle_meta::{LabelSelector, Object, Resource, Status, Value, time};
use coracle_reconcile::View;

use crate::answer::{self, Response};
use crate::call::{Call, Served};
use crate::server::Server;
use crate::store::delete::{Wish, delete};
use crate::store::{Target, failed, swap, tree};
use crate::{decode, encode};

const TRIES_MAX: usize = 20;
const BUDGETS: Resource = Resource::new("policy", "poddisruptionbudgets");

pub async fn evict(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    let eviction = decode::named(call, "policy/v1", "Eviction")?;
    let pods = server.resource(target.served.kind).await?;
    let pod = pods.get_fresh(&target.namespace, &target.name).await.map_err(failed)?;
    let pod = pod.ok_or_else(|| target.not_found())?;
    let options = eviction.get("deleteOptions");
    let wish = Wish {
        grace_seconds: options.int_at(&["gracePeriodSeconds"]),
        propagation: options.str_at(&["propagationPolicy"]).into(),
        uid: options.str_at(&["preconditions", "uid"]).into(),
        resource_version: options.str_at(&["preconditions", "resourceVersion"]).into(),
        dry_run: call.is_dry_run(),
    };
    if needs_leave(&tree(&pod)?) {
        let budgets = matching(server, &pod);
        match budgets.as_slice() {
            [] => {}
            [budget] => take(server, budget, &pod, wish.dry_run).await?,
            _ => {
                let why =
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
                return Err(Status::new(500, "InternalError", why));
            }
        }
    }
    let whole = Target { subresource: String::new(), ..target.clone() };
    delete(server, call, &whole, &wish).await?;
    Ok(encode::status(call, &Status::new(201, "", "")))
}

/// A pod that has ended, waits for a node or is going already disrupts nothing.
fn needs_leave(pod: &Value) -> bool {
    let has_ended = matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed" | "Pending");
    !has_ended && pod.at(&["metadata", "deletionTimestamp"]).is_null()
}

fn matching(server: &Server, pod: &Object) -> Vec<Arc<Object>> {
    let mut budgets = server.view.list(&BUDGETS, Some(&pod.meta.namespace));
    budgets.retain(|budget| {
        let Ok(value) = Value::from_json(&budget.bytes) else { return false };
        LabelSelector::from_value(value.at(&["spec", "selector"])).is_ok_and(|wanted| wanted.matches(&pod.meta.labels))
    });
    budgets
}

/// Takes one of the disruptions that a budget allows.
async fn take(server: &Arc<Server>, budget: &Object, pod: &Object, dry_run: bool) -> Result<(), Status> {
    let served = Served::stored("policy", "poddisruptionbudgets").ok_or_else(answer::not_found)?;
    let cache = server.resource(served.kind).await?;
    for _ in 0..TRIES_MAX {
        let found = cache.get_fresh(&budget.meta.namespace, &budget.meta.name).await.map_err(failed)?;
        let Some(current) = found else { return Ok(()) };
        let mut value = tree(&current)?;
        let generation = value.int_at(&["metadata", "generation"]).unwrap_or_default();
        let observed = value.int_at(&["status", "observedGeneration"]).unwrap_or_default();
        let name = &budget.meta.name;
        if observed < generation {
            return Err(refused(&format!("The disruption budget {name} is still being processed by the server.")));
        }
        let allowed = value.int_at(&["status", "disruptionsAllowed"]).unwrap_or_default();
        if allowed <= 0 {
            let desired = value.int_at(&["status", "desiredHealthy"]).unwrap_or_default();
            let healthy = value.int_at(&["status", "currentHealthy"]).unwrap_or_default();
            let why = format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently");
            return Err(refused(&why));
        }
        if dry_run {
            return Ok(());
        }
        value.set(&["status", "disruptionsAllowed"], allowed - 1);
        value.set(&["status", "disruptedPods", &pod.meta.name], time::seconds(server.clock.now()));
        if let TxnResponse::Done { .. } = swap(server, served.kind, &current, &mut value).await? {
            return Ok(());
        }
    }
    Err(Status::conflict(&BUDGETS, &budget.meta.name, "the disruption budget keeps changing"))
}

fn refused(why: &str) -> Status {
    let text = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::new(429, "TooManyRequests", text);
    let cause = Cause { reason: "DisruptionBudget".into(), message: why.into(), field: String::new() };
    status.details = Some(Box::new(Details { causes: vec![cause], ..Details::default() }));
    status
}
