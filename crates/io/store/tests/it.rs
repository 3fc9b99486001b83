//! What every store has to keep, run on the embedded engine and on a real etcd; and the cache on top of them.

#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

#[path = "it/cache.rs"]
mod cache;
#[path = "it/etcd.rs"]
mod etcd;
#[path = "it/suite.rs"]
mod suite;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use coracle_cache::Store;
use coracle_cache::store::{Durability, Op, TxnResponse};
use coracle_rt::Scope;
use coracle_store::{Engine, Etcd, OpenError};

/// A folder that goes with the test.
pub struct Folder(pub PathBuf);

impl Default for Folder {
    fn default() -> Folder {
        Folder::new()
    }
}

impl Folder {
    pub fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("coracle-store-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn the_embedded_engine_keeps_the_suite() {
    let (folder, scope) = (Folder::new(), Scope::root());
    let engine = Engine::open(&folder.0, scope.clone()).unwrap();
    suite::suite(engine).await;
    scope.close(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn the_ephemeral_engine_keeps_the_suite_and_leaves_nothing() {
    let (folder, scope) = (Folder::new(), Scope::root());
    suite::suite(Engine::ephemeral(&folder.0, scope.clone()).unwrap()).await;
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 0);
    scope.close(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn etcd_keeps_the_suite() {
    let server = etcd::Server::start();
    suite::suite(Arc::new(server.connect().await)).await;
}

#[tokio::test]
async fn etcd_is_reached_over_tls_with_a_certificate_only() {
    let server = etcd::Server::start_with_tls();
    let store = server.connect().await;
    suite::done(&store, suite::put("/a", "1")).await;
    assert_eq!(suite::values(&store, "/a", None).await, ["/a=1"]);
    assert!(Etcd::connect(&server.without_identity()).await.is_err());
}

#[tokio::test]
async fn of_servers_that_share_an_etcd_one_compacts() {
    let server = etcd::Server::start();
    let (one, other) = (server.connect().await, server.connect().await);
    let first = suite::done(&one, suite::put("/a", "1")).await;
    suite::done(&one, suite::put("/a", "2")).await;
    let mut turns = (Default::default(), Default::default());
    for _ in 0..2 {
        turns.0 = one.compaction_turn(turns.0).await.unwrap();
        turns.1 = other.compaction_turn(turns.1).await.unwrap();
    }
    let old = one.compact(first).await;
    assert!(matches!(old, Err(coracle_cache::StoreError::Compacted { .. })), "{old:?}");
    let value = suite::values(&other, "compact_rev_key", None).await;
    assert_eq!(value.len(), 1);
}

#[tokio::test]
async fn a_folder_has_one_engine() {
    let (folder, scope) = (Folder::new(), Scope::root());
    let _first = Engine::open(&folder.0, scope.clone()).unwrap();
    assert!(matches!(Engine::open(&folder.0, scope.clone()), Err(OpenError::InUse(_))));
    scope.close(Duration::from_secs(10)).await;
}

#[tokio::test]
async fn a_restart_keeps_what_was_written_and_leaps_ahead() {
    let folder = Folder::new();
    let scope = Scope::root();
    let engine = Engine::open(&folder.0, scope.clone()).unwrap();
    let relaxed = Op::Put { key: "/lease".into(), value: "1".into(), lease_seconds: 0 };
    let txn = coracle_cache::store::Txn { then: vec![relaxed], durability: Durability::Relaxed, ..Default::default() };
    suite::done(engine.as_ref(), suite::put("/a", "1")).await;
    let TxnResponse::Done { revision } = engine.txn(txn).await.unwrap() else { panic!("nothing to compare") };
    scope.close(Duration::from_secs(10)).await;
    drop(engine);
    let scope = Scope::root();
    let engine = Engine::open(&folder.0, scope.clone()).unwrap();
    assert!(engine.revision().await.unwrap() >= revision);
    assert_eq!(suite::values(engine.as_ref(), "/", None).await, ["/a=1", "/lease=1"]);
    scope.close(Duration::from_secs(10)).await;
}
