//! `pods/binding`: a pod gets its node, once. Source: Kubernetes `pkg/registry/core/pod/storage`.

use std::sync::Arc;

use coracle_admission::{Operation, Request};
use coracle_cache::store::TxnResponse;
use coracle_meta::{Resource, Status, Value, time};

use crate::answer::{self, Response};
use crate::call::{Call, Served};
use crate::server::Server;
use crate::store::{self, Target};
use crate::{admit, decode, encode};

const PODS: Resource = Resource::new("", "pods");
/// How often a pod that moves is tried.
const TRIES_MAX: usize = 12;

pub async fn bind(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    let binding = decode::named(call, "v1", "Binding")?;
    let own = binding.str_at(&["metadata", "name"]);
    let name = if target.name.is_empty() { own } else { &target.name };
    if own != name {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let (kind, node) = (binding.str_at(&["target", "kind"]), binding.str_at(&["target", "name"]));
    if !matches!(kind, "" | "Node") || node.is_empty() {
        let mut errors = coracle_meta::ErrorList::default();
        let path = coracle_meta::Path::new("target");
        match node {
            "" => errors.required(&path.child("name"), ""),
            _ => errors.not_supported(&path.child("kind"), kind, &["Node"]),
        }
        return Err(Status::invalid("", "Binding", name, &errors));
    }
    let served = Served::stored("", "pods").ok_or_else(answer::not_found)?;
    let pod = Target { served, name: name.to_owned(), subresource: "binding".into(), ..target.clone() };
    admit(server, call, &pod, binding.clone()).await?;
    write(server, call, &pod, &binding).await?;
    Ok(encode::status(call, &Status::new(201, "", "")))
}

/// It is the binding that is made: the pod is no more judged than by kube-apiserver.
async fn admit(server: &Server, call: &Call, pod: &Target, mut binding: Value) -> Result<(), Status> {
    let request = Request {
        operation: Operation::Create,
        resource: &PODS,
        subresource: &pod.subresource,
        namespace: &pod.namespace,
        name: &pod.name,
        user: &call.user,
        old: None,
    };
    admit::mutate(server, &request, &mut binding).await?;
    admit::validate(server, &request, &binding).await.map(|_| ())
}

/// Reads, binds, compares and swaps, again where another was faster.
async fn write(server: &Server, call: &Call, pod: &Target, binding: &Value) -> Result<(), Status> {
    let kind = pod.served.kind;
    let cache = server.resource(kind).await?;
    let now = time::seconds(server.clock.now());
    for _ in 0..TRIES_MAX {
        let found = cache.get_fresh(&pod.namespace, &pod.name).await.map_err(store::failed)?;
        let old = found.ok_or_else(|| pod.not_found())?;
        let mut new = bound(store::tree(&old)?, binding, &now)?;
        if call.is_dry_run() {
            return Ok(());
        }
        if let TxnResponse::Done { .. } = store::swap(server, kind, &old, &mut new).await? {
            return Ok(());
        }
    }
    Err(Status::modified(&PODS, &pod.name))
}

fn bound(mut pod: Value, binding: &Value, now: &str) -> Result<Value, Status> {
    check(&pod, binding)?;
    let node = binding.str_at(&["target", "name"]);
    pod.remove(&["metadata", "resourceVersion"]);
    pod.set(&["spec", "nodeName"], node);
    pod.remove(&["status", "nominatedNodeName"]);
    for part in ["labels", "annotations"] {
        for (key, value) in binding.entries_at(&["metadata", part]) {
            pod.set(&["metadata", part, key], value.clone());
        }
    }
    let mut conditions = pod.list_at(&["status", "conditions"]).to_vec();
    conditions.retain(|condition| condition.str_at(&["type"]) != "PodScheduled");
    let mut scheduled = Value::map();
    scheduled.set(&["type"], "PodScheduled");
    scheduled.set(&["status"], "True");
    scheduled.set(&["lastProbeTime"], Value::Null);
    scheduled.set(&["lastTransitionTime"], now);
    conditions.push(scheduled);
    pod.set(&["status", "conditions"], conditions);
    Ok(pod)
}

/// Refuses a pod that is not to be bound, or is another.
fn check(old: &Value, binding: &Value) -> Result<(), Status> {
    let name = old.str_at(&["metadata", "name"]);
    let conflict = |why: String| Status::conflict(&Resource::new("", "pods/binding"), name, &why);
    if !old.at(&["metadata", "deletionTimestamp"]).is_null() {
        return Err(conflict(format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    let current = old.str_at(&["spec", "nodeName"]);
    if !current.is_empty() {
        return Err(conflict(format!("pod {name} is already assigned to node {current:?}")));
    }
    if !old.list_at(&["spec", "schedulingGates"]).is_empty() {
        return Err(conflict(format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    let uid = binding.str_at(&["metadata", "uid"]);
    if !uid.is_empty() && uid != old.str_at(&["metadata", "uid"]) {
        let own = old.str_at(&["metadata", "uid"]);
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {own}");
        return Err(Status::conflict(&PODS, name, &why));
    }
    Ok(())
}
