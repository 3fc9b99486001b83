//! The verbs of the API over JSON trees and bytes, for any resource.

use bytes::Bytes;
use coracle_meta::Status;
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::path::with_query;
use crate::{Body, BodyError, Client, ClientError, ObjectPath, ResourceRef};

const JSON: &str = "application/json";
/// Lists of metadata alone, where the server has them.
const PARTIAL_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
/// The longest body of a failure that is read for its `Status`.
const FAILURE_BYTES_MAX: usize = 3 << 20;

/// What a list asks for; empty fields are left out.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    pub label_selector: String,
    pub field_selector: String,
    /// 0 is no limit.
    pub limit: u32,
    pub continue_token: String,
    pub resource_version: String,
    pub resource_version_match: String,
}

/// A list as the server gave it.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(bound(deserialize = "T: DeserializeOwned"))]
pub struct Listed<T> {
    #[serde(default)]
    pub metadata: ListedMeta,
    #[serde(default = "Vec::new", deserialize_with = "null_is_empty")]
    pub items: Vec<T>,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ListedMeta {
    pub resource_version: String,
    #[serde(rename = "continue")]
    pub continue_token: String,
    pub remaining_item_count: Option<i64>,
}

/// What of an object that was written tells it from others and its versions from each other.
#[derive(Clone, Debug, Default, serde::Deserialize)]
pub struct Made {
    #[serde(default)]
    pub metadata: MadeMeta,
}

#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MadeMeta {
    pub name: String,
    pub uid: String,
    pub resource_version: String,
}

impl Made {
    /// The revision of the write; 0 where the answer does not tell it.
    pub fn revision(&self) -> u64 {
        self.metadata.resource_version.parse().unwrap_or(0)
    }
}

/// Options of create, replace and patch.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    /// `Strict`, `Warn` or `Ignore`; empty leaves it to the server.
    pub field_validation: &'static str,
    /// Server-side apply only: take fields from other managers.
    pub force: bool,
}

impl WriteOptions {
    fn query(&self, path: String) -> String {
        let dry_run = if self.dry_run { "All" } else { "" };
        let force = if self.force { "true" } else { "" };
        let manager = self.field_manager.as_str();
        let parameters = [
            ("dryRun", dry_run),
            ("fieldManager", manager),
            ("fieldValidation", self.field_validation),
            ("force", force),
        ];
        with_query(path, &parameters)
    }
}

/// The four kinds of patch.
#[derive(Clone, Debug)]
pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

impl Patch {
    fn parts(&self) -> (&'static str, &Value) {
        match self {
            Patch::Json(body) => ("application/json-patch+json", body),
            Patch::Merge(body) => ("application/merge-patch+json", body),
            Patch::Strategic(body) => ("application/strategic-merge-patch+json", body),
            Patch::Apply(body) => ("application/apply-patch+yaml", body),
        }
    }
}

/// `meta/v1 DeleteOptions`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconditions: Option<Preconditions>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dry_run: Vec<&'static str>,
}

#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preconditions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    fn body(&self) -> Value {
        let mut body = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
        if let (Value::Object(into), Ok(Value::Object(from))) = (&mut body, serde_json::to_value(self)) {
            into.extend(from);
        }
        body
    }
}

impl Client {
    pub async fn get(&self, path: &ObjectPath) -> Result<Value, ClientError> {
        self.json(Method::GET, path.path(), None).await
    }

    pub async fn list(
        &self,
        resource: &ResourceRef,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<Listed<Value>, ClientError> {
        self.list_of(resource, namespace, options).await
    }

    /// A list of which only what `T` holds is read.
    pub async fn list_of<T: DeserializeOwned>(
        &self,
        resource: &ResourceRef,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<Listed<T>, ClientError> {
        self.json(Method::GET, list_uri(resource, namespace, options), None).await
    }

    /// As [`Client::list_of`] for who reads metadata alone.
    pub async fn list_metadata<T: DeserializeOwned>(
        &self,
        resource: &ResourceRef,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<Listed<T>, ClientError> {
        let uri = list_uri(resource, namespace, options);
        let bytes = self.exchange(Method::GET, &uri, PARTIAL_LIST, None).await?;
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Decode { uri, source: source.into() })
    }

    /// The object's name comes from its metadata.
    pub async fn create(
        &self,
        resource: &ResourceRef,
        namespace: &str,
        object: &Value,
        options: &WriteOptions,
    ) -> Result<Value, ClientError> {
        self.create_of(resource, namespace, object, options).await
    }

    /// Creates an object; of the answer only what `T` holds is read.
    pub async fn create_of<T: DeserializeOwned>(
        &self,
        resource: &ResourceRef,
        namespace: &str,
        object: &Value,
        options: &WriteOptions,
    ) -> Result<T, ClientError> {
        self.json(Method::POST, options.query(resource.path(namespace)), Some((JSON, object))).await
    }

    /// Posts to a subresource: `binding`, `eviction`, `token`.
    pub async fn create_sub(&self, path: &ObjectPath, object: &Value) -> Result<Value, ClientError> {
        self.json(Method::POST, path.path(), Some((JSON, object))).await
    }

    pub async fn replace(
        &self,
        path: &ObjectPath,
        object: &Value,
        options: &WriteOptions,
    ) -> Result<Value, ClientError> {
        self.replace_of(path, object, options).await
    }

    /// Replaces an object; of the answer only what `T` holds is read.
    pub async fn replace_of<T: DeserializeOwned>(
        &self,
        path: &ObjectPath,
        object: &Value,
        options: &WriteOptions,
    ) -> Result<T, ClientError> {
        self.json(Method::PUT, options.query(path.path()), Some((JSON, object))).await
    }

    pub async fn patch(&self, path: &ObjectPath, patch: &Patch, options: &WriteOptions) -> Result<Value, ClientError> {
        self.patch_of(path, patch, options).await
    }

    /// Patches an object; of the answer only what `T` holds is read.
    pub async fn patch_of<T: DeserializeOwned>(
        &self,
        path: &ObjectPath,
        patch: &Patch,
        options: &WriteOptions,
    ) -> Result<T, ClientError> {
        self.json(Method::PATCH, options.query(path.path()), Some(patch.parts())).await
    }

    /// Answers the object that is on its way out, or a `Status` of success.
    pub async fn delete(&self, path: &ObjectPath, options: &DeleteOptions) -> Result<Value, ClientError> {
        self.delete_of(path, options).await
    }

    /// Deletes an object; of the answer only what `T` holds is read.
    pub async fn delete_of<T: DeserializeOwned>(
        &self,
        path: &ObjectPath,
        options: &DeleteOptions,
    ) -> Result<T, ClientError> {
        self.json(Method::DELETE, path.path(), Some((JSON, &options.body()))).await
    }

    /// The answer, a list of all that was deleted, is not looked at.
    pub async fn delete_collection(
        &self,
        resource: &ResourceRef,
        namespace: &str,
        which: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<(), ClientError> {
        let uri = list_uri(resource, namespace, which);
        self.exchange(Method::DELETE, &uri, PARTIAL_LIST, Some((JSON, &options.body()))).await.map(|_| ())
    }

    /// Any request with a JSON answer.
    pub async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        uri: String,
        body: Option<(&str, &Value)>,
    ) -> Result<T, ClientError> {
        let bytes = self.bytes(method, &uri, body).await?;
        serde_json::from_slice(&bytes).map_err(|source| ClientError::Decode { uri, source: source.into() })
    }

    /// Any request, its answer whole.
    pub async fn bytes(&self, method: Method, uri: &str, body: Option<(&str, &Value)>) -> Result<Bytes, ClientError> {
        self.exchange(method, uri, JSON, body).await
    }

    async fn exchange(
        &self,
        method: Method,
        uri: &str,
        accept: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Bytes, ClientError> {
        let mut request = Request::builder().method(method).uri(uri).header(header::ACCEPT, accept);
        let mut payload = Bytes::new();
        if let Some((content_type, value)) = body {
            request = request.header(header::CONTENT_TYPE, content_type);
            payload = serde_json::to_vec(value).map_err(|source| transport(uri, source.into()))?.into();
        }
        let request = request.body(payload).map_err(|source| transport(uri, source.into()))?;
        let answer = self.send(request).await?;
        Ok(answer.into_body().collect().await.map_err(|source| transport(uri, source))?.to_bytes())
    }

    /// Any request as it is; an answer of 400 and above becomes its `Status`.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, ClientError> {
        let uri = request.uri().to_string();
        let answer = self.transport.send(request).await.map_err(|source| transport(&uri, source))?;
        if answer.status().as_u16() < 400 {
            return Ok(answer);
        }
        Err(ClientError::Status(read_failure(answer).await))
    }
}

pub(crate) fn transport(uri: &str, source: BodyError) -> ClientError {
    ClientError::Transport { uri: uri.into(), source }
}

pub(crate) fn list_uri(resource: &ResourceRef, namespace: &str, options: &ListOptions) -> String {
    let limit = if options.limit == 0 { String::new() } else { options.limit.to_string() };
    let parameters = [
        ("labelSelector", options.label_selector.as_str()),
        ("fieldSelector", &options.field_selector),
        ("limit", &limit),
        ("continue", &options.continue_token),
        ("resourceVersion", &options.resource_version),
        ("resourceVersionMatch", &options.resource_version_match),
    ];
    with_query(resource.path(namespace), &parameters)
}

/// The `Status` of a failed answer; one made from the code where the body holds none.
async fn read_failure(answer: Response<Body>) -> Status {
    let code = answer.status().as_u16();
    let retry = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let (mut stream, mut body) = (answer.into_body(), Vec::new());
    while let Some(Ok(frame)) = stream.frame().await {
        body.extend(frame.into_data().unwrap_or_default());
        if body.len() > FAILURE_BYTES_MAX {
            break;
        }
    }
    let mut status = match serde_json::from_slice::<Status>(&body) {
        Ok(status) if !status.message.is_empty() || !status.reason.is_empty() => status,
        _ => Status::new(code, "", String::from_utf8_lossy(&body)),
    };
    if status.code == 0 {
        status.code = code;
    }
    if let Some(seconds) = retry {
        status.details.get_or_insert_default().retry_after_seconds = seconds;
    }
    status
}

fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: DeserializeOwned,
{
    serde::Deserialize::deserialize(deserializer).map(Option::<Vec<T>>::unwrap_or_default)
}
