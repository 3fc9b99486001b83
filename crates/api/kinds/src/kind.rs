//! What a kind is: the facts that discovery, storage and routing read, and the rules that writes run through. A kind is
//! one line of the table; this file knows none of them.

use coracle_meta::{Gate, Resource};

use crate::rules::Rules;

/// A resource that the API server serves.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Empty for the core group.
    pub group: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub scope: Scope,
    /// In order of preference, the newest stable one first.
    pub versions: &'static [Version],
    /// `None` for kinds that are answered and never kept.
    pub storage: Option<Storage>,
    pub verbs: &'static [&'static str],
    pub subresources: &'static [Subresource],
    /// Served only where it is on, beside all else that its versions ask for.
    pub gate: Option<Gate>,
    pub rules: Rules,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Cluster,
    Namespaced,
}

/// A version that a kind is or may be served in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub name: &'static str,
    /// Served without being asked for; the others wait for `--runtime-config`.
    pub by_default: bool,
}

/// Where objects of a kind lie in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// Below `/registry/`, as kube-apiserver lays it out.
    pub prefix: &'static str,
    /// The group whose resource this is in the store: `events.k8s.io` events are core events there.
    pub group: &'static str,
    /// The version that is written.
    pub version: &'static str,
}

/// A part of an object with a URL of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subresource {
    pub name: &'static str,
    pub verbs: &'static [&'static str],
    /// What it takes or gives; empty for the kind itself.
    pub kind: &'static str,
    /// Group and version of `kind` where they are not the resource's own.
    pub group_version: Option<(&'static str, &'static str)>,
}

pub const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const NAMESPACE_VERBS: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const EDIT_VERBS: &[&str] = &["get", "patch", "update"];

impl Kind {
    /// The key of stores, caches and views.
    pub const fn resource(&self) -> Resource {
        Resource::new(self.group, self.plural)
    }

    /// The resource that the objects are stored as; another one's for kinds that share storage.
    pub fn storage_resource(&self) -> Option<Resource> {
        self.storage.map(|storage| Resource::new(storage.group, self.plural))
    }

    pub fn singular(&self) -> String {
        self.kind.to_ascii_lowercase()
    }

    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    pub fn subresource(&self, name: &str) -> Option<&'static Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }

    /// `apps/v1`, or `v1` in the core group.
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) }
    }

    /// The apiVersion that the store's bytes carry; empty for a kind that is not kept.
    pub fn storage_api_version(&self) -> String {
        match self.storage {
            Some(storage) if storage.group.is_empty() => storage.version.to_owned(),
            Some(storage) => format!("{}/{}", storage.group, storage.version),
            None => String::new(),
        }
    }

    /// `/registry/pods/default/web`; `None` for a kind that is not kept.
    pub fn storage_key(&self, namespace: &str, name: &str) -> Option<String> {
        let prefix = self.storage?.prefix;
        Some(match namespace {
            "" => format!("/registry/{prefix}/{name}"),
            _ => format!("/registry/{prefix}/{namespace}/{name}"),
        })
    }

    // What follows builds a line of the table.

    /// A kind that is stored in its first version and below its plural.
    pub const fn new(
        group: &'static str,
        kind: &'static str,
        plural: &'static str,
        scope: Scope,
        versions: &'static [Version],
    ) -> Kind {
        Kind {
            group,
            kind,
            plural,
            short_names: &[],
            categories: &[],
            scope,
            versions,
            storage: Some(Storage { prefix: plural, group, version: versions[0].name }),
            verbs: ALL_VERBS,
            subresources: &[],
            gate: None,
            rules: Rules::STANDARD,
        }
    }

    pub const fn short(mut self, names: &'static [&'static str]) -> Kind {
        self.short_names = names;
        self
    }

    pub const fn category(mut self, names: &'static [&'static str]) -> Kind {
        self.categories = names;
        self
    }

    pub const fn under(mut self, prefix: &'static str) -> Kind {
        self.storage = match self.storage {
            Some(storage) => Some(Storage { prefix, ..storage }),
            None => None,
        };
        self
    }

    pub const fn stored_as(mut self, group: &'static str, version: &'static str) -> Kind {
        self.storage = Some(Storage { prefix: self.plural, group, version });
        self
    }

    pub const fn not_kept(mut self, verbs: &'static [&'static str]) -> Kind {
        self.storage = None;
        self.verbs = verbs;
        self
    }

    pub const fn without_collection_delete(mut self) -> Kind {
        self.verbs = NAMESPACE_VERBS;
        self
    }

    pub const fn parts(mut self, subresources: &'static [Subresource]) -> Kind {
        self.subresources = subresources;
        self
    }

    pub const fn gated(mut self, gate: Gate) -> Kind {
        self.gate = Some(gate);
        self
    }

    pub const fn rules(mut self, rules: Rules) -> Kind {
        self.rules = rules;
        self
    }
}

impl Version {
    pub const fn on(name: &'static str) -> Version {
        Version { name, by_default: true }
    }

    pub const fn off(name: &'static str) -> Version {
        Version { name, by_default: false }
    }
}

impl Subresource {
    pub const STATUS: Subresource = Subresource::edit("status");
    pub const SCALE: Subresource =
        Subresource { group_version: Some(("autoscaling", "v1")), ..Subresource::of("scale", "Scale", EDIT_VERBS) };

    /// A part that is read and written as the kind itself.
    pub const fn edit(name: &'static str) -> Subresource {
        Subresource::of(name, "", EDIT_VERBS)
    }

    pub const fn of(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Subresource {
        Subresource { name, verbs, kind, group_version: None }
    }

    pub const fn in_group(mut self, group: &'static str, version: &'static str) -> Subresource {
        self.group_version = Some((group, version));
        self
    }
}
