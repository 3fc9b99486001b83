//! Who a request comes from, as Kubernetes knows users: a name and groups, proved or taken over before anything is
//! decided. It says nothing of how the proof was made.

/// A user. Service accounts are users named `system:serviceaccount:NAMESPACE:NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    /// Further facts by key, such as `authentication.kubernetes.io/pod-name`.
    pub extra: Vec<(String, Vec<String>)>,
}

impl User {
    /// A user of these groups and of `system:authenticated`.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> User {
        let mut user = User { name: name.into(), ..User::default() };
        user.groups = groups.iter().map(|group| (*group).to_owned()).collect();
        user.groups.push("system:authenticated".into());
        user
    }

    pub fn anonymous() -> User {
        User { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()], ..User::default() }
    }

    pub fn service_account(namespace: &str, name: &str) -> User {
        let all = "system:serviceaccounts";
        User::new(format!("system:serviceaccount:{namespace}:{name}"), &[all, &format!("{all}:{namespace}")])
    }

    pub fn node(name: &str) -> User {
        User::new(format!("system:node:{name}"), &["system:nodes"])
    }

    pub fn admin() -> User {
        User::new("kubernetes-admin", &["system:masters"])
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// The name of the node that this user is, if it is one.
    pub fn as_node(&self) -> Option<&str> {
        self.is_in("system:nodes").then(|| self.name.strip_prefix("system:node:"))?
    }

    /// Namespace and name of the service account that this user is, if it is one.
    pub fn as_service_account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix("system:serviceaccount:")?.split_once(':')
    }

    pub fn extra(&self, key: &str) -> Option<&str> {
        let (_, values) = self.extra.iter().find(|(name, _)| name == key)?;
        values.first().map(String::as_str)
    }
}
