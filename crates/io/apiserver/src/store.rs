//! The step that makes it true: objects as the store keeps them, and the loop that runs a write until its
//! compare-and-swap holds.

pub mod charge;
pub mod create;
pub mod delete;
pub mod facts;
pub mod update;

use std::sync::Arc;

use bytes::Bytes;
use coracle_cache::CacheError;
use coracle_cache::store::{Compare, Durability, Op, StoreError, Txn, TxnResponse};
use coracle_kinds::Kind;
use coracle_meta::{Object, Resource, Status, Value};
use coracle_schema::{Schema, write_defaults};

use crate::call::{Call, Served};
use crate::decode::type_of;
use crate::server::Server;

/// What a write is about.
#[derive(Clone)]
pub struct Target {
    pub served: Served,
    pub namespace: String,
    pub name: String,
    pub subresource: String,
}

/// What came of a write.
pub struct Written {
    pub object: Arc<Object>,
    pub deed: Deed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Created,
    Changed,
    /// Nothing differed, nothing was written.
    Unchanged,
    /// The object is gone with this write.
    Deleted,
}

impl Target {
    pub fn of(call: &Call, served: Served) -> Target {
        Target {
            served,
            namespace: call.info.namespace.clone(),
            name: call.info.name.clone(),
            subresource: call.info.subresource.clone(),
        }
    }

    pub fn resource(&self) -> Resource {
        self.served.kind.resource()
    }

    pub fn not_found(&self) -> Status {
        Status::not_found(&self.resource(), &self.name)
    }
}

/// The whole object as a tree, its resource version included.
pub fn tree(object: &Object) -> Result<Value, Status> {
    let mut value = Value::from_json(&object.bytes).map_err(Status::internal)?;
    if object.revision > 0 {
        value.set(&["metadata", "resourceVersion"], object.revision.to_string());
    }
    Ok(value)
}

/// The bytes at rest of an object in its storage version: what Go always writes, and no resource version.
pub fn encode(kind: &Kind, value: &mut Value) -> Result<Bytes, Status> {
    let api_version = kind.storage_api_version();
    value.set(&["apiVersion"], api_version.as_str());
    value.set(&["kind"], kind.kind);
    value.remove(&["metadata", "resourceVersion"]);
    if let Some(id) = type_of(&api_version, kind.kind) {
        write_defaults(Schema::builtin(), id, value);
    }
    // What everything has first stands first.
    if let Value::Map(map) = value {
        map.lead_with(&["kind", "apiVersion", "metadata"]);
    }
    // Held for as long as the object stands: without room to grow.
    Ok(Bytes::copy_from_slice(&value.to_json()))
}

/// Where an object of a kind rests.
pub fn key(kind: &Kind, namespace: &str, name: &str) -> Bytes {
    kind.storage_key(namespace, name).unwrap_or_default().into()
}

/// Replaces what stands by `value` if it is still `object`.
pub async fn swap(server: &Server, kind: &Kind, object: &Object, value: &mut Value) -> Result<TxnResponse, Status> {
    swap_encoded(server, kind, object, encode(kind, value)?).await
}

/// The same with the bytes that are to rest.
pub async fn swap_encoded(server: &Server, kind: &Kind, object: &Object, value: Bytes) -> Result<TxnResponse, Status> {
    let key = key(kind, &object.meta.namespace, &object.meta.name);
    let value = at_rest(server, &key, value)?;
    let txn = Txn {
        compares: vec![Compare { key: key.clone(), mod_revision: object.revision }],
        then: vec![Op::Put { key, value, lease_seconds: 0 }],
        durability: durability(kind, &object.meta.namespace),
    };
    server.cache.store.txn(txn).await.map_err(store_failed)
}

/// An object's bytes in the form of the store.
pub fn at_rest(server: &Server, key: &[u8], value: Bytes) -> Result<Bytes, Status> {
    server.cache.codec.encode(key, value).map_err(Status::internal)
}

/// Renewals of node leases may share a later sync, nothing else may.
pub fn durability(kind: &Kind, namespace: &str) -> Durability {
    match kind.plural == "leases" && namespace == "kube-node-lease" {
        true => Durability::Relaxed,
        false => Durability::Synced,
    }
}

/// How long an object stays: events vanish after an hour.
pub fn lease_seconds(kind: &Kind) -> u64 {
    if kind.plural == "events" { 3600 } else { 0 }
}

pub fn failed(error: CacheError) -> Status {
    match error {
        CacheError::Store(error) => store_failed(error),
        error => Status::internal(error),
    }
}

pub fn store_failed(error: StoreError) -> Status {
    match error {
        StoreError::Compacted { .. } => {
            Status::expired("The provided continue parameter is too old to display a consistent list result.")
        }
        StoreError::Future { asked, newest } => {
            let mut status =
                Status::new(504, "Timeout", format!("Timeout: Too large resource version: {asked}, current: {newest}"));
            let cause = coracle_meta::status::Cause {
                reason: "ResourceVersionTooLarge".into(),
                message: "Too large resource version".into(),
                ..Default::default()
            };
            let details =
                coracle_meta::status::Details { causes: vec![cause], retry_after_seconds: 1, ..Default::default() };
            status.details = Some(Box::new(details));
            status
        }
        error => Status::internal(error),
    }
}
