//! A node changes its own objects only: its Node, the pods bound to it, its lease, tokens for its pods. Source:
//! Kubernetes `plugin/pkg/admission/noderestriction`.

use coracle_meta::{Resource, User, Value};

use crate::plugin::{Context, Operation, Plugin, Request, Verdict, forbidden};
use crate::pods;

pub struct NodeRestriction;

const PODS: Resource = Resource::new("", "pods");

impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn looks_into_deletions(&self, user: &User) -> bool {
        user.as_node().is_some()
    }

    fn validate(&self, request: &Request<'_>, object: &Value, context: &Context<'_>) -> Verdict {
        let Some(node) = request.user.as_node() else { return Verdict::Admit };
        match (request.resource.group.as_ref(), request.resource.plural.as_ref(), request.subresource) {
            ("", "pods", "") => pod(request, object, node),
            ("", "pods", "status") => pod_status(request, object, node),
            ("", "pods", "eviction") => eviction(request, context, node),
            ("", "pods", part) => {
                let why = format!("unexpected pod subresource {part:?}, only 'status' and 'eviction' are allowed");
                forbidden(request, why)
            }
            ("", "nodes", _) => own_node(request, object, node),
            ("", "serviceaccounts", "token") => token(request, object, context, node),
            ("coordination.k8s.io", "leases", _) => lease(request, object, node),
            ("storage.k8s.io", "csinodes", _) if name_of(request, object) != node => forbidden(
                request,
                format!("node {node:?} is not allowed to modify CSINode {:?}", name_of(request, object)),
            ),
            _ => Verdict::Admit,
        }
    }
}

fn name_of<'a>(request: &'a Request<'_>, object: &'a Value) -> &'a str {
    if request.name.is_empty() { object.str_at(&["metadata", "name"]) } else { request.name }
}

fn pod(request: &Request<'_>, object: &Value, node: &str) -> Verdict {
    match request.operation {
        Operation::Create => {
            if !pods::is_mirror(object) {
                let key = pods::MIRROR;
                let why = format!("pod does not have {key:?} annotation, node {node:?} can only create mirror pods");
                return forbidden(request, why);
            }
            if object.str_at(&["spec", "nodeName"]) != node {
                return forbidden(
                    request,
                    format!("node {node:?} can only create pods with spec.nodeName set to itself"),
                );
            }
            let owners = object.list_at(&["metadata", "ownerReferences"]);
            let is_own = |owner: &Value| owner.str_at(&["kind"]) == "Node" && owner.str_at(&["name"]) == node;
            if owners.len() > 1 || !owners.iter().all(is_own) {
                let why = format!("node {node:?} can only create pods with an owner reference set to itself");
                return forbidden(request, why);
            }
            Verdict::Admit
        }
        Operation::Delete => match object.str_at(&["spec", "nodeName"]) == node {
            true => Verdict::Admit,
            false => forbidden(request, format!("node {node:?} can only delete pods with spec.nodeName set to itself")),
        },
        Operation::Update => {
            let why = format!("unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods");
            forbidden(request, why)
        }
        Operation::Connect => Verdict::Admit,
    }
}

fn pod_status(request: &Request<'_>, object: &Value, node: &str) -> Verdict {
    let Some(old) = request.old else { return Verdict::Admit };
    if old.str_at(&["spec", "nodeName"]) != node {
        let why = format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself");
        return forbidden(request, why);
    }
    if old.at(&["metadata", "labels"]) != object.at(&["metadata", "labels"]) {
        return forbidden(request, format!("node {node:?} cannot update labels through pod status"));
    }
    Verdict::Admit
}

fn eviction(request: &Request<'_>, context: &Context<'_>, node: &str) -> Verdict {
    let pod = context.facts.get(&PODS, request.namespace, request.name);
    let bound = pod.and_then(|pod| Value::from_json(&pod.bytes).ok());
    match bound.is_some_and(|pod| pod.str_at(&["spec", "nodeName"]) == node) {
        true => Verdict::Admit,
        false => forbidden(request, format!("node {node} can only evict pods with spec.nodeName set to itself")),
    }
}

fn own_node(request: &Request<'_>, object: &Value, node: &str) -> Verdict {
    let name = name_of(request, object);
    if name != node {
        return forbidden(request, format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    if let (Operation::Update, Some(old)) = (request.operation, request.old) {
        if old.at(&["spec", "taints"]) != object.at(&["spec", "taints"]) {
            return forbidden(request, format!("node {node:?} is not allowed to modify taints"));
        }
        if old.at(&["metadata", "ownerReferences"]) != object.at(&["metadata", "ownerReferences"]) {
            return forbidden(request, format!("node {node:?} is not allowed to modify ownerReferences"));
        }
    }
    let labels = object.entries_at(&["metadata", "labels"]);
    let reserved: Vec<&str> = labels
        .filter(|(key, value)| request.old.is_none_or(|old| old.at(&["metadata", "labels", key]) != *value))
        .map(|(key, _)| key)
        .filter(|key| is_reserved(key))
        .collect();
    match reserved.as_slice() {
        [] => Verdict::Admit,
        list if request.creates() => {
            forbidden(request, format!("node {node:?} is not allowed to set the following labels: {}", list.join(", ")))
        }
        list => forbidden(request, format!("is not allowed to modify labels: {}", list.join(", "))),
    }
}

/// Labels below `kubernetes.io` and `k8s.io` that a kubelet does not set about itself.
fn is_reserved(key: &str) -> bool {
    const OWN: [&str; 13] = [
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.kubernetes.io/zone",
        "failure-domain.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
    ];
    let Some((domain, _)) = key.split_once('/') else { return false };
    let within = |parent: &str| domain == parent || domain.ends_with(&format!(".{parent}"));
    if within("node-restriction.kubernetes.io") {
        return true;
    }
    let own = OWN.contains(&key) || within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    (within("kubernetes.io") || within("k8s.io")) && !own
}

fn token(request: &Request<'_>, object: &Value, context: &Context<'_>, node: &str) -> Verdict {
    let bound = object.at(&["spec", "boundObjectRef"]);
    if bound.str_at(&["kind"]) != "Pod" {
        return forbidden(request, "node requested token not bound to a pod");
    }
    if bound.str_at(&["uid"]).is_empty() {
        return forbidden(request, "node requested token with a pod binding without a uid");
    }
    let Some(pod) = context.facts.get(&PODS, request.namespace, bound.str_at(&["name"])) else {
        return forbidden(request, format!("pod {:?} not found", bound.str_at(&["name"])));
    };
    if pod.meta.uid != bound.str_at(&["uid"]) {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record. The object might have been \
             deleted and then recreated",
            bound.str_at(&["uid"])
        );
        return forbidden(request, why);
    }
    let on_node = Value::from_json(&pod.bytes).is_ok_and(|pod| pod.str_at(&["spec", "nodeName"]) == node);
    if on_node {
        Verdict::Admit
    } else {
        forbidden(request, "node requested token bound to a pod scheduled on a different node")
    }
}

fn lease(request: &Request<'_>, object: &Value, node: &str) -> Verdict {
    if request.namespace != "kube-node-lease" {
        return forbidden(request, "can only access leases in the \"kube-node-lease\" system namespace");
    }
    match name_of(request, object) == node {
        true => Verdict::Admit,
        false => forbidden(request, "can only access node lease with the same name as the requesting node"),
    }
}
