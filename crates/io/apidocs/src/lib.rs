//! The server's documents about itself: OpenAPI v2 and v3, as `kubectl explain`, apply and client generators read them.
//! Made on demand from the schema table and a plain list of resources; what is made is the caller's to keep. It knows
//! neither requests nor storage.

mod definitions;
mod descriptions;
mod operations;
mod protobuf;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};

use coracle_meta::GroupVersionKind;
use coracle_schema::{Schema, TypeId};
use serde_json::{Map, Value, json};

use definitions::{Dialect, Writer};
use descriptions::Descriptions;

/// What the protobuf form of `/openapi/v2` is called by the server. Clients ask for it by an older name with an `@`, which
/// they would not take back: it is no media type.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
pub const V2_PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// A resource in one version it is served in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ApiResource {
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    pub plural: String,
    /// The kind of its objects.
    pub kind: GroupVersionKind,
    pub namespaced: bool,
    pub verbs: Vec<String>,
    pub subresources: Vec<ApiSubresource>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ApiSubresource {
    /// `status`.
    pub name: String,
    /// The kind that is read and written there; one that ends in `Options` is connected to.
    pub kind: GroupVersionKind,
    pub verbs: Vec<String>,
}

/// `/openapi/v2` as JSON.
pub fn v2_json(schema: &Schema, resources: &[ApiResource]) -> Vec<u8> {
    encode(&v2(schema, resources))
}

/// `/openapi/v2` as [`V2_PROTOBUF`], the only form client-go asks for.
pub fn v2_protobuf(schema: &Schema, resources: &[ApiResource]) -> Vec<u8> {
    protobuf::document(&v2(schema, resources))
}

fn v2(schema: &Schema, resources: &[ApiResource]) -> Value {
    let descriptions = Descriptions::unpack();
    let writer = Writer { schema, descriptions: &descriptions, dialect: Dialect::V2 };
    let (paths, definitions) = document(&writer, resources.iter());
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": "v1.36.0" },
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {
            "BearerToken": {
                "type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication",
            },
        },
        "security": [{ "BearerToken": [] }],
    })
}

/// `/openapi/v3`: where each group and version is described, with a hash of what is found there.
pub fn v3_index(schema: &Schema, resources: &[ApiResource]) -> Vec<u8> {
    let descriptions = Descriptions::unpack();
    let mut paths = Map::new();
    for ((group, version), members) in by_version(resources) {
        let mut hasher = DefaultHasher::new();
        hasher.write(&encode(&v3_document(schema, &descriptions, &members)));
        let path = operations::base(group, version);
        let url = format!("/openapi/v3{path}?hash={:016X}", hasher.finish());
        paths.insert(path.trim_start_matches('/').to_owned(), json!({ "serverRelativeURL": url }));
    }
    encode(&json!({ "paths": paths }))
}

/// `/openapi/v3/apis/GROUP/VERSION`; `None` where nothing of that version is served.
pub fn v3(schema: &Schema, resources: &[ApiResource], group: &str, version: &str) -> Option<Vec<u8>> {
    let members = by_version(resources).remove(&(group, version))?;
    Some(encode(&v3_document(schema, &Descriptions::unpack(), &members)))
}

fn v3_document(schema: &Schema, descriptions: &Descriptions, members: &[&ApiResource]) -> Value {
    let writer = Writer { schema, descriptions, dialect: Dialect::V3 };
    let (paths, schemas) = document(&writer, members.iter().copied());
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": "v1.36.0" },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "BearerToken": {
                    "type": "apiKey", "name": "authorization", "in": "header",
                    "description": "Bearer Token authentication",
                },
            },
        },
    })
}

type Members = Map<String, Value>;

fn document<'a>(writer: &Writer<'_>, resources: impl Iterator<Item = &'a ApiResource> + Clone) -> (Members, Members) {
    let mut paths = Map::new();
    resources.clone().for_each(|resource| operations::paths(writer, resource, &mut paths));
    paths.sort_keys();
    (
        paths,
        writer.definitions(
            resources.flat_map(|resource| roots(writer.schema, resource)).chain(everywhere(writer.schema)),
        ),
    )
}

fn roots(schema: &Schema, resource: &ApiResource) -> Vec<TypeId> {
    let mut kinds = vec![resource.kind.clone(), operations::list_kind(&resource.kind)];
    kinds.extend(resource.subresources.iter().map(|subresource| subresource.kind.clone()));
    kinds.iter().filter_map(|kind| schema.kind(kind)).collect()
}

/// Types that every version speaks of.
fn everywhere(schema: &Schema) -> impl Iterator<Item = TypeId> {
    let names = ["DeleteOptions", "Status", "WatchEvent", "APIResourceList"];
    names.into_iter().filter_map(|name| schema.named(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}")))
}

fn by_version(resources: &[ApiResource]) -> BTreeMap<(&str, &str), Vec<&ApiResource>> {
    let mut out: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for resource in resources {
        out.entry((resource.group.as_str(), resource.version.as_str())).or_default().push(resource);
    }
    out
}

fn encode(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a JSON value has a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployments() -> Vec<ApiResource> {
        let verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
        let scale = ApiSubresource {
            name: "scale".into(),
            kind: GroupVersionKind::new("autoscaling", "v1", "Scale"),
            verbs: vec!["get".into(), "patch".into(), "update".into()],
        };
        vec![ApiResource {
            group: "apps".into(),
            version: "v1".into(),
            plural: "deployments".into(),
            kind: GroupVersionKind::new("apps", "v1", "Deployment"),
            namespaced: true,
            verbs: verbs.map(String::from).into(),
            subresources: vec![scale],
        }]
    }

    fn parsed(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    /// All references in a document.
    fn references<'a>(value: &'a Value, out: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                out.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|member| references(member, out));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, out)),
            _ => {}
        }
    }

    #[test]
    fn the_index_leads_to_a_document_that_explains_a_deployment() {
        let (schema, resources) = (Schema::builtin(), deployments());
        let index = parsed(&v3_index(schema, &resources));
        let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="), "{url}");
        let document = parsed(&v3(schema, &resources, "apps", "v1").unwrap());
        let spec = &document["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"]["properties"];
        let expected = json!({
            "allOf": [{ "$ref": "#/components/schemas/io.k8s.api.apps.v1.DeploymentStrategy" }],
            "description": "The deployment strategy to use to replace existing pods with new ones.",
            "default": {},
            "x-kubernetes-patch-strategy": "retainKeys",
        });
        assert_eq!(spec["strategy"], expected);
        assert!(v3(schema, &resources, "apps", "v2").is_none());
    }

    #[test]
    fn clients_can_see_that_patches_validate_fields() {
        let document = parsed(&v3(Schema::builtin(), &deployments(), "apps", "v1").unwrap());
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
        assert_eq!(patch["x-kubernetes-action"], "patch");
        let kind = json!({ "group": "apps", "kind": "Deployment", "version": "v1" });
        assert_eq!(patch["x-kubernetes-group-version-kind"], kind);
        let parameters = patch["parameters"].as_array().unwrap();
        for name in ["dryRun", "fieldValidation", "force"] {
            assert!(parameters.iter().any(|parameter| parameter["name"] == name), "{name}");
        }
        let scale = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"]["get"];
        assert_eq!(scale["operationId"], "readAppsV1NamespacedDeploymentScale");
    }

    #[test]
    fn every_reference_is_answered() {
        let resources = deployments();
        let documents = [
            (parsed(&v2_json(Schema::builtin(), &resources)), "#/definitions/", "/definitions"),
            (
                parsed(&v3(Schema::builtin(), &resources, "apps", "v1").unwrap()),
                "#/components/schemas/",
                "/components/schemas",
            ),
        ];
        for (document, prefix, place) in documents {
            let mut found = Vec::new();
            references(&document, &mut found);
            let known = document.pointer(place).unwrap();
            for reference in found {
                let name = reference.strip_prefix(prefix).unwrap();
                assert!(known.get(name).is_some(), "{reference}");
            }
        }
    }
}
