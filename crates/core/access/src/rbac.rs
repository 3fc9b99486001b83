//! RBAC, compiled as objects come and go: each subject leads straight to its bindings, each binding to its role's
//! rules, so that a decision reads nothing else. Source: Kubernetes `plugin/pkg/auth/authorizer/rbac`.

use std::collections::{BTreeMap, HashMap};
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
    bindings: BTreeMap<Name, Arc<Binding>>,
    users: HashMap<String, Grants>,
    groups: HashMap<String, Grants>,
}

/// A subject's bindings with the rules of their roles, in the order of the bindings' names.
type Grants = BTreeMap<Name, Grant>;

#[derive(Clone, Debug)]
struct Grant {
    binding: Arc<Binding>,
    rules: Arc<[Rule]>,
}

#[derive(Debug, PartialEq, Eq)]
struct Binding {
    /// The namespace is empty for a ClusterRole.
    role: Name,
    subjects: Vec<Subject>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
}

impl Policy {
    /// Takes a Role or ClusterRole as it is now; `None` when it is gone.
    pub fn set_role(&mut self, namespace: &str, name: &str, role: Option<&Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        match role {
            Some(role) => self.roles.insert(key.clone(), Rule::all(role).into()),
            None => self.roles.remove(&key),
        };
        let bound = self.bindings.iter().filter(|(_, binding)| binding.role == key);
        let bound: Vec<_> = bound.map(|(name, binding)| (name.clone(), binding.clone())).collect();
        for (name, binding) in bound {
            self.revoke(&name, &binding);
            self.grant(&name, &binding);
        }
    }

    /// Takes a RoleBinding or ClusterRoleBinding as it is now; `None` when it is gone.
    pub fn set_binding(&mut self, namespace: &str, name: &str, binding: Option<&Value>) {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(old) = self.bindings.remove(&key) {
            self.revoke(&key, &old);
        }
        let Some(binding) = binding.map(|value| Arc::new(Binding::read(namespace, value))) else { return };
        self.grant(&key, &binding);
        self.bindings.insert(key, binding);
    }

    fn grant(&mut self, name: &Name, binding: &Arc<Binding>) {
        let Some(rules) = self.roles.get(&binding.role) else { return };
        for subject in &binding.subjects {
            let grants = match subject {
                Subject::User(user) => self.users.entry(user.clone()).or_default(),
                Subject::Group(group) => self.groups.entry(group.clone()).or_default(),
            };
            grants.insert(name.clone(), Grant { binding: binding.clone(), rules: rules.clone() });
        }
    }

    fn revoke(&mut self, name: &Name, binding: &Binding) {
        for subject in &binding.subjects {
            let (table, subject) = match subject {
                Subject::User(user) => (&mut self.users, user),
                Subject::Group(group) => (&mut self.groups, group),
            };
            let Some(grants) = table.get_mut(subject) else { continue };
            grants.remove(name);
            if grants.is_empty() {
                table.remove(subject);
            }
        }
    }

    /// Whether a rule allows it, for those who do not ask which.
    pub fn allows(&self, asked: &Attributes<'_>) -> bool {
        self.grants_of(asked.user, asked.namespace).any(|(_, grant)| grant.allows(asked))
    }

    pub fn authorize(&self, asked: &Attributes<'_>) -> Decision {
        let mut grants = self.grants_of(asked.user, asked.namespace);
        match grants.find(|(_, grant)| grant.allows(asked)) {
            Some((name, grant)) => Decision::Allow(grant.binding.explain(name, asked.user)),
            None => Decision::NoOpinion(String::new()),
        }
    }

    /// Every rule that holds for the user in the namespace, cluster-wide ones included.
    pub fn rules_for(&self, user: &User, namespace: &str) -> Vec<Rule> {
        self.grants_of(user, namespace).flat_map(|(_, grant)| grant.rules.iter().cloned()).collect()
    }

    /// The rules of the role that a binding in `namespace` names.
    pub fn rules_of(&self, namespace: &str, role_ref: &Value) -> Option<Arc<[Rule]>> {
        self.roles.get(&role_name(namespace, role_ref)).cloned()
    }

    fn grants_of<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = (&'a Name, &'a Grant)> {
        let groups = user.groups.iter().filter_map(|group| self.groups.get(group));
        let grants = self.users.get(&user.name).into_iter().chain(groups).flatten();
        grants.filter(move |((own, _), _)| own.is_empty() || own == namespace)
    }
}

impl Grant {
    fn allows(&self, asked: &Attributes<'_>) -> bool {
        self.rules.iter().any(|rule| rule.allows(asked))
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
        let asked = Attributes { namespace, ..Attributes::of(user, "list", &pods) };
        assert_eq!(policy.allows(&asked), policy.authorize(&asked).is_allowed());
        policy.allows(&asked)
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

    #[test]
    fn a_binding_may_come_before_its_role() {
        let mut policy = policy();
        policy.set_role("", "reader", None);
        assert!(!may_list(&policy, &User::new("eve", &["team"]), "blue"));
        let role = json(r#"{"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}"#);
        policy.set_role("", "reader", Some(&role));
        assert!(may_list(&policy, &User::new("eve", &["team"]), "blue"));
        assert!(!may_list(&policy, &User::new("eve", &["team"]), "red"));
    }
}
