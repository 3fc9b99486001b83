//! The watch cache over the embedded engine.

use std::sync::Arc;
use std::time::Duration;

use coracle_cache::store::{Op, Revision};
use coracle_cache::{Cache, EventKind, ListQuery, ResourceCache, Store, WatchFrom, Watcher};
use coracle_meta::Resource;
use coracle_reconcile::{Index, View};
use coracle_rt::Scope;
use coracle_store::Engine;
use parking_lot::Mutex;

use crate::Folder;
use crate::suite::done;

const PODS: Resource = Resource::new("", "pods");

struct Setting {
    engine: Arc<Engine>,
    cache: Arc<Cache>,
    pods: Arc<ResourceCache>,
    _folder: Folder,
}

async fn setting() -> Setting {
    let folder = Folder::new();
    let engine = Engine::ephemeral(&folder.0, Scope::root()).unwrap();
    let cache = Cache::new(engine.clone(), Scope::root());
    let pods = cache.resource(&PODS, "/registry/pods");
    pods.wait_synced().await;
    Setting { engine, cache, pods, _folder: folder }
}

impl Setting {
    async fn put(&self, namespace: &str, name: &str, rest: &str) -> Revision {
        let value =
            format!(r#"{{"metadata":{{"name":"{name}","namespace":"{namespace}"{rest}}},"spec":{{"nodeName":"n"}}}}"#);
        let key = self.pods.prefix.key(namespace, name);
        done(self.engine.as_ref(), Op::Put { key, value: value.into(), lease_seconds: 0 }).await
    }

    async fn delete(&self, namespace: &str, name: &str) -> Revision {
        done(self.engine.as_ref(), Op::Delete { key: self.pods.prefix.key(namespace, name) }).await
    }
}

async fn told(watcher: &mut Watcher) -> String {
    let event = tokio::time::timeout(Duration::from_secs(30), watcher.next()).await.expect("told in time").unwrap();
    match event.kind {
        EventKind::Bookmark => format!("Bookmark {}", event.object.revision),
        kind => format!("{kind:?} {} {}", event.object.meta.name, event.object.revision),
    }
}

#[tokio::test]
async fn a_consistent_list_sees_every_acknowledged_write() {
    let setting = setting().await;
    for number in 0..50 {
        let revision = setting.put("default", &format!("p{number:02}"), "").await;
        let page = setting.pods.list_fresh(ListQuery::default()).await.unwrap();
        assert!(page.items.len() == number + 1 && page.revision >= revision);
    }
    done(setting.engine.as_ref(), crate::suite::put("/elsewhere", "x")).await;
    assert_eq!(setting.pods.sync().await.unwrap(), Some(setting.engine.revision().await.unwrap()));
}

#[tokio::test]
async fn pages_of_an_old_revision_stay_as_they_were() {
    let setting = setting().await;
    for name in ["a", "b", "c", "d"] {
        setting.put("one", name, "").await;
    }
    setting.put("one-more", "e", "").await;
    let namespace = Some("one");
    let first = setting.pods.list_fresh(ListQuery { namespace, limit: 3, after: None }).await.unwrap();
    assert_eq!((first.items.len(), first.remaining, first.next.as_deref()), (3, 1, Some("one/c")));
    setting.delete("one", "d").await;
    setting.pods.sync().await.unwrap();
    let query = ListQuery { namespace, limit: 3, after: first.next.as_deref() };
    let second = setting.pods.list_at(first.revision, query).await.unwrap();
    assert_eq!(second.items.iter().map(|pod| pod.meta.name.as_str()).collect::<Vec<_>>(), ["d"]);
    assert_eq!((second.remaining, second.next), (0, None));
}

#[tokio::test]
async fn a_watch_tells_each_change_once() {
    let setting = setting().await;
    let first = setting.put("default", "a", "").await;
    setting.pods.sync().await.unwrap();
    let mut initial = setting.pods.watch(WatchFrom::Initial, None).unwrap();
    let mut resumed = setting.pods.watch(WatchFrom::Revision(first), Some("default")).unwrap();
    setting.put("other", "x", "").await;
    let second = setting.put("default", "a", r#","labels":{"k":"v"}"#).await;
    let third = setting.delete("default", "a").await;
    let changes = [format!("Modified a {second}"), format!("Deleted a {third}")];
    assert_eq!(told(&mut initial).await, format!("Added a {first}"));
    assert!(told(&mut initial).await.starts_with("Bookmark"));
    assert!(told(&mut initial).await.starts_with("Added x"));
    for watcher in [&mut initial, &mut resumed] {
        assert_eq!([told(watcher).await, told(watcher).await], changes);
    }
}

#[tokio::test]
async fn a_place_before_the_window_is_gone() {
    let setting = setting().await;
    assert!(setting.pods.watch(WatchFrom::Revision(0), None).is_err());
}

#[tokio::test]
async fn a_place_before_the_window_is_found_in_the_stores_history() {
    let setting = setting().await;
    let first = setting.put("default", "a", "").await;
    let second = setting.put("default", "a", "").await;
    let third = setting.delete("default", "a").await;
    // A cache that begins later has none of these in its window.
    let later = Cache::new(setting.engine.clone(), Scope::root()).resource(&PODS, "/registry/pods");
    later.wait_synced().await;
    assert!(later.watch(WatchFrom::Revision(first), None).is_err());
    let mut watcher = later.watch_kept(WatchFrom::Revision(first), None).await.unwrap();
    let fourth = setting.put("default", "b", "").await;
    let seen = [told(&mut watcher).await, told(&mut watcher).await, told(&mut watcher).await];
    assert_eq!(seen, [format!("Modified a {second}"), format!("Deleted a {third}"), format!("Added b {fourth}")]);
}

#[tokio::test]
async fn a_slow_watcher_loses_its_place() {
    let setting = setting().await;
    setting.put("default", "a", "").await;
    setting.pods.sync().await.unwrap();
    let mut slow = setting.pods.watch(WatchFrom::Now, None).unwrap();
    let large = format!(r#","annotations":{{"a":"{}"}}"#, "x".repeat(1 << 20));
    for _ in 0..12 {
        setting.put("default", "a", &large).await;
    }
    setting.pods.sync().await.unwrap();
    assert!(slow.next().await.is_err());
}

#[tokio::test]
async fn a_view_tells_what_is_there_and_then_each_change() {
    let setting = setting().await;
    setting.put("default", "a", r#","ownerReferences":[{"uid":"u1"}]"#).await;
    setting.pods.sync().await.unwrap();
    let view = setting.cache.view(Arc::new(|resource| Some(format!("/registry/{}", resource.plural))));
    let notes = Arc::new(Mutex::new(Vec::new()));
    let kept = notes.clone();
    view.subscribe(&PODS, Arc::new(move |_, change| kept.lock().push((change.old.is_some(), change.new.is_some()))));
    assert_eq!(view.by_index(&PODS, Index::Owner, "u1").len(), 1);
    assert_eq!(view.by_index(&PODS, Index::Node, "n").len(), 1);
    setting.put("default", "a", "").await;
    setting.pods.sync().await.unwrap();
    assert_eq!(view.by_index(&PODS, Index::Owner, "u1").len(), 0);
    setting.delete("default", "a").await;
    setting.pods.sync().await.unwrap();
    assert_eq!(view.by_index(&PODS, Index::Node, "n").len(), 0);
    assert_eq!(*notes.lock(), [(false, true), (true, true), (true, false)]);
}
