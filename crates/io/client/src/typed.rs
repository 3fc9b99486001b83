//! The verbs of the API over k8s-openapi's types, which know their own group, version and plural.

use coracle_reconcile::view::Typed;
use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::verbs::list_uri;
use crate::{Client, ClientError, ListOptions, Listed, ObjectPath, Patch, ResourceRef, WriteOptions};

impl Client {
    pub async fn get_as<T: Typed>(&self, namespace: &str, name: &str) -> Result<T, ClientError> {
        self.json(Method::GET, ObjectPath::of::<T>(namespace, name).path(), None).await
    }

    /// `namespace` is empty for all namespaces.
    pub async fn list_as<T: Typed>(&self, namespace: &str, options: &ListOptions) -> Result<Listed<T>, ClientError> {
        self.json(Method::GET, list_uri(&ResourceRef::of::<T>(), namespace, options), None).await
    }

    /// As `list_as`, of each object only what `T` reads.
    pub async fn list_by<T: DeserializeOwned>(
        &self,
        resource: &ResourceRef,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<Listed<T>, ClientError> {
        self.json(Method::GET, list_uri(resource, namespace, options), None).await
    }

    pub async fn create_as<T: Typed + Serialize>(&self, namespace: &str, object: &T) -> Result<T, ClientError> {
        let resource = ResourceRef::of::<T>();
        let body = encode(object, &resource)?;
        let made = self.create(&resource, namespace, &body, &WriteOptions::default()).await?;
        decode(made, &resource)
    }

    /// Replaces the object that `object`'s metadata names.
    pub async fn replace_as<T: Typed + Serialize>(&self, object: &T) -> Result<T, ClientError> {
        let resource = ResourceRef::of::<T>();
        let body = encode(object, &resource)?;
        let text = |key: &str| body["metadata"][key].as_str().unwrap_or_default().to_owned();
        let path = ObjectPath::new(resource.clone(), &text("namespace"), &text("name"));
        decode(self.replace(&path, &body, &WriteOptions::default()).await?, &resource)
    }

    pub async fn patch_as<T: Typed>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &'static str,
        patch: &Patch,
    ) -> Result<T, ClientError> {
        let path = ObjectPath::of::<T>(namespace, name).subresource(subresource);
        decode(self.patch(&path, patch, &WriteOptions::default()).await?, &path.resource)
    }
}

fn encode<T: Serialize>(object: &T, resource: &ResourceRef) -> Result<Value, ClientError> {
    serde_json::to_value(object).map_err(|source| failed(resource, source))
}

fn decode<T: Typed>(value: Value, resource: &ResourceRef) -> Result<T, ClientError> {
    serde_json::from_value(value).map_err(|source| failed(resource, source))
}

fn failed(resource: &ResourceRef, source: serde_json::Error) -> ClientError {
    ClientError::Decode { uri: resource.path(""), source: source.into() }
}
