//! The garbage collector: objects whose owners are all gone go too, in the foreground before their owner, or are left
//! as orphans. It follows every kind; a key's name is the resource and the object's name, `pods/web`. An owner that no
//! cache shows counts as gone only after the store itself said so.

use std::time::Duration;

use coracle_meta::object::Owner;
use coracle_meta::{Object, Resource};
use coracle_reconcile::controller::WatchAll;
use coracle_reconcile::{Answer, Ask, Controller, Index, Key, Known, Outcome, Plan, Propagation, View, Watch, Write};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::shape::Item;

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
/// Until an owner is looked for again whose kind has not been listed yet, or is not to be had: then half the age of what
/// it owns, since a kind that has long been missing may be so for good.
const NEXT_LOOK_MIN: Duration = Duration::from_secs(1);
const NEXT_LOOK_MAX: Duration = Duration::from_secs(600);
static IGNORED: [Resource; 2] = [Resource::new("", "events"), Resource::new("events.k8s.io", "events")];

pub struct GarbageCollector;

impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "garbage-collector-controller"
    }

    fn component(&self) -> &'static str {
        "generic-garbage-collector"
    }

    fn watches(&self) -> Vec<Watch> {
        Vec::new()
    }

    fn watches_all(&self) -> Option<WatchAll> {
        Some(WatchAll { keys, ignored: &IGNORED, only_belonging: true })
    }

    fn concurrency_max(&self) -> usize {
        20
    }

    fn reconcile(&self, view: &dyn View, key: &Key, last: &Outcome, now: Timestamp) -> Plan {
        let Some((resource, item)) = find(view, key) else { return Plan::default() };
        let holds = |finalizer: &str| item.meta().finalizers.iter().any(|held| held == finalizer);
        if item.meta().is_deleting() {
            if holds(ORPHAN) {
                return orphan(view, &resource, &item);
            }
            return if holds(FOREGROUND) { finish_foreground(view, &resource, &item) } else { Plan::default() };
        }
        if item.meta().owner_references.is_empty() {
            return Plan::default();
        }
        collect(view, &resource, &item, (last, now))
    }
}

fn key_of(resource: &Resource, object: &Object) -> Key {
    Key::new(object.meta.namespace.clone(), format!("{resource}/{}", object.meta.name))
}

fn find(view: &dyn View, key: &Key) -> Option<(Resource, Item)> {
    let (resource, name) = key.name.split_once('/')?;
    let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
    let resource = Resource::owned(group, plural);
    let item = Item::get(view, &resource, &Key::new(key.namespace.clone(), name))?;
    Some((resource, item))
}

/// The object itself where it has owners or is held by us; what depends on it where it goes or is gone; and an owner
/// that waits for it.
fn keys(view: &dyn View, resource: &Resource, object: &Object) -> Vec<Key> {
    let meta = &object.meta;
    let ours = meta.is_deleting() && meta.finalizers.iter().any(|held| held == FOREGROUND || held == ORPHAN);
    let mut keys = Vec::new();
    if ours || !meta.owner_references.is_empty() {
        keys.push(key_of(resource, object));
    }
    let now = view.get(resource, &meta.namespace, &meta.name);
    let gone = now.is_none_or(|now| now.meta.uid != meta.uid);
    if ours || gone {
        keys.extend(dependents(view, &meta.uid).iter().map(|(resource, item)| key_of(resource, item)));
    }
    for owner in meta.owner_references.iter() {
        if let Some((resource, found)) = present_owner(view, object, owner)
            && found.meta.is_deleting()
        {
            keys.push(key_of(&resource, &found));
        }
    }
    keys
}

fn dependents(view: &dyn View, uid: &str) -> Vec<(Resource, std::sync::Arc<Object>)> {
    let mut found = Vec::new();
    for known in view.known().iter().filter(|known| !IGNORED.contains(&known.resource)) {
        let objects = view.by_index(&known.resource, Index::Owner, uid);
        found.extend(objects.into_iter().map(|object| (known.resource.clone(), object)));
    }
    found
}

fn kind_of(view: &dyn View, owner: &Owner) -> Option<Known> {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    view.known().iter().find(|known| known.kind.group == group && known.kind.kind == owner.kind.as_str()).cloned()
}

fn present_owner(view: &dyn View, object: &Object, owner: &Owner) -> Option<(Resource, std::sync::Arc<Object>)> {
    let known = kind_of(view, owner)?;
    let namespace = if known.namespaced { object.meta.namespace.as_str() } else { "" };
    let found = view.get(&known.resource, namespace, &owner.name).filter(|found| found.meta.uid == owner.uid)?;
    Some((known.resource, found))
}

/// How an owner stands.
enum Standing {
    Solid,
    /// On its way out, waiting for those that block it.
    Waiting,
    Absent,
    /// Only the store can tell.
    Ask(Ask),
    /// Its kind is not listed yet.
    Later,
    /// Nobody offers its kind, or the store did not say.
    Unknown,
}

fn standing(view: &dyn View, item: &Item, owner: &Owner, last: &Outcome) -> Standing {
    let Some(known) = kind_of(view, owner) else { return Standing::Unknown };
    if known.namespaced && item.namespace().is_empty() {
        // An owner in a namespace cannot own what is in none: nothing can be concluded.
        return Standing::Solid;
    }
    if let Some((_, found)) = present_owner(view, &item.object, owner) {
        let waits = found.meta.is_deleting() && found.meta.finalizers.iter().any(|held| held == FOREGROUND);
        return if waits { Standing::Waiting } else { Standing::Solid };
    }
    if !view.is_synced(&known.resource) {
        return Standing::Later;
    }
    let namespace = if known.namespaced { item.namespace().to_owned() } else { String::new() };
    let ask = Ask::Read { resource: known.resource, namespace, name: owner.name.clone() };
    match last.answer(&ask) {
        Some(Answer::Object(None)) => Standing::Absent,
        Some(Answer::Object(Some(found))) if found["metadata"]["uid"] != owner.uid.as_str() => Standing::Absent,
        Some(Answer::Object(Some(_))) => Standing::Solid,
        Some(_) => Standing::Unknown,
        None => Standing::Ask(ask),
    }
}

/// Deletes what has lost all its owners; drops references to owners that are gone where others remain.
fn collect(view: &dyn View, resource: &Resource, item: &Item, (last, now): (&Outcome, Timestamp)) -> Plan {
    let (mut solid, mut waiting, mut leaving) = (0, 0, Vec::new());
    let mut plan = Plan::default();
    for owner in item.meta().owner_references.iter() {
        match standing(view, item, owner, last) {
            Standing::Solid => solid += 1,
            Standing::Waiting => {
                waiting += 1;
                leaving.push(owner.uid.clone());
            }
            Standing::Absent => leaving.push(owner.uid.clone()),
            Standing::Ask(ask) => plan.asks.push(ask),
            Standing::Later => plan.wake_by(NEXT_LOOK_MIN),
            Standing::Unknown => plan.wake_by(next_look(item, now)),
        }
    }
    if !plan.asks.is_empty() {
        return Plan { asks: plan.asks, ..Plan::default() };
    }
    if plan.wake_after.is_some() || leaving.is_empty() {
        return plan;
    }
    let write = if solid > 0 {
        drop_owners(resource, item, &leaving)
    } else if waiting > 0 && closes_circle(view, item) {
        unblock_owners(resource, item)
    } else {
        delete(
            resource,
            item,
            if waiting > 0 && has_dependents(view, item) { Some(Propagation::Foreground) } else { None },
        )
    };
    Plan { writes: vec![write], ..Plan::default() }
}

fn next_look(item: &Item, now: Timestamp) -> Duration {
    let age = Duration::try_from(now.duration_since(item.created())).unwrap_or_default();
    (age / 2).clamp(NEXT_LOOK_MIN, NEXT_LOOK_MAX)
}

fn has_dependents(view: &dyn View, item: &Item) -> bool {
    !dependents(view, item.uid()).is_empty()
}

/// Whether this object holds its owner up while one of its own dependents waits for this object: each would wait for
/// the other for ever. Source: Kubernetes `pkg/controller/garbagecollector`, attemptToDeleteItem.
fn closes_circle(view: &dyn View, item: &Item) -> bool {
    let blocks = item.meta().owner_references.iter().any(|owner| owner.block_owner_deletion);
    let waits =
        |object: &Object| object.meta.is_deleting() && object.meta.finalizers.iter().any(|held| held == FOREGROUND);
    blocks && dependents(view, item.uid()).iter().any(|(_, object)| waits(object))
}

/// Its owners no longer wait for this object; it is judged again when that shows.
fn unblock_owners(resource: &Resource, item: &Item) -> Write {
    let mut owners = item.list("/metadata/ownerReferences").to_vec();
    owners.iter_mut().for_each(|owner| owner["blockOwnerDeletion"] = json!(false));
    item.patch_this_version(resource, json!({"metadata": {"ownerReferences": owners}}))
}

/// Guarded by the version that was judged: another owner may have come meanwhile.
fn delete(resource: &Resource, item: &Item, wanted: Option<Propagation>) -> Write {
    let holds = |finalizer: &str| item.meta().finalizers.iter().any(|held| held == finalizer);
    let kept = match (holds(ORPHAN), holds(FOREGROUND)) {
        (true, _) => Propagation::Orphan,
        (_, true) => Propagation::Foreground,
        _ => Propagation::Background,
    };
    Write::Delete {
        resource: resource.clone(),
        namespace: item.namespace().into(),
        name: item.name().into(),
        uid: item.uid().into(),
        resource_version: Some(item.object.revision.to_string()),
        grace_seconds: None,
        propagation: Some(wanted.unwrap_or(kept)),
    }
}

fn drop_owners(resource: &Resource, item: &Item, uids: &[String]) -> Write {
    let owners = item.list("/metadata/ownerReferences").iter();
    let rest: Vec<&Value> = owners.filter(|owner| !uids.iter().any(|uid| owner["uid"] == uid.as_str())).collect();
    let rest = if rest.is_empty() { Value::Null } else { json!(rest) };
    item.patch_this_version(resource, json!({"metadata": {"ownerReferences": rest}}))
}

fn drop_finalizer(resource: &Resource, item: &Item, finalizer: &str) -> Write {
    let rest: Vec<&String> = item.meta().finalizers.iter().filter(|held| *held != finalizer).collect();
    let rest = if rest.is_empty() { Value::Null } else { json!(rest) };
    item.patch_this_version(resource, json!({"metadata": {"finalizers": rest}}))
}

/// Sets what depends on the object free, then lets it go.
fn orphan(view: &dyn View, resource: &Resource, item: &Item) -> Plan {
    let uid = [item.uid().to_owned()];
    let dependents = dependents(view, item.uid());
    let freed = dependents.into_iter().map(|(resource, object)| drop_owners(&resource, &Item::of(object), &uid));
    let mut writes: Vec<Write> = freed.collect();
    writes.push(drop_finalizer(resource, item, ORPHAN));
    Plan { writes, ..Plan::default() }
}

/// Lets the object go once nothing that blocks it is left; its dependents are keys of their own.
fn finish_foreground(view: &dyn View, resource: &Resource, item: &Item) -> Plan {
    let blocks = |object: &Object| {
        let mut owners = object.meta.owner_references.iter();
        owners.any(|owner| owner.uid == item.uid() && owner.block_owner_deletion)
    };
    if dependents(view, item.uid()).iter().any(|(_, object)| blocks(object)) {
        return Plan::default();
    }
    Plan { writes: vec![drop_finalizer(resource, item, FOREGROUND)], ..Plan::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::PODS;
    use crate::replicaset::REPLICA_SETS;
    use coracle_meta::GroupVersionKind;
    use coracle_testkit::{FakeView, Witness};

    fn view() -> FakeView {
        FakeView::new().knowing(PODS, GroupVersionKind::new("", "v1", "Pod"), true).knowing(
            REPLICA_SETS,
            GroupVersionKind::new("apps", "v1", "ReplicaSet"),
            true,
        )
    }

    fn pod(owners: &[&str]) -> Value {
        let owners: Vec<Value> = owners
            .iter()
            .map(|name| {
                json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": format!("{name}-uid"),
                    "controller": false, "blockOwnerDeletion": true})
            })
            .collect();
        json!({"metadata": {"name": "p", "namespace": "n", "ownerReferences": owners}})
    }

    fn set(finalizers: &[&str]) -> Value {
        let mut meta = json!({"name": "s", "namespace": "n"});
        if !finalizers.is_empty() {
            meta["finalizers"] = json!(finalizers);
            meta["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        json!({"metadata": meta})
    }

    #[test]
    fn an_owner_of_a_kind_that_nobody_offers_is_looked_for_ever_less_often() {
        let view = FakeView::new().with(PODS, pod(&["s"])).knowing(PODS, GroupVersionKind::new("", "v1", "Pod"), true);
        let created: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (age, wait) in [(0, 1), (10, 5), (3600, 600)] {
            let at = created + Duration::from_secs(age);
            let plan = GarbageCollector.decide(&view, &Key::new("n", "pods/p"), &Outcome::default(), at);
            assert_eq!(plan, Plan::wake(Duration::from_secs(wait)), "{age}");
        }
    }

    /// Decides about the pod, answering every question from the view itself.
    fn run(view: &FakeView, key: &Key) {
        let mut last = Outcome::default();
        for _ in 0..9 {
            let plan = GarbageCollector.decide(view, key, &last, Timestamp::UNIX_EPOCH);
            if plan.is_empty() {
                return;
            }
            view.apply(&plan);
            let answer = |ask: &Ask| match ask {
                Ask::Read { resource, namespace, name } => {
                    Answer::Object(Some(view.json(resource, namespace, name)).filter(|found| !found.is_null()))
                }
                other => panic!("{other:?}"),
            };
            last = Outcome { answers: plan.asks.iter().map(answer).collect(), asked: plan.asks, ..Outcome::default() };
        }
        panic!("does not settle");
    }

    #[test]
    fn an_object_goes_when_the_store_says_that_its_last_owner_is_gone() {
        let view = view().with(PODS, pod(&["s"]));
        let key = Key::new("n", "pods/p");
        let plan = GarbageCollector.decide(&view, &key, &Outcome::default(), Timestamp::UNIX_EPOCH);
        assert_eq!((plan.writes.len(), plan.asks.len()), (0, 1));
        run(&view, &key);
        assert!(view.names(&PODS).is_empty());
    }

    #[test]
    fn a_reference_to_a_gone_owner_is_dropped_where_another_stands() {
        let view = view().with(PODS, pod(&["s", "t"])).with(REPLICA_SETS, set(&[]));
        run(&view, &Key::new("n", "pods/p"));
        let owners = view.json(&PODS, "n", "p")["metadata"]["ownerReferences"].clone();
        assert_eq!(owners.as_array().unwrap().len(), 1);
        assert_eq!(owners[0]["name"], "s");
    }

    #[test]
    fn in_the_foreground_dependents_go_first() {
        let view = view().with(PODS, pod(&["s"])).with(REPLICA_SETS, set(&[FOREGROUND]));
        let owner = Key::new("n", "replicasets.apps/s");
        run(&view, &owner);
        assert_eq!(view.names(&REPLICA_SETS).len(), 1);
        run(&view, &Key::new("n", "pods/p"));
        run(&view, &owner);
        assert!(view.names(&PODS).is_empty() && view.names(&REPLICA_SETS).is_empty());
    }

    #[test]
    fn a_circle_of_owners_does_not_hold_itself_up() {
        let pod = |name: &str, owner: &str| {
            json!({"metadata": {"name": name, "namespace": "n", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod",
                "name": owner, "uid": format!("{owner}-uid"), "blockOwnerDeletion": true}]}})
        };
        let mut first = pod("a", "c");
        first["metadata"]["finalizers"] = json!([FOREGROUND]);
        first["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let view = view().with(PODS, first).with(PODS, pod("b", "a")).with(PODS, pod("c", "b"));
        for _ in 0..3 {
            ["pods/b", "pods/c", "pods/a"].iter().for_each(|name| run(&view, &Key::new("n", *name)));
        }
        assert!(view.names(&PODS).is_empty(), "{:?}", view.names(&PODS));
    }

    #[test]
    fn orphans_lose_the_reference_and_stay() {
        let view = view().with(PODS, pod(&["s"])).with(REPLICA_SETS, set(&[ORPHAN]));
        run(&view, &Key::new("n", "replicasets.apps/s"));
        assert!(view.names(&REPLICA_SETS).is_empty());
        assert!(view.json(&PODS, "n", "p")["metadata"]["ownerReferences"].is_null());
    }

    #[test]
    fn a_gone_owner_wakes_its_dependents() {
        let view = view().with(PODS, pod(&["s"]));
        let gone = Object::new(set(&[]).to_string().replace("\"s\"", "\"s\",\"uid\":\"s-uid\"").into(), 9).unwrap();
        assert_eq!(keys(&view, &REPLICA_SETS, &gone), [Key::new("n", "pods/p")]);
    }
}
