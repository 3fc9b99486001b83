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
use crate::store::delete::{Wish, check_preconditions, delete};
use crate::store::{Target, failed, swap, tree};
use crate::{decode, encode};

const TRIES_MAX: usize = 20;
/// Pods that a budget may have granted and not seen go.
const DISRUPTED_MAX: usize = 2000;
const BUDGETS: Resource = Resource::new("policy", "poddisruptionbudgets");

pub async fn evict(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    let eviction = decode::named(call, "policy/v1", "Eviction")?;
    let options = eviction.get("deleteOptions");
    let wish = Wish {
        grace_seconds: options.int_at(&["gracePeriodSeconds"]),
        propagation: options.str_at(&["propagationPolicy"]).into(),
        uid: options.str_at(&["preconditions", "uid"]).into(),
        resource_version: options.str_at(&["preconditions", "resourceVersion"]).into(),
        dry_run: call.is_dry_run(),
    };
    let pod = match without_leave(server, call, target, &wish).await? {
        None => return Ok(encode::status(call, &Status::new(201, "", ""))),
        Some(pod) => pod,
    };
    let guarding = matching(server, &pod);
    let mut last = wish.clone();
    match guarding.as_slice() {
        [] => {}
        [budget] if needs_no_leave(budget, &tree(&pod)?)? => last.resource_version = pod.revision.to_string(),
        [budget] => take(server, budget, &pod, wish.dry_run).await?,
        _ => {
            let why =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::new(500, "InternalError", why));
        }
    }
    match remove(server, call, target, &last).await {
        Ok(()) => Ok(encode::status(call, &Status::new(201, "", ""))),
        // The pod has changed since it was found unready: the client is to try again.
        Err(status) if status.is_conflict() && last.resource_version != wish.resource_version => {
            Err(still_processed(&guarding[0].meta.name))
        }
        Err(status) => Err(status),
    }
}

/// Evicts a pod whose going no budget minds; answers the pod where one may.
async fn without_leave(
    server: &Arc<Server>,
    call: &Call,
    target: &Target,
    wish: &Wish,
) -> Result<Option<Arc<Object>>, Status> {
    let mut conflict = Status::modified(&target.resource(), &target.name);
    for _ in 0..TRIES_MAX {
        let pod = fresh(server, target).await?;
        let value = tree(&pod)?;
        if needs_leave(&value) {
            return Ok(Some(pod));
        }
        let mut wish = wish.clone();
        let given = !wish.resource_version.is_empty();
        let is_waiting = value.str_at(&["status", "phase"]) == "Pending";
        if !given && is_waiting && value.at(&["metadata", "deletionTimestamp"]).is_null() {
            // It may have become ready meanwhile.
            wish.resource_version = pod.revision.to_string();
        }
        match remove(server, call, target, &wish).await {
            Ok(()) => return Ok(None),
            Err(status) if status.is_conflict() && !given => conflict = status,
            Err(status) => return Err(status),
        }
    }
    Err(conflict)
}

async fn fresh(server: &Server, target: &Target) -> Result<Arc<Object>, Status> {
    let pods = server.resource(target.served.kind).await?;
    let pod = pods.get_fresh(&target.namespace, &target.name).await.map_err(failed)?;
    pod.ok_or_else(|| target.not_found())
}

/// Tells the pod that it was disrupted, so that its controller can tell eviction from failure, and deletes it.
async fn remove(server: &Arc<Server>, call: &Call, target: &Target, wish: &Wish) -> Result<(), Status> {
    let whole = Target { subresource: String::new(), ..target.clone() };
    let mut wish = wish.clone();
    if !wish.dry_run {
        let revision = mark(server, &whole, &wish).await?;
        if !wish.resource_version.is_empty() {
            wish.resource_version = revision.to_string();
        }
    }
    delete(server, call, &whole, &wish).await.map(|_| ())
}

/// Answers the revision at which the pod carries the condition.
async fn mark(server: &Server, target: &Target, wish: &Wish) -> Result<u64, Status> {
    for _ in 0..TRIES_MAX {
        let pod = fresh(server, target).await?;
        check_preconditions(target, wish, &pod)?;
        let mut value = tree(&pod)?;
        let old = value.list_at(&["status", "conditions"]).to_vec();
        let new = disrupted(&old, time::seconds(server.clock.now()));
        if new == old {
            return Ok(pod.revision);
        }
        value.set(&["status", "conditions"], new);
        if let TxnResponse::Done { revision } = swap(server, target.served.kind, &pod, &mut value).await? {
            return Ok(revision);
        }
    }
    Err(Status::modified(&target.resource(), &target.name))
}

/// The conditions with the one that tells of an eviction, in the place of an older one.
fn disrupted(conditions: &[Value], now: String) -> Vec<Value> {
    let is_same = |old: &Value| old.str_at(&["type"]) == "DisruptionTarget";
    let mut all = conditions.to_vec();
    let at = all.iter().position(is_same);
    let mut new = Value::map();
    new.set(&["type"], "DisruptionTarget");
    new.set(&["status"], "True");
    new.set(&["reason"], "EvictionByEvictionAPI");
    new.set(&["message"], "Eviction API: evicting");
    new.set(&["lastTransitionTime"], now);
    match at {
        Some(at) => {
            if all[at].str_at(&["status"]) == "True" {
                new.set(&["lastTransitionTime"], all[at].at(&["lastTransitionTime"]).clone());
            }
            all[at] = new;
        }
        None => all.push(new),
    }
    all
}

/// An unready pod goes without using a budget up, where the budget says so or its application is healthy without it.
fn needs_no_leave(budget: &Object, pod: &Value) -> Result<bool, Status> {
    let budget = tree(budget)?;
    let is_ready = pod
        .list_at(&["status", "conditions"])
        .iter()
        .any(|condition| condition.str_at(&["type"]) == "Ready" && condition.str_at(&["status"]) == "True");
    let count = |field: &str| budget.int_at(&["status", field]).unwrap_or_default();
    let is_healthy = count("currentHealthy") >= count("desiredHealthy") && count("desiredHealthy") > 0;
    let always = budget.str_at(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow";
    Ok(!is_ready && (always || is_healthy))
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
        let name = &budget.meta.name;
        let allowed = leave(&value, name)?;
        if dry_run {
            return Ok(());
        }
        value.set(&["status", "disruptionsAllowed"], allowed - 1);
        if allowed == 1 {
            exhaust(&mut value, time::seconds(server.clock.now()));
        }
        value.set(&["status", "disruptedPods", &pod.meta.name], time::seconds(server.clock.now()));
        if let TxnResponse::Done { .. } = swap(server, served.kind, &current, &mut value).await? {
            return Ok(());
        }
    }
    Err(Status::conflict(&BUDGETS, &budget.meta.name, "the disruption budget keeps changing"))
}

/// How many disruptions the budget allows, at least one.
fn leave(budget: &Value, name: &str) -> Result<i64, Status> {
    let count = |field: &str| budget.int_at(&["status", field]).unwrap_or_default();
    if count("observedGeneration") < budget.int_at(&["metadata", "generation"]).unwrap_or_default() {
        return Err(still_processed(name));
    }
    let forbidden = |why: &str| Err(Status::forbidden(&BUDGETS, name, why));
    match count("disruptionsAllowed") {
        ..0 => return forbidden("pdb disruptions allowed is negative"),
        0 => {}
        allowed => {
            let disrupted = budget.at(&["status", "disruptedPods"]).as_map().map_or(0, |pods| pods.len());
            if disrupted > DISRUPTED_MAX {
                return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
            }
            return Ok(allowed);
        }
    }
    let (desired, healthy) = (count("desiredHealthy"), count("currentHealthy"));
    let conditions = budget.list_at(&["status", "conditions"]);
    let denied = conditions.iter().find(|condition| {
        let is = |key: &str, value: &str| condition.str_at(&[key]) == value;
        is("type", "DisruptionAllowed") && is("status", "False") && !is("message", "")
    });
    let denied = denied.map(|condition| (condition.str_at(&["reason"]), condition.str_at(&["message"])));
    Err(refused(&match denied {
        Some(("SyncFailed", message)) => {
            format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
            )
        }
        _ if healthy <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently")
        }
        Some((reason, message)) => {
            format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {message}")
        }
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    }))
}

/// The condition of a budget that has just been used up.
fn exhaust(budget: &mut Value, now: String) {
    let generation = budget.int_at(&["metadata", "generation"]).unwrap_or_default();
    for condition in budget.list_at_mut(&["status", "conditions"]) {
        if condition.str_at(&["type"]) == "DisruptionAllowed" {
            if condition.str_at(&["status"]) != "False" {
                condition.set(&["lastTransitionTime"], now.clone());
            }
            condition.set(&["status"], "False");
            condition.set(&["reason"], "InsufficientPods");
            condition.set(&["observedGeneration"], generation);
        }
    }
}

fn still_processed(name: &str) -> Status {
    let mut status = refused(&format!("The disruption budget {name} is still being processed by the server."));
    if let Some(details) = &mut status.details {
        details.retry_after_seconds = 10;
    }
    status
}

fn refused(why: &str) -> Status {
    let text = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::new(429, "TooManyRequests", text);
    let cause = Cause { reason: "DisruptionBudget".into(), message: why.into(), field: String::new() };
    status.details = Some(Box::new(Details { causes: vec![cause], ..Details::default() }));
    status
}
