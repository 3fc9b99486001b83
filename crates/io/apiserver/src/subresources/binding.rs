//! `pods/binding`: a pod gets its node, once. Source: Kubernetes `pkg/registry/core/pod/storage`.

use std::sync::Arc;

use coracle_admission::{Operation, Request};
use coracle_cache::store::TxnResponse;
use coracle_meta::{Members, Object, Resource, Status, Value, time};

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
        let new = bound(&old, binding, &now)?;
        if call.is_dry_run() {
            return Ok(());
        }
        if let TxnResponse::Done { .. } = store::swap_encoded(server, kind, &old, new.into()).await? {
            return Ok(());
        }
    }
    Err(Status::modified(&PODS, &pod.name))
}

/// The bound pod as it is to rest: its parts that no binding changes stay as they are.
fn bound(pod: &Object, binding: &Value, now: &str) -> Result<Vec<u8>, Status> {
    let mut members = Members::read(&pod.bytes).map_err(Status::internal)?;
    let spec = members.text("spec");
    let asked = Value::sparse(spec.as_bytes(), &[&["nodeName"], &["schedulingGates"]]).map_err(Status::internal)?;
    check(pod, &asked, binding)?;
    members.set("spec", with_node(spec, &asked, binding.at(&["target", "name"]))?);
    let mut status = members.value("status").map_err(Status::internal)?;
    status.remove(&["nominatedNodeName"]);
    let mut conditions = status.list_at(&["conditions"]).to_vec();
    conditions.retain(|condition| condition.str_at(&["type"]) != "PodScheduled");
    let mut scheduled = Value::map();
    scheduled.set(&["type"], "PodScheduled");
    scheduled.set(&["status"], "True");
    scheduled.set(&["lastProbeTime"], Value::Null);
    scheduled.set(&["lastTransitionTime"], now);
    conditions.push(scheduled);
    status.set(&["conditions"], conditions);
    members.set("status", status.to_json());
    let told = ["labels", "annotations"].map(|part| ["metadata", part]);
    if told.iter().any(|path| binding.entries_at(path).next().is_some()) {
        let mut metadata = members.value("metadata").map_err(Status::internal)?;
        for [_, part] in told {
            for (key, value) in binding.entries_at(&["metadata", part]) {
                metadata.set(&[part, key], value.clone());
            }
        }
        members.set("metadata", metadata.to_json());
    }
    Ok(members.to_json())
}

/// The JSON of the spec with its node, put in front where nothing names one.
fn with_node(spec: &str, asked: &Value, node: &Value) -> Result<Vec<u8>, Status> {
    let rest = spec.strip_prefix('{').map(str::trim_start).filter(|rest| !rest.starts_with('}'));
    match rest.filter(|_| !asked.as_map().is_some_and(|asked| asked.contains("nodeName"))) {
        Some(rest) => Ok([b"{\"nodeName\":", node.to_json().as_slice(), b",", rest.as_bytes()].concat()),
        None => {
            let mut spec = Value::from_json(spec.as_bytes()).map_err(Status::internal)?;
            spec.set(&["nodeName"], node.clone());
            Ok(spec.to_json())
        }
    }
}

/// Refuses a pod that is not to be bound, or is another. `spec` is read as far as that needs.
fn check(pod: &Object, spec: &Value, binding: &Value) -> Result<(), Status> {
    let name = &pod.meta.name;
    let conflict = |why: String| Status::conflict(&Resource::new("", "pods/binding"), name, &why);
    if pod.meta.is_deleting() {
        return Err(conflict(format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    let current = spec.str_at(&["nodeName"]);
    if !current.is_empty() {
        return Err(conflict(format!("pod {name} is already assigned to node {current:?}")));
    }
    if !spec.list_at(&["schedulingGates"]).is_empty() {
        return Err(conflict(format!("pod {name} has non-empty .spec.schedulingGates")));
    }
    let (uid, own) = (binding.str_at(&["metadata", "uid"]), &pod.meta.uid);
    if !uid.is_empty() && uid != own {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {own}");
        return Err(Status::conflict(&PODS, name, &why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(json: &str) -> Value {
        Value::from_json(json.as_bytes()).unwrap()
    }

    fn bind(pod: &str, binding: &str) -> Result<Value, Status> {
        let pod = Object::new(pod.to_owned().into(), 7).unwrap();
        Ok(Value::from_json(&bound(&pod, &tree(binding), "now")?).unwrap())
    }

    const BINDING: &str = r#"{"metadata":{"name":"a"},"target":{"name":"n\"1"}}"#;

    #[test]
    fn a_binding_names_the_node_and_tells_that_the_pod_is_scheduled() {
        let scheduled = r#"{"type":"PodScheduled","status":"True","lastProbeTime":null,"lastTransitionTime":"now"}"#;
        for spec in [r#""spec":{"containers":[]}"#, r#""spec":{}"#, r#""spec":{"nodeName":null,"containers":[]}"#] {
            let pod = format!(
                r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"a","labels":{{"k":"v"}}}},{spec},"status":{{
                "nominatedNodeName":"x","conditions":[{{"type":"PodScheduled","status":"False"}},{{"type":"Ready"}}]}}}}"#
            );
            let new = bind(&pod, BINDING).unwrap();
            assert_eq!(new.str_at(&["spec", "nodeName"]), "n\"1", "{spec}");
            assert_eq!(new.get("status"), &tree(&format!(r#"{{"conditions":[{{"type":"Ready"}},{scheduled}]}}"#)));
            assert_eq!(new.get("metadata"), &tree(r#"{"name":"a","labels":{"k":"v"}}"#));
        }
    }

    #[test]
    fn labels_and_annotations_of_a_binding_become_the_pods() {
        let pod = r#"{"metadata":{"name":"a","labels":{"k":"v"}},"spec":{"containers":[]}}"#;
        let binding = r#"{"metadata":{"labels":{"l":"w"},"annotations":{"x":"y"}},"target":{"name":"n"}}"#;
        let wanted = tree(r#"{"name":"a","labels":{"k":"v","l":"w"},"annotations":{"x":"y"}}"#);
        assert_eq!(bind(pod, binding).unwrap().get("metadata"), &wanted);
    }

    #[test]
    fn a_pod_is_bound_once_and_only_while_it_is_to_run() {
        let uid = r#"{"metadata":{"uid":"u"},"target":{"name":"n"}}"#;
        for (pod, binding, why) in [
            (r#"{"metadata":{"name":"a"},"spec":{"nodeName":"x"}}"#, BINDING, "already assigned to node \"x\""),
            (
                r#"{"metadata":{"name":"a"},"spec":{"schedulingGates":[{}]}}"#,
                BINDING,
                "non-empty .spec.schedulingGates",
            ),
            (r#"{"metadata":{"name":"a","deletionTimestamp":"t"},"spec":{}}"#, BINDING, "is being deleted"),
            (r#"{"metadata":{"name":"a","uid":"v"},"spec":{}}"#, uid, "UID in precondition: u, UID in object meta: v"),
        ] {
            let refused = bind(pod, binding).unwrap_err();
            assert!(refused.code == 409 && refused.message.contains(why), "{refused:?}");
        }
    }
}
