//! Deleting an object: at once, after its grace period, or once its finalizers are done. Source of the steps:
//! Kubernetes `apiserver/pkg/registry/rest/delete.go` and `registry/generic/registry/store.go`.

use std::sync::Arc;

use coracle_admission::{Operation, Request};
use coracle_cache::store::{Compare, Op, Txn, TxnResponse};
use coracle_meta::{Object, Resource, Status, Value, time};

use super::{Deed, Target, Written, at_rest, encode, failed, key, store_failed, tree};
use crate::admit;
use crate::call::Call;
use crate::server::Server;
use crate::services;

const TRIES_MAX: usize = 12;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// What a delete asks for, from its body and its query.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    pub grace_seconds: Option<i64>,
    /// `Orphan`, `Background` or `Foreground`; empty leaves it to the kind.
    pub propagation: String,
    pub uid: String,
    pub resource_version: String,
    pub dry_run: bool,
}

impl Wish {
    pub fn read(call: &Call) -> Result<Wish, Status> {
        crate::verbs::read::check_numbers(call, &["gracePeriodSeconds"])?;
        let options = crate::decode::delete_options(call)?;
        check_options(call, &options)?;
        let query = |key: &str| call.query.get(key).unwrap_or_default().to_owned();
        let text = |path: &[&str], key: &str| match options.str_at(path) {
            "" => query(key),
            text => text.to_owned(),
        };
        let mut propagation = text(&["propagationPolicy"], "propagationPolicy");
        let orphan = options.get("orphanDependents").as_bool();
        if propagation.is_empty()
            && let Some(orphan) = orphan
        {
            propagation = if orphan { "Orphan" } else { "Background" }.into();
        }
        if !["", "Orphan", "Background", "Foreground"].contains(&propagation.as_str()) {
            let mut errors = coracle_meta::ErrorList::default();
            let path = coracle_meta::Path::new("propagationPolicy");
            errors.not_supported(&path, propagation.as_str(), &["Foreground", "Background", "Orphan", "nil"]);
            return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors));
        }
        let dry_run = call.is_dry_run() || options.list_at(&["dryRun"]).iter().any(|item| item.as_str() == Some("All"));
        Ok(Wish {
            // Less than nothing is as good as one second.
            grace_seconds: options
                .int_at(&["gracePeriodSeconds"])
                .or_else(|| call.query.number("gracePeriodSeconds"))
                .map(|seconds| if seconds < 0 { 1 } else { seconds }),
            propagation,
            uid: options.str_at(&["preconditions", "uid"]).into(),
            resource_version: options.str_at(&["preconditions", "resourceVersion"]).into(),
            dry_run,
        })
    }
}

/// Source: Kubernetes `apimachinery/pkg/apis/meta/v1/validation`, ValidateDeleteOptions.
fn check_options(call: &Call, options: &Value) -> Result<(), Status> {
    let mut errors = coracle_meta::ErrorList::default();
    let path = coracle_meta::Path::new("propagationPolicy");
    let policy = options.str_at(&["propagationPolicy"]);
    if options.get("orphanDependents").as_bool().is_some() && !policy.is_empty() {
        errors.invalid(&path, policy, "orphanDependents and deletionPropagation cannot be both set");
    }
    let said = options.list_at(&["dryRun"]).iter().filter_map(Value::as_str);
    let wanted: Vec<&str> = said.chain(call.query.all("dryRun")).collect();
    crate::managed::check_dry_run(&wanted, &mut errors);
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors)) }
}

pub async fn delete(server: &Arc<Server>, call: &Call, target: &Target, wish: &Wish) -> Result<Written, Status> {
    let cache = server.resource(target.served.kind).await?;
    let is_judged = admit::looks_into_deletions(&call.user);
    for _ in 0..TRIES_MAX {
        let found = cache.get_fresh(&target.namespace, &target.name).await.map_err(failed)?;
        let Some(current) = found else { return Err(target.not_found()) };
        check_preconditions(target, wish, &current)?;
        let early = if is_judged { None } else { told_by_metadata(target, wish, &current) };
        let object = if early.is_some() { Value::Null } else { tree(&current)? };
        admit(server, call, target, &object).await?;
        let fate = early.unwrap_or_else(|| fate(server, target, wish, object));
        if let Some(written) = attempt(server, target, wish, &current, fate).await? {
            return Ok(written);
        }
    }
    Err(Status::modified(&target.resource(), &target.name))
}

/// `object` is null where nobody looks into it.
async fn admit(server: &Server, call: &Call, target: &Target, object: &Value) -> Result<(), Status> {
    let resource = target.resource();
    let request = Request {
        operation: Operation::Delete,
        resource: &resource,
        subresource: "",
        namespace: &target.namespace,
        name: &target.name,
        user: &call.user,
        old: (!object.is_null()).then_some(object),
    };
    admit::validate(server, &request, object).await.map(drop)
}

/// Refuses where the wish is about another object, or about another version of it.
pub fn check_preconditions(target: &Target, wish: &Wish, current: &Object) -> Result<(), Status> {
    let (uid, version) = (&current.meta.uid, current.revision.to_string());
    let why = if !wish.uid.is_empty() && wish.uid != *uid {
        format!(
            "the UID in the precondition ({}) does not match the UID in record ({uid}). The object might have been \
             deleted and then recreated",
            wish.uid
        )
    } else if !wish.resource_version.is_empty() && wish.resource_version != version {
        format!(
            "the ResourceVersion in the precondition ({}) does not match the ResourceVersion in record ({version}). The \
             object might have been modified",
            wish.resource_version
        )
    } else {
        return Ok(());
    };
    let kind = target.served.kind;
    // Upstream names the kind here, not the resource.
    Err(Status::conflict(&Resource::new(kind.group, kind.kind), &target.name, &why))
}

/// What a wish makes of an object.
enum Fate {
    /// It is going already, as soon as is wanted.
    Stays,
    /// It goes with this write, and these go with it.
    Goes(Vec<Op>),
    /// It is marked so.
    Waits(Value),
}

/// The fate of an object of which the metadata tells it: most that are deleted by the thousand need not be read.
fn told_by_metadata(target: &Target, wish: &Wish, current: &Object) -> Option<Fate> {
    let (kind, meta) = (target.served.kind, &current.meta);
    let is_plain = matches!(wish.propagation.as_str(), "" | "Background") && !orphans_by_default(target);
    let of_collector = |name: &String| matches!(name.as_str(), ORPHAN | FOREGROUND);
    if !is_plain || meta.finalizers.iter().any(of_collector) || kind.plural == "namespaces" {
        return None;
    }
    let is_held = !meta.finalizers.is_empty();
    // Only a grace that is left keeps what nobody holds.
    let has_grace = kind.grace_seconds(&Value::Null, None).is_some();
    if meta.is_deleting() && wish.grace_seconds.is_none() && (is_held || has_grace) {
        return Some(Fate::Stays);
    }
    let at_once = wish.grace_seconds == Some(0) || !has_grace;
    (at_once && !is_held && !services::has_more(kind)).then(|| Fate::Goes(Vec::new()))
}

fn fate(server: &Server, target: &Target, wish: &Wish, mut object: Value) -> Fate {
    let finalizers = finalizers(target, wish, &object);
    let waits = wait(server, target, wish, &mut object, !finalizers.is_empty());
    let changed = finalizers != object.list_at(&["metadata", "finalizers"]);
    if changed {
        object.set(&["metadata", "finalizers"], finalizers);
    }
    match waits {
        Wait::Gone => Fate::Goes(services::release(target.served.kind, &object)),
        Wait::Known if !changed => Fate::Stays,
        Wait::Known | Wait::Marked => Fate::Waits(object),
    }
}

/// `None` where another write came between.
async fn attempt(
    server: &Server,
    target: &Target,
    wish: &Wish,
    current: &Arc<Object>,
    fate: Fate,
) -> Result<Option<Written>, Status> {
    let kind = target.served.kind;
    let key = key(kind, &target.namespace, &target.name);
    let compares = vec![Compare { key: key.clone(), mod_revision: current.revision }];
    let mut txn = Txn { compares, ..Txn::default() };
    let marked = match fate {
        Fate::Stays => return Ok(Some(Written { object: current.clone(), deed: Deed::Unchanged })),
        Fate::Goes(more) => {
            txn.then = vec![Op::Delete { key }];
            txn.then.extend(more);
            None
        }
        Fate::Waits(mut object) => {
            let bytes = encode(kind, &mut object)?;
            let value = at_rest(server, &key, bytes.clone())?;
            txn.then = vec![Op::Put { key, value, lease_seconds: 0 }];
            Some((bytes, object))
        }
    };
    let revision = match wish.dry_run {
        true => current.revision,
        false => match server.cache.store.txn(txn).await.map_err(store_failed)? {
            TxnResponse::Done { revision } => {
                server.facts.note(kind, revision);
                revision
            }
            TxnResponse::Refused { .. } => return Ok(None),
        },
    };
    let (object, deed) = match marked {
        Some((bytes, object)) => (Object::written(bytes, &object, revision).map_err(Status::internal)?, Deed::Changed),
        None => (current.at(revision), Deed::Deleted),
    };
    Ok(Some(Written { object: Arc::new(object), deed }))
}

enum Wait {
    /// Nothing holds it: it goes with this write.
    Gone,
    /// It is now marked as going, or will go sooner than before.
    Marked,
    /// It was going already, no sooner than asked for now.
    Known,
}

/// Marks the object as going where something holds it.
fn wait(server: &Server, target: &Target, wish: &Wish, object: &mut Value, is_held: bool) -> Wait {
    let kind = target.served.kind;
    let has_content = kind.plural == "namespaces" && !object.list_at(&["spec", "finalizers"]).is_empty();
    let is_held = is_held || has_content;
    let grace = kind.grace_seconds(object, wish.grace_seconds);
    let now = server.clock.now();
    if !object.at(&["metadata", "deletionTimestamp"]).is_null() {
        return wait_less(object, wish, is_held, now.as_second());
    }
    let seconds = grace.unwrap_or_default().max(0);
    if seconds == 0 && !is_held {
        return Wait::Gone;
    }
    mark(object, now.as_second() + seconds, seconds);
    if has_content {
        object.set(&["status", "phase"], "Terminating");
    }
    if let Some(generation) = object.int_at(&["metadata", "generation"]).filter(|generation| *generation > 0) {
        object.set(&["metadata", "generation"], generation + 1);
    }
    Wait::Marked
}

/// Of an object that is going already: it may go sooner, never later.
fn wait_less(object: &mut Value, wish: &Wish, is_held: bool, now: i64) -> Wait {
    let given = object.int_at(&["metadata", "deletionGracePeriodSeconds"]).unwrap_or_default();
    if given == 0 {
        return if is_held { Wait::Known } else { Wait::Gone };
    }
    let Some(mut asked) = wish.grace_seconds.filter(|asked| *asked < given) else { return Wait::Known };
    if asked == 0 && !is_held {
        return Wait::Gone;
    }
    let at = time::parse(object.str_at(&["metadata", "deletionTimestamp"])).map_or(now, |at| at.as_second());
    let mut sooner = at - given + asked;
    if sooner < now {
        // The time has passed, but the kubelet is still to end the pod in its own way.
        (sooner, asked) = (now, asked.min(1));
    }
    mark(object, sooner, asked);
    Wait::Marked
}

fn mark(object: &mut Value, at_second: i64, grace: i64) {
    let at = jiff::Timestamp::from_second(at_second).unwrap_or(jiff::Timestamp::MAX);
    object.set(&["metadata", "deletionTimestamp"], time::seconds(at));
    object.set(&["metadata", "deletionGracePeriodSeconds"], grace);
}

/// The finalizers that hold the object, those of the garbage collector as the propagation policy has them.
fn finalizers(target: &Target, wish: &Wish, object: &Value) -> Vec<Value> {
    let mut list = object.list_at(&["metadata", "finalizers"]).to_vec();
    let has = |list: &[Value], name: &str| list.iter().any(|item| item.as_str() == Some(name));
    let (orphan, foreground) = match wish.propagation.as_str() {
        "Orphan" => (true, false),
        "Foreground" => (false, true),
        "Background" => (false, false),
        _ if has(&list, ORPHAN) => (true, false),
        _ if has(&list, FOREGROUND) => (false, true),
        _ => (orphans_by_default(target), false),
    };
    list.retain(|item| !matches!(item.as_str(), Some(ORPHAN | FOREGROUND)));
    if orphan {
        list.push(ORPHAN.into());
    }
    if foreground {
        list.push(FOREGROUND.into());
    }
    list
}

/// Kept for old clients by the kinds that were there before garbage collection.
fn orphans_by_default(target: &Target) -> bool {
    matches!((target.served.kind.group, target.served.kind.plural), ("", "replicationcontrollers") | ("batch", "jobs"))
}
