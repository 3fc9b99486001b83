//! What a server offers: every resource of every group in its preferred version.

use coracle_meta::{GroupVersionKind, Resource};
use http::Method;
use serde::Deserialize;

use crate::{Client, ClientError, ResourceRef};

/// A resource as discovery tells of it; subresources are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovered {
    pub resource: ResourceRef,
    pub kind: GroupVersionKind,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

impl Discovered {
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|offered| offered == verb)
    }
}

#[derive(Deserialize)]
struct Groups {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    versions: Vec<Version>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    group_version: String,
}

#[derive(Deserialize)]
struct Resources {
    resources: Vec<ApiResource>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct ApiResource {
    name: String,
    kind: String,
    namespaced: bool,
    verbs: Vec<String>,
}

impl Client {
    /// Every resource in the first of its group's versions that has it, core first. A group that does not answer (an
    /// aggregated server that is away) is left out and named in the second part.
    pub async fn discover(&self) -> Result<(Vec<Discovered>, Vec<String>), ClientError> {
        let groups: Groups = self.json(Method::GET, "/apis".into(), None).await?;
        let mut found = Vec::new();
        self.discover_version("v1", "/api/v1".into(), &mut found).await?;
        let mut silent = Vec::new();
        for version in groups.groups.iter().flat_map(|group| &group.versions) {
            let name = &version.group_version;
            if self.discover_version(name, format!("/apis/{name}"), &mut found).await.is_err() {
                silent.push(name.clone());
            }
        }
        Ok((found, silent))
    }

    /// The resource in the first of its group's versions that has it; `None` where it is not on offer.
    pub async fn offered(&self, resource: &Resource) -> Result<Option<ResourceRef>, ClientError> {
        let mut found = Vec::new();
        if resource.group.is_empty() {
            self.discover_version("v1", "/api/v1".into(), &mut found).await?;
        } else {
            let group: Group = self.json(Method::GET, format!("/apis/{}", resource.group), None).await?;
            for Version { group_version } in &group.versions {
                self.discover_version(group_version, format!("/apis/{group_version}"), &mut found).await?;
            }
        }
        Ok(found.into_iter().map(|entry| entry.resource).find(|known| known.resource == *resource))
    }

    async fn discover_version(
        &self,
        group_version: &str,
        path: String,
        found: &mut Vec<Discovered>,
    ) -> Result<(), ClientError> {
        let list: Resources = self.json(Method::GET, path, None).await?;
        let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
        for entry in list.resources.into_iter().filter(|entry| !entry.name.contains('/')) {
            let resource = Resource::owned(group, entry.name);
            if found.iter().any(|known| known.resource.resource == resource) {
                continue;
            }
            let Some(kind) = GroupVersionKind::parse(group_version, &entry.kind) else { continue };
            let resource = ResourceRef::with_version(&resource, version);
            found.push(Discovered { resource, kind, namespaced: entry.namespaced, verbs: entry.verbs });
        }
        Ok(())
    }
}
