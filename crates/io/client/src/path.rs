//! Where a request goes: the path of a resource, an object or a subresource, and the version to speak of a group.

use std::borrow::Cow;

use coracle_meta::Resource;
use k8s_openapi::Resource as TypedResource;

/// A resource in one served version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceRef {
    pub resource: Resource,
    pub version: Cow<'static, str>,
}

impl ResourceRef {
    pub const fn new(group: &'static str, version: &'static str, plural: &'static str) -> ResourceRef {
        ResourceRef { resource: Resource::new(group, plural), version: Cow::Borrowed(version) }
    }

    /// The resource of a k8s-openapi type.
    pub fn of<T: TypedResource>() -> ResourceRef {
        ResourceRef::new(T::GROUP, T::VERSION, T::URL_PATH_SEGMENT)
    }

    pub fn with_version(resource: &Resource, version: &str) -> ResourceRef {
        ResourceRef { resource: resource.clone(), version: Cow::Owned(version.into()) }
    }

    /// `/apis/apps/v1/namespaces/default/deployments`; an empty namespace is left out.
    pub fn path(&self, namespace: &str) -> String {
        let root = match self.resource.group.as_ref() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        match namespace {
            "" => format!("{root}/{}", self.resource.plural),
            _ => format!("{root}/namespaces/{}/{}", escape(namespace), self.resource.plural),
        }
    }
}

/// In the version that Kubernetes 1.36 prefers of the resource. Others than those built in are asked of discovery.
impl From<&Resource> for ResourceRef {
    fn from(resource: &Resource) -> ResourceRef {
        let version = match (resource.group.as_ref(), resource.plural.as_ref()) {
            ("autoscaling", _) => "v2",
            ("metrics.k8s.io" | "storagemigration.k8s.io", _) => "v1beta1",
            ("certificates.k8s.io", "clustertrustbundles" | "podcertificaterequests") => "v1beta1",
            ("coordination.k8s.io", "leasecandidates") => "v1beta1",
            ("internal.apiserver.k8s.io", _) => "v1alpha1",
            ("resource.k8s.io", "devicetaintrules") => "v1beta2",
            ("resource.k8s.io", "resourcepoolstatusrequests") => "v1alpha3",
            ("scheduling.k8s.io", "podgroups" | "workloads") => "v1alpha2",
            _ => "v1",
        };
        ResourceRef { resource: resource.clone(), version: Cow::Borrowed(version) }
    }
}

/// An object, or a subresource of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectPath {
    pub resource: ResourceRef,
    /// Empty for cluster-scoped resources.
    pub namespace: String,
    pub name: String,
    /// Empty for the object itself.
    pub subresource: Cow<'static, str>,
}

impl ObjectPath {
    pub fn new(resource: impl Into<ResourceRef>, namespace: &str, name: &str) -> ObjectPath {
        ObjectPath {
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            subresource: Cow::Borrowed(""),
        }
    }

    pub fn of<T: TypedResource>(namespace: &str, name: &str) -> ObjectPath {
        ObjectPath::new(ResourceRef::of::<T>(), namespace, name)
    }

    pub fn subresource(mut self, subresource: impl Into<Cow<'static, str>>) -> ObjectPath {
        self.subresource = subresource.into();
        self
    }

    pub fn path(&self) -> String {
        let mut path = format!("{}/{}", self.resource.path(&self.namespace), escape(&self.name));
        if !self.subresource.is_empty() {
            path.push('/');
            path.push_str(&self.subresource);
        }
        path
    }
}

/// Joins a path and the query parameters that are not empty.
pub(crate) fn with_query(mut path: String, parameters: &[(&str, &str)]) -> String {
    let mut separator = '?';
    for (key, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        path.push(separator);
        path.push_str(key);
        path.push('=');
        path.push_str(&escape(value));
        separator = '&';
    }
    path
}

/// Percent-encodes everything but RFC 3986's unreserved characters.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api() {
        let pods = ResourceRef::new("", "v1", "pods");
        assert_eq!(pods.path(""), "/api/v1/pods");
        let scale = ObjectPath::new(&Resource::new("apps", "deployments"), "a", "b").subresource("scale");
        assert_eq!(scale.path(), "/apis/apps/v1/namespaces/a/deployments/b/scale");
        let role = ObjectPath::new(ResourceRef::new("rbac.authorization.k8s.io", "v1", "clusterroles"), "", "system:a");
        assert_eq!(role.path(), "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Aa");
    }

    #[test]
    fn what_is_built_in_is_asked_for_in_the_version_that_is_preferred() {
        for kind in coracle_kinds::table() {
            let version = ResourceRef::from(&kind.resource()).version;
            assert_eq!(version, kind.versions[0].name, "{}", kind.resource());
        }
    }

    #[test]
    fn empty_parameters_are_left_out() {
        let query = with_query("/a".into(), &[("x", ""), ("y", "a=b,c"), ("z", "1")]);
        assert_eq!(query, "/a?y=a%3Db%2Cc&z=1");
    }
}
