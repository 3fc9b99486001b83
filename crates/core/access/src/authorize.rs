//! A request as authorizers see it, what they say of it, and the words of a refusal. Source: Kubernetes
//! `apiserver/pkg/authorization/authorizer` and `endpoints/handlers/responsewriters`.

use coracle_meta::{Resource, Status, User};

/// What is asked. With an empty `resource` it is about `path`.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub user: &'a User,
    pub verb: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub path: &'a str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow(String),
    /// No other authorizer is asked.
    Deny(String),
    NoOpinion(String),
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allow(_))
    }

    pub fn reason(&self) -> &str {
        match self {
            Decision::Allow(reason) | Decision::Deny(reason) | Decision::NoOpinion(reason) => reason,
        }
    }
}

impl<'a> Attributes<'a> {
    /// A question about a resource, to be completed with struct update.
    pub fn of(user: &'a User, verb: &'a str, resource: &'a Resource) -> Attributes<'a> {
        Attributes {
            user,
            verb,
            group: &resource.group,
            version: "*",
            resource: &resource.plural,
            subresource: "",
            namespace: "",
            name: "",
            path: "",
        }
    }

    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }

    /// `pods` or `pods/status`.
    pub fn full_resource(&self) -> String {
        match self.subresource {
            "" => self.resource.to_owned(),
            subresource => format!("{}/{subresource}", self.resource),
        }
    }
}

/// The answer to a refused request.
pub fn forbidden(attributes: &Attributes<'_>, reason: &str) -> Status {
    let user = &attributes.user.name;
    let verb = attributes.verb;
    let mut why = match (attributes.is_resource(), attributes.namespace) {
        (false, _) => format!("User \"{user}\" cannot {verb} path \"{}\"", attributes.path),
        (true, namespace) => {
            let scope = match namespace {
                "" => "at the cluster scope".to_owned(),
                namespace => format!("in the namespace \"{namespace}\""),
            };
            let (full, group) = (attributes.full_resource(), attributes.group);
            format!("User \"{user}\" cannot {verb} resource \"{full}\" in API group \"{group}\" {scope}")
        }
    };
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    let resource = Resource::owned(attributes.group, attributes.resource);
    Status::forbidden(&resource, attributes.name, &why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_worded_as_kubernetes_words_them() {
        let user = User::new("x", &[]);
        let pods = Resource::new("", "pods");
        let asked = Attributes { namespace: "default", ..Attributes::of(&user, "list", &pods) };
        assert_eq!(
            forbidden(&asked, "").message,
            "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        );
        let nothing = Resource::new("", "");
        let asked = Attributes { path: "/metrics", ..Attributes::of(&user, "get", &nothing) };
        assert_eq!(forbidden(&asked, "").message, "forbidden: User \"x\" cannot get path \"/metrics\"");
    }
}
