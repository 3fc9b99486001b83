//! Fifth step: may this user do this. Superusers first, then nodes' own rights, then RBAC; the first that allows wins.

use std::sync::Arc;

use coracle_access::{Attributes, Decision, Policy, authorize, node};
use coracle_meta::{Object, Resource, Status, User, Value};
use coracle_reconcile::{Change, Index, View};
use parking_lot::RwLock;

use crate::request::RequestInfo;
use crate::server::Server;

const RBAC: &str = "rbac.authorization.k8s.io";

/// The kinds that the policy is compiled from.
pub const POLICY_KINDS: [Resource; 4] = [
    Resource::new(RBAC, "roles"),
    Resource::new(RBAC, "clusterroles"),
    Resource::new(RBAC, "rolebindings"),
    Resource::new(RBAC, "clusterrolebindings"),
];

pub fn authorise(server: &Server, user: &User, info: &RequestInfo) -> Result<(), Status> {
    let asked = Attributes {
        user,
        verb: info.verb,
        group: &info.group,
        version: &info.version,
        resource: &info.resource,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        path: &info.path,
    };
    if permits(server, &asked) {
        return Ok(());
    }
    Err(authorize::forbidden(&asked, decide(server, &asked).reason()))
}

/// As `decide`, without the reason.
pub fn permits(server: &Server, asked: &Attributes<'_>) -> bool {
    if asked.user.is_in("system:masters") {
        return true;
    }
    match node::authorize(&Bound { view: server.view.as_ref() }, asked) {
        Decision::Allow(_) => true,
        Decision::Deny(_) => false,
        Decision::NoOpinion(_) => server.policy.read().allows(asked),
    }
}

pub fn decide(server: &Server, asked: &Attributes<'_>) -> Decision {
    if asked.user.is_in("system:masters") {
        return Decision::Allow(String::new());
    }
    let graph = Bound { view: server.view.as_ref() };
    let node = node::authorize(&graph, asked);
    if !matches!(node, Decision::NoOpinion(_)) {
        return node;
    }
    match server.policy.read().authorize(asked) {
        Decision::NoOpinion(reason) if reason.is_empty() => node,
        decision => decision,
    }
}

/// Keeps the policy in step with its objects.
pub fn follow(view: &dyn View, policy: &Arc<RwLock<Policy>>) {
    for resource in POLICY_KINDS {
        let policy = policy.clone();
        view.subscribe(&resource, Arc::new(move |resource, change| apply(&policy, resource, change)));
    }
}

fn apply(policy: &RwLock<Policy>, resource: &Resource, change: &Change) {
    let Some(object) = change.new.as_ref().or(change.old.as_ref()) else { return };
    let value = change.new.as_ref().and_then(|new| Value::from_json(&new.bytes).ok());
    let (namespace, name) = (&object.meta.namespace, &object.meta.name);
    let mut policy = policy.write();
    match resource.plural.as_ref() {
        "roles" | "clusterroles" => policy.set_role(namespace, name, value.as_ref()),
        _ => policy.set_binding(namespace, name, value.as_ref()),
    }
}

/// What pods on a node refer to, read off the view.
struct Bound<'a> {
    view: &'a dyn View,
}

impl node::Graph for Bound<'_> {
    fn refers(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let pods = self.view.by_index(&Resource::new("", "pods"), Index::Node, node);
        match resource {
            // A volume is read through the claim that is bound to it.
            "persistentvolumes" => {
                let volume = self.view.get(&Resource::new("", "persistentvolumes"), "", name);
                let Some(volume) = volume.and_then(|object| object.decode::<Value>().ok()) else { return false };
                let claim = volume.at(&["spec", "claimRef"]);
                let (space, claim) = (claim.str_at(&["namespace"]), claim.str_at(&["name"]));
                pods.iter().any(|pod| pod.meta.namespace == space && mentions(pod, "persistentvolumeclaims", claim))
            }
            _ => pods.iter().any(|pod| pod.meta.namespace == namespace && mentions(pod, resource, name)),
        }
    }
}

fn mentions(pod: &Object, resource: &str, name: &str) -> bool {
    let Ok(pod) = pod.decode::<Value>() else { return false };
    let spec = pod.get("spec");
    match resource {
        "serviceaccounts" => spec.str_at(&["serviceAccountName"]) == name,
        "persistentvolumeclaims" => {
            let own = pod.str_at(&["metadata", "name"]);
            spec.list_at(&["volumes"]).iter().any(|volume| {
                let ephemeral =
                    !volume.get("ephemeral").is_null() && name == format!("{own}-{}", volume.str_at(&["name"]));
                volume.str_at(&["persistentVolumeClaim", "claimName"]) == name || ephemeral
            })
        }
        "resourceclaims" => {
            let claims = spec.list_at(&["resourceClaims"]).iter().map(|claim| claim.str_at(&["resourceClaimName"]));
            let made = pod.list_at(&["status", "resourceClaimStatuses"]);
            claims.chain(made.iter().map(|claim| claim.str_at(&["resourceClaimName"]))).any(|claim| claim == name)
        }
        "configmaps" => names_below(spec, &["configMap", "configMapRef", "configMapKeyRef"], name),
        _ => {
            let pull = spec.list_at(&["imagePullSecrets"]).iter().any(|secret| secret.str_at(&["name"]) == name);
            pull || names_below(spec, &["secret", "secretRef", "secretKeyRef", "nodePublishSecretRef"], name)
        }
    }
}

/// Whether a member of one of these keys, anywhere below, names the object.
fn names_below(value: &Value, keys: &[&str], name: &str) -> bool {
    match value {
        Value::List(items) => items.iter().any(|item| names_below(item, keys, name)),
        Value::Map(map) => map.iter().any(|(key, member)| {
            let named = [member.str_at(&["name"]), member.str_at(&["secretName"])].contains(&name);
            (keys.contains(&key) && named && !name.is_empty()) || names_below(member, keys, name)
        }),
        _ => false,
    }
}
