//! Names of resources and kinds. A resource is what a URL names (`apps`, `deployments`), a kind is what an object says
//! of itself (`apps/v1`, `Deployment`).

use std::borrow::Cow;
use std::fmt;

/// A resource without its version: the key of stores, caches and views, since all served versions share one storage.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// Empty for the core group.
    pub group: Cow<'static, str>,
    /// The plural as URLs have it, `pods`.
    pub plural: Cow<'static, str>,
}

impl Resource {
    pub const fn new(group: &'static str, plural: &'static str) -> Resource {
        Resource { group: Cow::Borrowed(group), plural: Cow::Borrowed(plural) }
    }

    pub fn owned(group: impl Into<String>, plural: impl Into<String>) -> Resource {
        Resource { group: Cow::Owned(group.into()), plural: Cow::Owned(plural.into()) }
    }
}

/// `deployments.apps`, `pods`: as error messages name a resource.
impl fmt::Display for Resource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group.as_ref() {
            "" => formatter.write_str(&self.plural),
            group => write!(formatter, "{}.{}", self.plural, group),
        }
    }
}

/// What an object says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupVersionKind {
    /// Empty for the core group.
    pub group: Cow<'static, str>,
    pub version: Cow<'static, str>,
    pub kind: Cow<'static, str>,
}

impl GroupVersionKind {
    pub const fn new(group: &'static str, version: &'static str, kind: &'static str) -> GroupVersionKind {
        GroupVersionKind { group: Cow::Borrowed(group), version: Cow::Borrowed(version), kind: Cow::Borrowed(kind) }
    }

    /// From the two fields of an object; an `apiVersion` of more than two parts gives `None`.
    pub fn parse(api_version: &str, kind: &str) -> Option<GroupVersionKind> {
        let (group, version) = match api_version.split_once('/') {
            Some((_, version)) if version.contains('/') => return None,
            Some((group, version)) => (group, version),
            None => ("", api_version),
        };
        Some(GroupVersionKind {
            group: Cow::Owned(group.into()),
            version: Cow::Owned(version.into()),
            kind: Cow::Owned(kind.into()),
        })
    }

    /// `apps/v1`, or `v1` in the core group.
    pub fn api_version(&self) -> String {
        match self.group.as_ref() {
            "" => self.version.to_string(),
            group => format!("{group}/{}", self.version),
        }
    }
}
