//! What a node's own kubelet may read: the objects that pods bound to it refer to, and nothing else of those kinds.
//! All else that nodes do they may by the role `system:node`, given to them here and not through a binding. Source:
//! Kubernetes `plugin/pkg/auth/authorizer/node`.

use std::sync::LazyLock;

use crate::authorize::{Attributes, Decision};
use crate::bootstrap;
use crate::rule::Rule;

/// What the authorizer must know of the cluster.
pub trait Graph {
    /// Whether a pod on the node refers to the object, itself or through a claim.
    fn refers(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool;
}

pub fn authorize(graph: &dyn Graph, asked: &Attributes<'_>) -> Decision {
    let Some(node) = asked.user.as_node() else { return Decision::NoOpinion(String::new()) };
    let no = |why: &str| Decision::NoOpinion(why.to_owned());
    match (asked.group, asked.resource, asked.subresource) {
        ("", "secrets" | "configmaps", "") => read_referred(graph, node, asked, &["get", "list", "watch"]),
        ("", "persistentvolumeclaims", "status") => by_role(asked),
        ("", "persistentvolumeclaims" | "persistentvolumes", "") | ("resource.k8s.io", "resourceclaims", "") => {
            read_referred(graph, node, asked, &["get"])
        }
        ("storage.k8s.io", "volumeattachments", "") if asked.verb == "get" => by_role(asked),
        ("", "serviceaccounts", "token") if asked.verb == "create" => {
            match graph.refers(node, "serviceaccounts", asked.namespace, asked.name) {
                true => allowed(),
                false => no(&unrelated(node, asked)),
            }
        }
        ("storage.k8s.io", "csinodes", "") | ("", "nodes", _) if asked.verb == "get" && asked.name != node => {
            no(&format!("node {node:?} cannot read {:?}, only its own Node object", asked.name))
        }
        ("coordination.k8s.io", "leases", "") => own_lease(node, asked),
        _ => by_role(asked),
    }
}

fn read_referred(graph: &dyn Graph, node: &str, asked: &Attributes<'_>, verbs: &[&str]) -> Decision {
    if !verbs.contains(&asked.verb) {
        return Decision::NoOpinion(format!("can only {} individual resources of this type", verbs.join("/")));
    }
    if asked.name.is_empty() {
        return Decision::NoOpinion("No Object name found".into());
    }
    match graph.refers(node, asked.resource, asked.namespace, asked.name) {
        true => allowed(),
        false => Decision::NoOpinion(unrelated(node, asked)),
    }
}

fn own_lease(node: &str, asked: &Attributes<'_>) -> Decision {
    if asked.namespace != "kube-node-lease" {
        return Decision::NoOpinion("can only access leases in the \"kube-node-lease\" system namespace".into());
    }
    match asked.verb {
        "create" => allowed(),
        "get" | "update" | "patch" | "delete" if asked.name == node => allowed(),
        "get" | "update" | "patch" | "delete" => {
            Decision::NoOpinion("can only access node lease with the same name as the requesting node".into())
        }
        _ => Decision::NoOpinion("can only get, create, update, patch, or delete a node lease".into()),
    }
}

fn by_role(asked: &Attributes<'_>) -> Decision {
    static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| bootstrap::rules_of("system:node"));
    match RULES.iter().any(|rule| rule.allows(asked)) {
        true => allowed(),
        false => Decision::NoOpinion(String::new()),
    }
}

fn allowed() -> Decision {
    Decision::Allow(String::new())
}

fn unrelated(node: &str, asked: &Attributes<'_>) -> String {
    format!("no relationship found between node '{node}' and this object ({} {:?})", asked.resource, asked.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_meta::{Resource, User};

    struct OneSecret;

    impl Graph for OneSecret {
        fn refers(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
            (node, resource, namespace, name) == ("n1", "secrets", "default", "mine")
        }
    }

    #[test]
    fn a_node_reads_only_what_its_pods_refer_to() {
        let secrets = Resource::new("", "secrets");
        for (node, verb, name, allowed) in [
            ("n1", "get", "mine", true),
            ("n2", "get", "mine", false),
            ("n1", "get", "other", false),
            ("n1", "list", "", false),
        ] {
            let user = User::node(node);
            let asked = Attributes { namespace: "default", name, ..Attributes::of(&user, verb, &secrets) };
            assert_eq!(authorize(&OneSecret, &asked).is_allowed(), allowed, "{node} {verb} {name}");
        }
    }

    #[test]
    fn a_node_may_what_its_role_allows() {
        let user = User::node("n1");
        let pods = Resource::new("", "pods");
        assert!(authorize(&OneSecret, &Attributes::of(&user, "list", &pods)).is_allowed());
        let deployments = Resource::new("apps", "deployments");
        assert!(!authorize(&OneSecret, &Attributes::of(&user, "list", &deployments)).is_allowed());
    }
}
