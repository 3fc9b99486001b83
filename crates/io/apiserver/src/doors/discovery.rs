//! What is served: groups, versions and resources, one by one or as one aggregated document. Everything is read off
//! the table of kinds.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use coracle_kinds::{Kind, Scope, Subresource, table};
use coracle_meta::Status;
use http::header::{ETAG, HeaderValue, VARY};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::answer::{self, JSON, Response};
use crate::call::Call;
use crate::server::Server;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The documents made so far, by path; there are no more than groups and versions.
#[derive(Default)]
pub struct Documents(Mutex<HashMap<(String, Style), Bytes>>);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Style {
    Plain,
    Aggregated,
}

impl Documents {
    fn get(&self, path: &str, style: Style, make: impl FnOnce() -> Option<Value>) -> Option<Bytes> {
        let key = (path.to_owned(), style);
        if let Some(made) = self.0.lock().get(&key) {
            return Some(made.clone());
        }
        let made = Bytes::from(make()?.to_string());
        self.0.lock().insert(key, made.clone());
        Some(made)
    }
}

/// `/api` and `/apis`.
pub fn groups(server: &Server, call: &Call) -> Result<Response, Status> {
    let path = call.info.path.trim_end_matches('/');
    let is_core = path == "/api";
    if wants_aggregated(call) {
        let make = || {
            let names = groups_of(server).into_iter().filter(|group| group.is_empty() == is_core);
            let groups: Vec<Value> = names.map(|group| aggregated(server, group)).collect();
            Some(json!({
                "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": groups,
            }))
        };
        let body = server.discovery.get(path, Style::Aggregated, make).ok_or_else(answer::not_found)?;
        return Ok(tagged(call, body));
    }
    let make = || {
        let (address, port) = server.advertise;
        Some(match is_core {
            true => json!({
                "kind": "APIVersions", "versions": versions_of(server, ""),
                "serverAddressByClientCIDRs": [{
                    "clientCIDR": "0.0.0.0/0", "serverAddress": std::net::SocketAddr::new(address, port).to_string(),
                }],
            }),
            false => {
                let named = groups_of(server).into_iter().filter(|group| !group.is_empty());
                let groups: Vec<Value> = named.map(|name| group(server, name)).collect();
                json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
            }
        })
    };
    let body = server.discovery.get(path, Style::Plain, make).ok_or_else(answer::not_found)?;
    Ok(answer::bytes(200, JSON, body))
}

/// `/api/v1`, `/apis/GROUP` and `/apis/GROUP/VERSION`.
pub fn one(server: &Server, call: &Call) -> Result<Response, Status> {
    let path = call.info.path.trim_matches('/');
    let parts: Vec<&str> = path.split('/').collect();
    let make = || match parts.as_slice() {
        ["api", version] => resources(server, "", version),
        ["apis", name] if !name.is_empty() && groups_of(server).contains(name) => {
            let mut body = group(server, name);
            (body["kind"], body["apiVersion"]) = (json!("APIGroup"), json!("v1"));
            Some(body)
        }
        ["apis", group, version] if !group.is_empty() => resources(server, group, version),
        _ => None,
    };
    match server.discovery.get(path, Style::Plain, make) {
        Some(body) => Ok(answer::bytes(200, JSON, body)),
        None if parts.first() == Some(&"apis") && parts.get(1).is_none_or(|name| !groups_of(server).contains(name)) => {
            Ok(answer::no_page())
        }
        None => Err(answer::not_found()),
    }
}

/// The aggregated document, or that the client has it already.
fn tagged(call: &Call, body: Bytes) -> Response {
    let digest = Sha256::digest(&body);
    let tag: String = digest.iter().map(|byte| format!("{byte:02X}")).collect();
    let tag = format!("\"{tag}\"");
    let mut response = match call.header("if-none-match") == tag {
        true => answer::bytes(304, AGGREGATED, Bytes::new()),
        false => answer::bytes(200, AGGREGATED, body),
    };
    if let Ok(value) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, value);
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

fn wants_aggregated(call: &Call) -> bool {
    let is_v2 = |entry: &str| {
        let has = |part: &str| entry.split(';').any(|own| own.trim() == part);
        has("g=apidiscovery.k8s.io") && has("v=v2") && has("as=APIGroupDiscoveryList")
    };
    call.header("accept").split(',').any(is_v2)
}

/// Groups that serve something, in the table's order.
fn groups_of(server: &Server) -> Vec<&'static str> {
    let mut groups = Vec::new();
    let is_served = |kind: &&'static Kind| kind.versions.iter().any(|version| server.groups.serves(kind, version));
    for kind in table().iter().filter(is_served) {
        if !groups.contains(&kind.group) {
            groups.push(kind.group);
        }
    }
    groups
}

/// Versions of a group in order of preference: the newest stable one first.
fn versions_of(server: &Server, group: &str) -> Vec<&'static str> {
    let mut versions: Vec<&'static str> = Vec::new();
    for kind in table().iter().filter(|kind| kind.group == group) {
        for version in kind.versions.iter().filter(|version| server.groups.serves(kind, version)) {
            if !versions.contains(&version.name) {
                versions.push(version.name);
            }
        }
    }
    versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
    versions
}

/// What is stable goes before beta and that before alpha, then the higher numbers.
fn priority(version: &str) -> (u8, u32, u32) {
    let rest = version.trim_start_matches('v');
    let (major, stage, minor) = match (rest.split_once("beta"), rest.split_once("alpha")) {
        (Some((major, minor)), _) => (major, 1, minor),
        (_, Some((major, minor))) => (major, 0, minor),
        _ => (rest, 2, ""),
    };
    (stage, major.parse().unwrap_or_default(), minor.parse().unwrap_or_default())
}

fn group(server: &Server, name: &str) -> Value {
    let entry = |version: &str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let versions: Vec<Value> = versions_of(server, name).into_iter().map(entry).collect();
    json!({"name": name, "versions": versions, "preferredVersion": versions.first()})
}

fn served(server: &Server, group: &str, version: &str) -> Vec<&'static Kind> {
    let is_served = |kind: &&Kind| server.groups.find(group, version, kind.plural).is_some();
    table().iter().filter(|kind| kind.group == group).filter(is_served).collect()
}

fn resources(server: &Server, group: &str, version: &str) -> Option<Value> {
    let kinds = served(server, group, version);
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
        if let Some(hash) = storage_hash(kind) {
            entry["storageVersionHash"] = json!(hash);
        }
        list.push(entry);
        list.extend(kind.subresources.iter().map(|part| subresource(kind, part)));
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}))
}

/// By which clients see that the version objects rest in has changed.
fn storage_hash(kind: &Kind) -> Option<String> {
    let storage = kind.storage?;
    let digest = Sha256::digest(format!("{}/{}/{}", storage.group, storage.version, kind.kind));
    Some(STANDARD.encode(&digest[..8]))
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

fn aggregated(server: &Server, group: &'static str) -> Value {
    let versions = versions_of(server, group).into_iter().map(|version| {
        let resources = served(server, group, version).into_iter().map(|kind| {
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
