//! RBAC, compiled as objects come and go: each subject leads straight to its bindings, each binding to its role's
//! rules, so that a decision reads nothing else. Source: Kubernetes `plugin/pkg/auth/authorizer/rbac`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use coracle_meta::{User, Value};

use crate::authorize::{Attributes, Decision};
use crate::rule::Rule;

/// Namespace (empty for cluster kinds) and name.
type Name = (String, String);

/// All roles and bindings of a cluster.
#[derive(Debug, Default)]
pub struct Policy {
    roles: HashMap<Name, Arc<[Rule]>>,
    bindings: HashMap<Name, Binding>,
    by_subject: HashMap<Subject, BTreeSet<Name>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Binding {
    /// The namespace is empty for a ClusterRole.
    role: Name,
    subjects: Vec<Subject>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    User(String),
    Group(String),
}

impl Policy {
    /// Takes a Role or ClusterRole as it is now; `None` when it is gone.
    pub fn set_role(&mut self, namespace: &str, name: &str, role: Option<&Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        match role {
            Some(role) => self.roles.insert(key, Rule::all(role).into()),
            None => self.roles.remove(&key),
        };
    }

    /// Takes a RoleBinding or ClusterRoleBinding as it is now; `None` when it is gone.
    pub fn set_binding(&mut self, namespace: &str, name: &str, binding: Option<&Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(old) = self.bindings.remove(&key) {
            for subject in old.subjects {
                if let Some(names) = self.by_subject.get_mut(&subject) {
                    names.remove(&key);
                }
            }
        }
        let Some(binding) = binding.map(|value| Binding::read(namespace, value)) else { return };
        for subject in &binding.subjects {
            self.by_subject.entry(subject.clone()).or_default().insert(key.clone());
        }
        self.bindings.insert(key, binding);
    }

    pub fn authorize(&self, asked: &Attributes<'_>) -> Decision {
        for (name, binding) in self.bindings_of(asked.user, asked.namespace) {
            let Some(rules) = self.roles.get(&binding.role) else { continue };
            if rules.iter().any(|rule| rule.allows(asked)) {
                return Decision::Allow(binding.explain(name, asked.user));
            }
        }
        Decision::NoOpinion(String::new())
    }

    /// Every rule that holds for the user in the namespace, cluster-wide ones included.
    pub fn rules_for(&self, user: &User, namespace: &str) -> Vec<Rule> {
        let bindings = self.bindings_of(user, namespace);
        let rules = bindings.filter_map(|(_, binding)| self.roles.get(&binding.role));
        rules.flat_map(|rules| rules.iter().cloned()).collect()
    }

    /// The rules of the role that a binding in `namespace` names.
    pub fn rules_of(&self, namespace: &str, role_ref: &Value) -> Option<Arc<[Rule]>> {
        self.roles.get(&role_name(namespace, role_ref)).cloned()
    }

    fn bindings_of<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = (&'a Name, &'a Binding)> {
        let subjects = user.groups.iter().map(|group| Subject::Group(group.clone()));
        let subjects = std::iter::once(Subject::User(user.name.clone())).chain(subjects);
        let names = subjects.filter_map(|subject| self.by_subject.get(&subject)).flatten();
        let in_scope = names.filter(move |(own, _)| own.is_empty() || own == namespace);
        in_scope.filter_map(|name| self.bindings.get_key_value(name))
    }
}

impl Binding {
    fn read(namespace: &str, value: &Value) -> Binding {
        let subjects = value.list_at(&["subjects"]).iter().filter_map(|subject| {
            let name = subject.str_at(&["name"]);
            match subject.str_at(&["kind"]) {
                "User" => Some(Subject::User(name.into())),
                "Group" => Some(Subject::Group(name.into())),
                "ServiceAccount" => {
                    let own = match subject.str_at(&["namespace"]) {
                        "" => namespace,
                        own => own,
                    };
                    Some(Subject::User(format!("system:serviceaccount:{own}:{name}")))
                }
                _ => None,
            }
        });
        Binding { role: role_name(namespace, value.get("roleRef")), subjects: subjects.collect() }
    }

    fn explain(&self, (namespace, name): &Name, user: &User) -> String {
        let binding = match namespace.as_str() {
            "" => format!("ClusterRoleBinding \"{name}\""),
            namespace => format!("RoleBinding \"{name}/{namespace}\""),
        };
        let kind = if self.role.0.is_empty() { "ClusterRole" } else { "Role" };
        let subject = match self.subjects.contains(&Subject::User(user.name.clone())) {
            true => format!("User \"{}\"", user.name),
            false => "Group".to_owned(),
        };
        format!("RBAC: allowed by {binding} of {kind} \"{}\" to {subject}", self.role.1)
    }
}

fn role_name(namespace: &str, role_ref: &Value) -> Name {
    let own = if role_ref.str_at(&["kind"]) == "Role" { namespace } else { "" };
    (own.to_owned(), role_ref.str_at(&["name"]).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_meta::Resource;

    fn json(text: &str) -> Value {
        Value::from_json(text.as_bytes()).unwrap()
    }

    fn policy() -> Policy {
        let mut policy = Policy::default();
        let role = json(r#"{"rules":[{"verbs":["list"],"apiGroups":[""],"resources":["pods"]}]}"#);
        policy.set_role("", "reader", Some(&role));
        let binding = json(
            r#"{"roleRef":{"kind":"ClusterRole","name":"reader"},
                "subjects":[{"kind":"ServiceAccount","name":"app"},{"kind":"Group","name":"team"}]}"#,
        );
        policy.set_binding("blue", "readers", Some(&binding));
        policy
    }

    fn may_list(policy: &Policy, user: &User, namespace: &str) -> bool {
        let pods = Resource::new("", "pods");
        policy.authorize(&Attributes { namespace, ..Attributes::of(user, "list", &pods) }).is_allowed()
    }

    #[test]
    fn a_role_binding_holds_in_its_namespace_only() {
        let policy = policy();
        let team = User::new("eve", &["team"]);
        assert!(may_list(&policy, &team, "blue"));
        assert!(!may_list(&policy, &team, "red"));
        assert!(!may_list(&policy, &team, ""));
        assert!(may_list(&policy, &User::service_account("blue", "app"), "blue"));
        assert!(!may_list(&policy, &User::service_account("red", "app"), "blue"));
    }

    #[test]
    fn a_binding_that_is_gone_grants_nothing() {
        let mut policy = policy();
        policy.set_binding("blue", "readers", None);
        assert!(!may_list(&policy, &User::new("eve", &["team"]), "blue"));
    }

    #[test]
    fn a_changed_role_counts_at_once() {
        let mut policy = policy();
        policy.set_role("", "reader", Some(&json(r#"{"rules":null}"#)));
        assert!(!may_list(&policy, &User::new("eve", &["team"]), "blue"));
    }
}
