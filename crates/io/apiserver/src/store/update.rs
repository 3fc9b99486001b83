//! Changing an object: read, change, prepare, admit, validate, compare and swap, again where another was faster.
//! Source of the steps: Kubernetes `apiserver/pkg/registry/rest/update.go` and `registry/generic/registry/store.go`.

use std::sync::Arc;

use coracle_admission::{Operation, Request};
use coracle_cache::store::{Compare, Op, Txn, TxnResponse};
use coracle_meta::{ErrorList, Object, Path, Status, Value};

use super::{Deed, Target, Written, at_rest, durability, encode, failed, key, lease_seconds, store_failed, tree};
use crate::admit;
use crate::call::Call;
use crate::managed;
use crate::server::Server;
use crate::services;

/// How often a write that names no resource version is tried against a moving object.
const TRIES_MAX: usize = 12;

/// Makes the new object from the old one, both whole and in storage form. It may be called several times.
pub type Change<'a> = &'a (dyn Fn(&Value) -> Result<Value, Status> + Send + Sync);

/// Changes the object that stands.
pub async fn update(server: &Arc<Server>, call: &Call, target: &Target, change: Change<'_>) -> Result<Written, Status> {
    let cache = server.resource(target.served.kind).await?;
    for _ in 0..TRIES_MAX {
        let found = cache.get_fresh(&target.namespace, &target.name).await.map_err(failed)?;
        let Some(old) = found else { return Err(target.not_found()) };
        if let Some(written) = attempt(server, call, target, &old, change).await? {
            return Ok(written);
        }
    }
    Err(Status::modified(&target.resource(), &target.name))
}

/// `None` where another write came between.
async fn attempt(
    server: &Arc<Server>,
    call: &Call,
    target: &Target,
    current: &Arc<Object>,
    change: Change<'_>,
) -> Result<Option<Written>, Status> {
    let kind = target.served.kind;
    let mut old = tree(current)?;
    let mut new = change(&old)?;
    check_identity(call, target, &old, &new)?;
    restore_meta(&mut new, &old);
    old.remove(&["metadata", "resourceVersion"]);
    let storage_version = kind.storage.map_or(target.served.version, |storage| storage.version);
    kind.default(&mut new, storage_version);
    managed::updated(server, call, target, &old, &mut new);
    let resource = target.resource();
    let request = Request {
        operation: Operation::Update,
        resource: &resource,
        subresource: &target.subresource,
        namespace: &target.namespace,
        name: &target.name,
        user: &call.user,
        old: Some(&old),
    };
    admit::mutate(server, &request, &mut new).await?;
    kind.default(&mut new, storage_version);
    prepare(server, target, &mut new, &old);
    let claim = services::claim(server, kind, &mut new, Some(&old)).await?;
    check(target, &new, &old)?;
    crate::verbs::rbac::may_grant(server, &call.user, kind, &new, Some(&old))?;
    let charges = admit::validate(server, &request, &new).await?;
    let bytes = encode(kind, &mut new)?;
    if new == old || managed::differ_in_times_alone(&new, &old) {
        return Ok(Some(Written { object: current.clone(), deed: Deed::Unchanged }));
    }
    let goes = is_released(target, &new);
    let object = |revision| Object::written(bytes.clone(), &new, revision).map(Arc::new).map_err(Status::internal);
    let deed = if goes { Deed::Deleted } else { Deed::Changed };
    if call.is_dry_run() {
        return Ok(Some(Written { object: object(current.revision)?, deed }));
    }
    let key = key(kind, &target.namespace, &target.name);
    let value = at_rest(server, &key, bytes.clone())?;
    let mut txn = Txn {
        compares: vec![Compare { key: key.clone(), mod_revision: current.revision }],
        then: vec![match goes {
            true => Op::Delete { key },
            false => Op::Put { key, value, lease_seconds: lease_seconds(kind) },
        }],
        durability: durability(kind, &target.namespace),
    };
    claim.join(&mut txn);
    charges.join(&mut txn);
    if goes {
        txn.then.extend(services::release(kind, &old));
    }
    match server.cache.store.txn(txn).await.map_err(store_failed)? {
        TxnResponse::Done { revision } => {
            server.facts.note(kind, revision);
            Ok(Some(Written { object: object(revision)?, deed }))
        }
        // A change that names a version meets the newer one on the next try, and is refused there.
        TxnResponse::Refused { .. } => Ok(None),
    }
}

/// Refuses a change of another object, or of a version that has moved on.
fn check_identity(call: &Call, target: &Target, old: &Value, new: &Value) -> Result<(), Status> {
    let of = |object: &Value, key: &str| object.str_at(&["metadata", key]).to_owned();
    let (named, url) = (of(new, "name"), &target.name);
    if !named.is_empty() && named != *url {
        let why = format!("the name of the object ({named}) does not match the name on the URL ({url})");
        return Err(Status::bad_request(why));
    }
    let namespace = of(new, "namespace");
    if target.served.kind.is_namespaced() && !namespace.is_empty() && namespace != target.namespace {
        let why = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Status::bad_request(why));
    }
    let (uid, own) = (of(new, "uid"), of(old, "uid"));
    if !uid.is_empty() && uid != own && call.info.verb == "patch" && target.subresource.is_empty() {
        let mut errors = ErrorList::default();
        errors.invalid(&Path::new("metadata.uid"), uid.as_str(), "field is immutable");
        return Err(Status::invalid(target.served.kind.group, target.served.kind.kind, &target.name, &errors));
    }
    if !uid.is_empty() && uid != own {
        let kind = target.served.kind;
        let key = kind.storage_key(&target.namespace, &target.name).unwrap_or_default();
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition \
             failed: UID in precondition: {uid}, UID in object meta: {own}"
        );
        return Err(Status::conflict(&target.resource(), &target.name, &why));
    }
    match of(new, "resourceVersion").as_str() {
        "" | "0" => Ok(()),
        version if version == of(old, "resourceVersion") => Ok(()),
        version if version.parse::<u64>().is_err() => {
            Err(Status::new(500, "", format!("strconv.ParseUint: parsing {version:?}: invalid syntax")))
        }
        _ => Err(Status::modified(&target.resource(), &target.name)),
    }
}

/// What only the server says stays as it was.
fn restore_meta(new: &mut Value, old: &Value) {
    if !matches!(new.get("metadata"), Value::Map(_)) {
        new.set(&["metadata"], Value::map());
    }
    for key in ["resourceVersion", "selfLink"] {
        new.remove(&["metadata", key]);
    }
    let fixed = ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"];
    for key in fixed {
        coracle_kinds::rules::restore_at(new, old, &["metadata", key]);
    }
}

fn prepare(server: &Server, target: &Target, new: &mut Value, old: &Value) {
    let kind = target.served.kind;
    match target.subresource.as_str() {
        "status" => kind.prepare_status_update(new, old),
        // Written whole by the step that made the change.
        "finalize" | "eviction" | "approval" => {}
        _ => {
            kind.drop_gated(server.gates, new, old);
            kind.prepare_update(new, old);
        }
    }
}

fn check(target: &Target, new: &Value, old: &Value) -> Result<(), Status> {
    let kind = target.served.kind;
    let mut errors = ErrorList::default();
    match target.subresource.as_str() {
        "status" | "finalize" | "eviction" | "approval" | "ephemeralcontainers" | "resize" => {
            kind.validate_part_update(&target.subresource, new, old, &mut errors);
        }
        _ => kind.validate_update(new, old, &mut errors),
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Status::invalid(kind.group, kind.kind, &target.name, &errors)),
    }
}

/// Whether an object that is to be deleted has nothing left that holds it.
fn is_released(target: &Target, object: &Value) -> bool {
    let meta = object.get("metadata");
    let is_deleting = !meta.get("deletionTimestamp").is_null();
    let in_grace = meta.int_at(&["deletionGracePeriodSeconds"]).unwrap_or_default() > 0;
    let is_held = !meta.list_at(&["finalizers"]).is_empty();
    let is_namespace = target.served.kind.plural == "namespaces" && target.served.kind.group.is_empty();
    let has_content = is_namespace && !object.list_at(&["spec", "finalizers"]).is_empty();
    is_deleting && !in_grace && !is_held && !has_content
}
