//! What can be done at which path. Clients read from it which kinds can be patched and whether the server validates
//! fields (`fieldValidation`), so the parameters and the two `x-kubernetes` marks must be right.

use coracle_meta::GroupVersionKind;
use coracle_schema::Schema;
use serde_json::{Map, Value, json};

use crate::definitions::{Dialect, PATCH, Writer};
use crate::{ApiResource, ApiSubresource};

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const MEDIA: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
const PATCHES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

const WRITE: &[(&str, &str)] = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCHING: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const DELETE_COLLECTION: &[(&str, &str)] = &[
    ("continue", "string"),
    ("dryRun", "string"),
    ("fieldSelector", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
];
const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];

/// One thing that can be done.
struct Operation<'a> {
    method: &'static str,
    action: &'static str,
    /// `create`, as the operation's id begins.
    verb: &'static str,
    parameters: &'static [(&'static str, &'static str)],
    body: Option<&'a str>,
    answer: &'a str,
}

/// The paths of one resource.
pub fn paths(writer: &Writer<'_>, resource: &ApiResource, out: &mut Map<String, Value>) {
    let base = base(&resource.group, &resource.version);
    let collection = match resource.namespaced {
        true => format!("{base}/namespaces/{{namespace}}/{}", resource.plural),
        false => format!("{base}/{}", resource.plural),
    };
    let kind = type_name(writer.schema, &resource.kind);
    let list = type_name(writer.schema, &list_kind(&resource.kind));
    let has = |verb: &str| resource.verbs.iter().any(|known| known == verb);
    let place = Place { writer, resource, kind: &resource.kind, scope: "" };
    let listing = Operation::new("get", "list", "list", &list).with(LIST);
    place.add(
        out,
        &collection,
        &[
            (has("list"), listing.clone()),
            (has("create"), Operation::new("post", "post", "create", &kind).with(WRITE).taking(&kind)),
            (
                has("deletecollection"),
                Operation::new("delete", "deletecollection", "deletecollection", STATUS)
                    .with(DELETE_COLLECTION)
                    .taking(DELETE_OPTIONS),
            ),
        ],
    );
    place.add(
        out,
        &format!("{collection}/{{name}}"),
        &[
            (has("get"), Operation::new("get", "get", "read", &kind)),
            (has("update"), Operation::new("put", "put", "replace", &kind).with(WRITE).taking(&kind)),
            (has("patch"), Operation::new("patch", "patch", "patch", &kind).with(PATCHING).taking(PATCH)),
            (has("delete"), Operation::new("delete", "delete", "delete", STATUS).with(DELETE).taking(DELETE_OPTIONS)),
        ],
    );
    if resource.namespaced && has("list") {
        let everywhere = Place { scope: "ForAllNamespaces", ..place };
        everywhere.add(out, &format!("{base}/{}", resource.plural), &[(true, listing)]);
    }
    for subresource in &resource.subresources {
        let path = format!("{collection}/{{name}}/{}", subresource.name);
        self::subresource(&Place { kind: &subresource.kind, ..place }, subresource, &path, out);
    }
}

fn subresource(place: &Place<'_>, subresource: &ApiSubresource, path: &str, out: &mut Map<String, Value>) {
    let kind = type_name(place.writer.schema, &subresource.kind);
    let has = |verb: &str| subresource.verbs.iter().any(|known| known == verb);
    if subresource.kind.kind.ends_with("Options") {
        let connect = |method| Operation::new(method, "connect", "connect", "");
        place.add(
            out,
            path,
            &[
                (has("get"), connect("get")),
                (has("create"), connect("post")),
                (has("update"), connect("put")),
                (has("patch"), connect("patch")),
                (has("delete"), connect("delete")),
            ],
        );
        return;
    }
    place.add(
        out,
        path,
        &[
            (has("get"), Operation::new("get", "get", "read", &kind)),
            (has("create"), Operation::new("post", "post", "create", &kind).with(WRITE).taking(&kind)),
            (has("update"), Operation::new("put", "put", "replace", &kind).with(WRITE).taking(&kind)),
            (has("patch"), Operation::new("patch", "patch", "patch", &kind).with(PATCHING).taking(PATCH)),
        ],
    );
}

impl<'a> Operation<'a> {
    fn new(method: &'static str, action: &'static str, verb: &'static str, answer: &'a str) -> Operation<'a> {
        Operation { method, action, verb, parameters: &[], body: None, answer }
    }

    fn with(self, parameters: &'static [(&'static str, &'static str)]) -> Operation<'a> {
        Operation { parameters, ..self }
    }

    fn taking(self, body: &'a str) -> Operation<'a> {
        Operation { body: Some(body), ..self }
    }

    fn clone(&self) -> Operation<'a> {
        Operation { ..*self }
    }
}

#[derive(Clone, Copy)]
struct Place<'a> {
    writer: &'a Writer<'a>,
    resource: &'a ApiResource,
    kind: &'a GroupVersionKind,
    /// How the operations' ids end where a path shows all namespaces.
    scope: &'a str,
}

impl Place<'_> {
    /// Writes the operations that there are; a path without any is not written.
    fn add(&self, out: &mut Map<String, Value>, path: &str, operations: &[(bool, Operation<'_>)]) {
        let mut item = Map::new();
        for (_, operation) in operations.iter().filter(|(there, _)| *there) {
            item.insert(operation.method.into(), self.operation(path, operation));
        }
        if item.is_empty() {
            return;
        }
        item.insert("parameters".into(), self.path_parameters(path));
        out.insert(path.to_owned(), Value::Object(item));
    }

    fn operation(&self, path: &str, operation: &Operation<'_>) -> Value {
        let mut parameters: Vec<Value> =
            operation.parameters.iter().map(|(name, kind)| self.parameter(name, "query", kind)).collect();
        let mut out = json!({
            "description": format!("{} {}", operation.verb, self.kind.kind),
            "operationId": self.operation_id(path, operation),
            "tags": [tag(self.resource)],
            "responses": self.responses(operation),
            "x-kubernetes-action": operation.action,
            "x-kubernetes-group-version-kind":
                { "group": self.kind.group.as_ref(), "kind": self.kind.kind.as_ref(), "version": self.kind.version.as_ref() },
        });
        let consumes: &[&str] = if operation.method == "patch" { &PATCHES } else { &["*/*"] };
        match (self.writer.dialect, operation.body) {
            (Dialect::V2, body) => {
                if let Some(body) = body {
                    let required = body != DELETE_OPTIONS;
                    let schema = self.writer.reference(body);
                    parameters
                        .insert(0, json!({ "in": "body", "name": "body", "required": required, "schema": schema }));
                }
                out["consumes"] = json!(consumes);
                out["produces"] = json!(MEDIA);
                out["schemes"] = json!(["https"]);
            }
            (Dialect::V3, Some(body)) => {
                out["requestBody"] =
                    json!({ "content": self.content(consumes, body), "required": body != DELETE_OPTIONS });
            }
            (Dialect::V3, None) => {}
        }
        if !parameters.is_empty() {
            out["parameters"] = parameters.into();
        }
        out
    }

    fn responses(&self, operation: &Operation<'_>) -> Value {
        let answer = |text: &str| match (self.writer.dialect, operation.answer) {
            (_, "") => json!({ "description": text }),
            (Dialect::V2, name) => json!({ "description": text, "schema": self.writer.reference(name) }),
            (Dialect::V3, name) => json!({ "description": text, "content": self.content(&MEDIA, name) }),
        };
        let mut out = json!({ "200": answer("OK") });
        if matches!(operation.action, "post" | "put" | "patch") {
            out["201"] = answer("Created");
        }
        if matches!(operation.action, "post" | "delete") {
            out["202"] = answer("Accepted");
        }
        out["401"] = json!({ "description": "Unauthorized" });
        out
    }

    fn content(&self, media: &[&str], name: &str) -> Value {
        let schema = self.writer.reference(name);
        Value::Object(media.iter().map(|media| ((*media).to_owned(), json!({ "schema": schema }))).collect())
    }

    fn path_parameters(&self, path: &str) -> Value {
        let mut out = Vec::new();
        if path.contains("{name}") {
            out.push(self.parameter("name", "path", "string"));
        }
        if path.contains("{namespace}") {
            out.push(self.parameter("namespace", "path", "string"));
        }
        out.push(self.parameter("pretty", "query", "string"));
        out.into()
    }

    fn parameter(&self, name: &str, place: &str, kind: &str) -> Value {
        let mut out = json!({ "in": place, "name": name });
        if place == "path" {
            out["required"] = true.into();
        }
        match self.writer.dialect {
            Dialect::V2 => {
                out["type"] = kind.into();
                out["uniqueItems"] = true.into();
            }
            Dialect::V3 => out["schema"] = json!({ "type": kind, "uniqueItems": true }),
        }
        out
    }

    /// `createAppsV1NamespacedDeployment`, `readCoreV1NamespacedPodStatus`.
    fn operation_id(&self, path: &str, operation: &Operation<'_>) -> String {
        let group = match self.resource.group.split('.').next() {
            None | Some("") => "Core".to_owned(),
            Some(first) => capital(first),
        };
        let (verb, after) = match operation.action {
            "connect" => ("connect", capital(operation.method)),
            "deletecollection" => ("delete", "Collection".to_owned()),
            _ => (operation.verb, String::new()),
        };
        let inner = path.split("/{name}/").nth(1).map(|name| name.split('/').map(capital).collect::<String>());
        format!(
            "{verb}{group}{}{after}{}{}{}",
            capital(&self.resource.version),
            if path.contains("{namespace}") { "Namespaced" } else { "" },
            self.resource.kind.kind,
            inner.unwrap_or_default() + self.scope,
        )
    }
}

/// `/api/v1`, `/apis/apps/v1`.
pub fn base(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

pub fn list_kind(kind: &GroupVersionKind) -> GroupVersionKind {
    GroupVersionKind { kind: format!("{}List", kind.kind).into(), ..kind.clone() }
}

/// The name of a kind's type; `Status` where there is none, as for the answers of evictions to come.
fn type_name(schema: &Schema, kind: &GroupVersionKind) -> String {
    schema.kind(kind).map_or_else(|| STATUS.to_owned(), |id| schema.get(id).name.to_string())
}

fn tag(resource: &ApiResource) -> String {
    let group = resource.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    format!("{group}_{}", resource.version)
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
