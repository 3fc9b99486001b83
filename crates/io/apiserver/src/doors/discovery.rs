//! What is served: groups, versions and resources, one by one or as one aggregated document. Everything is read off
//! the table of kinds.

use coracle_kinds::{Kind, Scope, Subresource, table};
use coracle_meta::Status;
use serde_json::{Value, json};

use crate::answer::{self, JSON, Response};
use crate::call::Call;
use crate::server::Server;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// `/api` and `/apis`.
pub fn groups(server: &Server, call: &Call) -> Result<Response, Status> {
    let is_core = call.info.path.trim_end_matches('/') == "/api";
    if wants_aggregated(call) {
        let groups: Vec<Value> =
            groups_of().into_iter().filter(|group| group.is_empty() == is_core).map(aggregated).collect();
        let body = json!({
            "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": groups,
        });
        return Ok(answer::bytes(200, AGGREGATED, body.to_string()));
    }
    let (address, port) = server.advertise;
    let body = match is_core {
        true => json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{
                "clientCIDR": "0.0.0.0/0", "serverAddress": std::net::SocketAddr::new(address, port).to_string(),
            }],
        }),
        false => {
            let named = groups_of().into_iter().filter(|group| !group.is_empty());
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": named.map(group).collect::<Vec<_>>()})
        }
    };
    Ok(answer::bytes(200, JSON, body.to_string()))
}

/// `/api/v1`, `/apis/GROUP` and `/apis/GROUP/VERSION`.
pub fn one(call: &Call) -> Result<Response, Status> {
    let parts: Vec<&str> = call.info.path.trim_matches('/').split('/').collect();
    let body = match parts.as_slice() {
        ["api", version] => resources("", version),
        ["apis", name] if groups_of().contains(name) => {
            let mut body = group(name);
            (body["kind"], body["apiVersion"]) = (json!("APIGroup"), json!("v1"));
            Some(body)
        }
        ["apis", group, version] => resources(group, version),
        _ => None,
    };
    Ok(answer::json(200, &body.ok_or_else(answer::not_found)?))
}

fn wants_aggregated(call: &Call) -> bool {
    let is_v2 = |entry: &str| {
        let has = |part: &str| entry.split(';').any(|own| own.trim() == part);
        has("g=apidiscovery.k8s.io") && has("v=v2") && has("as=APIGroupDiscoveryList")
    };
    call.header("accept").split(',').any(is_v2)
}

/// Groups that serve something, in the table's order.
fn groups_of() -> Vec<&'static str> {
    let mut groups = Vec::new();
    for kind in table().iter().filter(|kind| kind.versions.iter().any(|version| version.by_default)) {
        if !groups.contains(&kind.group) {
            groups.push(kind.group);
        }
    }
    groups
}

/// Versions of a group in order of preference: the newest stable one first.
fn versions_of(group: &str) -> Vec<&'static str> {
    let mut versions: Vec<&'static str> = Vec::new();
    for kind in table().iter().filter(|kind| kind.group == group) {
        for version in kind.versions.iter().filter(|version| version.by_default) {
            if !versions.contains(&version.name) {
                versions.push(version.name);
            }
        }
    }
    versions
}

fn group(name: &str) -> Value {
    let entry = |version: &str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let versions: Vec<Value> = versions_of(name).into_iter().map(entry).collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

fn served(group: &str, version: &str) -> Vec<&'static Kind> {
    let is_served = |kind: &&Kind| kind.versions.iter().any(|own| own.name == version && own.by_default);
    table().iter().filter(|kind| kind.group == group).filter(is_served).collect()
}

fn resources(group: &str, version: &str) -> Option<Value> {
    let kinds = served(group, version);
    if kinds.is_empty() {
        return None;
    }
    let mut list = Vec::new();
    for kind in kinds {
        let mut entry = json!({
            "name": kind.plural, "singularName": kind.singular(), "namespaced": kind.scope == Scope::Namespaced,
            "kind": kind.kind, "verbs": kind.verbs,
        });
        if !kind.short_names.is_empty() {
            entry["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            entry["categories"] = json!(kind.categories);
        }
        list.push(entry);
        list.extend(kind.subresources.iter().map(|part| subresource(kind, part)));
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}))
}

fn subresource(kind: &Kind, part: &Subresource) -> Value {
    let mut entry = json!({
        "name": format!("{}/{}", kind.plural, part.name), "singularName": "",
        "namespaced": kind.scope == Scope::Namespaced, "kind": kind_of(kind, part), "verbs": part.verbs,
    });
    if let Some((group, version)) = part.group_version {
        (entry["group"], entry["version"]) = (json!(group), json!(version));
    }
    entry
}

fn kind_of(kind: &Kind, part: &Subresource) -> &'static str {
    if part.kind.is_empty() { kind.kind } else { part.kind }
}

fn aggregated(group: &'static str) -> Value {
    let versions = versions_of(group).into_iter().map(|version| {
        let resources = served(group, version).into_iter().map(|kind| {
            let mut entry = json!({
                "resource": kind.plural, "singularResource": kind.singular(), "verbs": kind.verbs,
                "responseKind": {"group": group, "version": version, "kind": kind.kind},
                "scope": if kind.scope == Scope::Namespaced { "Namespaced" } else { "Cluster" },
            });
            if !kind.short_names.is_empty() {
                entry["shortNames"] = json!(kind.short_names);
            }
            if !kind.categories.is_empty() {
                entry["categories"] = json!(kind.categories);
            }
            if !kind.subresources.is_empty() {
                let parts = kind.subresources.iter().map(|part| {
                    let (group, version) = part.group_version.unwrap_or((group, version));
                    let kind = kind_of(kind, part);
                    json!({
                        "subresource": part.name, "verbs": part.verbs,
                        "responseKind": {"group": group, "version": version, "kind": kind},
                    })
                });
                entry["subresources"] = parts.collect();
            }
            entry
        });
        json!({"version": version, "resources": resources.collect::<Vec<_>>(), "freshness": "Current"})
    });
    let versions: Vec<Value> = versions.collect();
    // The core group has no name to tell.
    let metadata = if group.is_empty() {
        json!({"creationTimestamp": null})
    } else {
        json!({"name": group, "creationTimestamp": null})
    };
    json!({"metadata": metadata, "versions": versions})
}
