//! Joins the documents about the API to the server that answers for them. Each document is made when it is asked for.

use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use coracle_apidocs::{ApiResource, ApiSubresource, V2_PROTOBUF, V2_PROTOBUF_ASKED};
use coracle_apiserver::Groups;
use coracle_kinds::Kind;
use coracle_meta::GroupVersionKind;
use coracle_schema::Schema;
use http::{HeaderMap, Response, StatusCode, header};

/// What the API server calls for `/openapi/…`.
pub fn handler(groups: Groups) -> coracle_apiserver::server::ApiDocs {
    // Every kubectl asks for the index, and making it means making every document.
    let index = OnceLock::new();
    Arc::new(move |path, headers| {
        let path = path.split('?').next().unwrap_or(path);
        let (body, content_type) = document(&groups, &index, path, headers)?;
        Some(respond(body, content_type, headers))
    })
}

fn document(
    groups: &Groups,
    index: &OnceLock<Vec<u8>>,
    path: &str,
    headers: &HeaderMap,
) -> Option<(Vec<u8>, &'static str)> {
    const JSON: &str = "application/json";
    let schema = Schema::builtin();
    let resources = resources(groups);
    match path.trim_end_matches('/') {
        "/openapi/v2" if [V2_PROTOBUF, V2_PROTOBUF_ASKED].iter().any(|name| accepts(headers, name)) => {
            Some((coracle_apidocs::v2_protobuf(schema, &resources), V2_PROTOBUF))
        }
        "/openapi/v2" => Some((coracle_apidocs::v2_json(schema, &resources), JSON)),
        "/openapi/v3" => Some((index.get_or_init(|| coracle_apidocs::v3_index(schema, &resources)).clone(), JSON)),
        path => {
            let rest = path.strip_prefix("/openapi/v3/")?;
            let (group, version) = match rest.split_once('/')? {
                ("api", version) => ("", version),
                ("apis", rest) => rest.split_once('/')?,
                _ => return None,
            };
            Some((coracle_apidocs::v3(schema, &resources, group, version)?, JSON))
        }
    }
}

/// The answer with its ETag, or 304 where the client has the same already.
fn respond(body: Vec<u8>, content_type: &'static str, headers: &HeaderMap) -> Response<Bytes> {
    let mut hasher = DefaultHasher::new();
    hasher.write(&body);
    let tag = format!("\"{:016X}\"", hasher.finish());
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == tag.as_bytes());
    let response = Response::builder().header(header::CONTENT_TYPE, content_type).header(header::ETAG, tag);
    let (status, body) = match known {
        true => (StatusCode::NOT_MODIFIED, Bytes::new()),
        false => (StatusCode::OK, body.into()),
    };
    response.status(status).body(body).expect("the headers above are well formed")
}

fn accepts(headers: &HeaderMap, what: &str) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|value| value.to_str().is_ok_and(|value| value.contains(what)))
}

/// Every resource in every version that is served.
fn resources(groups: &Groups) -> Vec<ApiResource> {
    coracle_kinds::table()
        .iter()
        .flat_map(|kind| {
            let versions = kind.versions.iter().filter(|version| groups.serves(kind, version));
            versions.map(|version| resource(kind, version.name))
        })
        .collect()
}

fn resource(kind: &'static Kind, version: &'static str) -> ApiResource {
    let owned = |verbs: &[&str]| verbs.iter().map(|verb| (*verb).to_owned()).collect();
    let own = GroupVersionKind::new(kind.group, version, kind.kind);
    let subresources = kind.subresources.iter().map(|subresource| {
        let (group, version) = subresource.group_version.unwrap_or((kind.group, version));
        let name = if subresource.kind.is_empty() { kind.kind } else { subresource.kind };
        ApiSubresource {
            name: subresource.name.to_owned(),
            kind: GroupVersionKind::new(group, version, name),
            verbs: owned(subresource.verbs),
        }
    });
    ApiResource {
        group: kind.group.to_owned(),
        version: version.to_owned(),
        plural: kind.plural.to_owned(),
        kind: own,
        namespaced: kind.is_namespaced(),
        verbs: owned(kind.verbs),
        subresources: subresources.collect(),
    }
}
