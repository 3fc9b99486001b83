//! Making an object. Source of the steps: Kubernetes `apiserver/pkg/registry/rest/create.go` and
//! `registry/generic/registry/store.go`.

use std::sync::Arc;

use coracle_admission::{Operation, Request};
use coracle_cache::store::{Compare, Op, Txn, TxnResponse};
use coracle_meta::{ErrorList, Object, Resource, Status, Value, names, time};

use super::{Deed, Target, Written, at_rest, durability, encode, key, lease_seconds, store_failed};
use crate::admit;
use crate::call::Call;
use crate::managed;
use crate::server::Server;
use crate::services;

/// How often a generated name that is taken is thrown anew.
const NAME_TRIES_MAX: usize = 8;
/// How often a write is judged again because its namespace or a quota changed.
const TRIES_MAX: usize = 12;
const NAMESPACES: Resource = Resource::new("", "namespaces");

/// Stores a new object, given in the version of its URL.
pub async fn create(server: &Arc<Server>, call: &Call, target: &Target, object: Value) -> Result<Written, Status> {
    let (mut tries, mut names) = (0, 0);
    loop {
        tries += 1;
        match attempt(server, call, target, object.clone()).await {
            Err(status) if status.is_already_exists() && generates(&object) && names < NAME_TRIES_MAX => names += 1,
            Ok(None) if tries < TRIES_MAX => {}
            Ok(None) => return Err(Status::modified(&target.resource(), object.str_at(&["metadata", "name"]))),
            Ok(Some(written)) => return Ok(written),
            Err(status) => return Err(status),
        }
    }
}

fn generates(object: &Value) -> bool {
    let meta = object.get("metadata");
    meta.str_at(&["name"]).is_empty() && !meta.str_at(&["generateName"]).is_empty()
}

/// `None` where something that the write stands on came to be another meanwhile.
async fn attempt(
    server: &Arc<Server>,
    call: &Call,
    target: &Target,
    mut object: Value,
) -> Result<Option<Written>, Status> {
    let kind = target.served.kind;
    // Before it is judged: if it changes after that, the write is judged again.
    let stands_in = namespace_as_is(server, target).await?;
    stamp(server, target, &mut object)?;
    kind.default(&mut object, target.served.version);
    managed::created(server, call, target, &mut object);
    let mut object = kind.convert(object, &target.served.api_version(), &kind.storage_api_version());
    let resource = target.resource();
    let name = object.str_at(&["metadata", "name"]).to_owned();
    let request = Request {
        operation: Operation::Create,
        resource: &resource,
        subresource: "",
        namespace: &target.namespace,
        name: &name,
        user: &call.user,
        old: None,
    };
    admit::mutate(server, &request, &mut object).await?;
    kind.default(&mut object, kind.storage.map_or(target.served.version, |storage| storage.version));
    kind.drop_gated(server.gates, &mut object, &Value::Null);
    kind.prepare_create(&mut object);
    kind.stamp_creator(&mut object, &call.user);
    let claim = services::claim(server, kind, &mut object, None).await?;
    check(target, &object)?;
    crate::verbs::rbac::may_grant(server, &call.user, kind, &object, None)?;
    let charges = admit::validate(server, &request, &object).await?;
    let bytes = encode(kind, &mut object)?;
    if call.is_dry_run() {
        let object = Object::written(bytes, &object, 0).map_err(Status::internal)?;
        return Ok(Some(Written { object: Arc::new(object), deed: Deed::Created }));
    }
    let key = key(kind, &target.namespace, &name);
    let put =
        Op::Put { key: key.clone(), value: at_rest(server, &key, bytes.clone())?, lease_seconds: lease_seconds(kind) };
    let mut txn = Txn {
        compares: vec![Compare { key: key.clone(), mod_revision: 0 }],
        then: vec![put],
        durability: durability(kind, &target.namespace),
    };
    claim.join(&mut txn);
    charges.join(&mut txn);
    txn.compares.extend(stands_in);
    match server.cache.store.txn(txn).await.map_err(store_failed)? {
        TxnResponse::Done { revision } => {
            server.facts.note(kind, revision);
            let object = Object::written(bytes, &object, revision).map_err(Status::internal)?;
            Ok(Some(Written { object: Arc::new(object), deed: Deed::Created }))
        }
        TxnResponse::Refused { key: refused, .. } if refused == key => Err(Status::already_exists(&resource, &name)),
        TxnResponse::Refused { .. } => Ok(None),
    }
}

/// That the namespace is still the one that admission sees: nothing comes to stand in one that goes meanwhile.
async fn namespace_as_is(server: &Server, target: &Target) -> Result<Option<Compare>, Status> {
    if !target.served.kind.is_namespaced() {
        return Ok(None);
    }
    let kind = coracle_kinds::find(&NAMESPACES).ok_or_else(|| Status::internal("no namespaces"))?;
    server.facts.wait(server).await?;
    let found = server.resource(kind).await?.get("", &target.namespace);
    Ok(found.map(|namespace| Compare { key: key(kind, "", &target.namespace), mod_revision: namespace.revision }))
}

/// What the server alone says of a new object.
fn stamp(server: &Server, target: &Target, object: &mut Value) -> Result<(), Status> {
    let meta = object.get("metadata");
    let namespace = meta.str_at(&["namespace"]);
    if !namespace.is_empty() && namespace != target.namespace && target.served.kind.is_namespaced() {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    if !matches!(meta.str_at(&["resourceVersion"]), "" | "0") {
        return Err(Status::new(500, "", "resourceVersion should not be set on objects to be created"));
    }
    if generates(object) {
        let base = object.str_at(&["metadata", "generateName"]);
        let name = names::generate_name(base, |bound| server.dice.below(bound as u64) as usize);
        object.set(&["metadata", "name"], name);
    }
    for key in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        object.remove(&["metadata", key]);
    }
    if target.served.kind.is_namespaced() {
        object.set(&["metadata", "namespace"], target.namespace.as_str());
    }
    object.set(&["metadata", "uid"], server.dice.uuid());
    object.set(&["metadata", "creationTimestamp"], time::seconds(server.clock.now()));
    Ok(())
}

fn check(target: &Target, object: &Value) -> Result<(), Status> {
    let kind = target.served.kind;
    let mut errors = ErrorList::default();
    kind.validate(object, &mut errors);
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(kind.group, kind.kind, object.str_at(&["metadata", "name"]), &errors))
}
