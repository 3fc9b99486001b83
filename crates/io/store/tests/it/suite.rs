//! The store trait's contract, as one run over an empty store.

use std::sync::Arc;
use std::time::Duration;

use coracle_cache::Store;
use coracle_cache::keys::end_of;
use coracle_cache::store::{
    Compare, Detail, Op, Progress, RangeRequest, RangeResponse, Revision, StoreError, StoreEvent, Txn, TxnResponse,
    WatchStream,
};
use futures_util::StreamExt;

pub async fn suite(store: Arc<dyn Store>) {
    let store = store.as_ref();
    ranges_show_any_kept_revision(store).await;
    limits_cut_and_count(store).await;
    compares_decide_a_transaction(store).await;
    a_watch_resumes_from_an_old_revision(store).await;
    progress_is_told_on_request(store).await;
    leased_keys_vanish(store).await;
    compaction_forgets_the_past(store).await;
}

pub fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.to_owned().into(), value: value.to_owned().into(), lease_seconds: 0 }
}

fn delete(key: &str) -> Op {
    Op::Delete { key: key.to_owned().into() }
}

pub async fn done(store: &dyn Store, op: Op) -> Revision {
    match store.txn(Txn { then: vec![op], ..Txn::default() }).await.unwrap() {
        TxnResponse::Done { revision } => revision,
        TxnResponse::Refused { .. } => panic!("a transaction without compares is never refused"),
    }
}

fn below(prefix: &str) -> RangeRequest {
    let (start, end) = (prefix.to_owned().into(), end_of(prefix.as_bytes()));
    RangeRequest { start, end, at: None, limit: 0, detail: Detail::Full }
}

pub async fn values(store: &dyn Store, prefix: &str, at: Option<Revision>) -> Vec<String> {
    show(&store.range(RangeRequest { at, ..below(prefix) }).await.unwrap())
}

fn show(answer: &RangeResponse) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    answer.items.iter().map(|item| format!("{}={}", text(&item.key), text(&item.value))).collect()
}

async fn ranges_show_any_kept_revision(store: &dyn Store) {
    let first = done(store, put("/range/a", "1")).await;
    let second = done(store, put("/range/b", "2")).await;
    let third = done(store, put("/range/a", "3")).await;
    let fourth = done(store, delete("/range/b")).await;
    assert_eq!((second, third, fourth), (first + 1, first + 2, first + 3));
    assert_eq!(values(store, "/range/", Some(first)).await, ["/range/a=1"]);
    assert_eq!(values(store, "/range/", Some(second)).await, ["/range/a=1", "/range/b=2"]);
    assert_eq!(values(store, "/range/", Some(third)).await, ["/range/a=3", "/range/b=2"]);
    assert_eq!(values(store, "/range/", None).await, ["/range/a=3"]);
    let single = RangeRequest { end: Default::default(), ..below("/range/a") };
    let item = store.range(single).await.unwrap().items.remove(0);
    assert_eq!((item.create_revision, item.mod_revision, item.version), (first, third, 2));
    let future = store.range(RangeRequest { at: Some(fourth + 1_000_000), ..below("/range/") }).await;
    assert!(matches!(future, Err(StoreError::Future { .. })), "{future:?}");
    assert_eq!(done(store, delete("/range/absent")).await, fourth, "deleting nothing takes no revision");
}

async fn limits_cut_and_count(store: &dyn Store) {
    for number in 0..5 {
        done(store, put(&format!("/limit/{number}"), "x")).await;
    }
    let cut = store.range(RangeRequest { limit: 2, ..below("/limit/") }).await.unwrap();
    assert_eq!((cut.items.len(), cut.count, cut.more), (2, 5, true));
    let whole = store.range(RangeRequest { limit: 5, ..below("/limit/") }).await.unwrap();
    assert_eq!((whole.items.len(), whole.more), (5, false));
    let counted = store.range(RangeRequest { detail: Detail::CountOnly, ..below("/limit/") }).await.unwrap();
    assert_eq!((counted.items.len(), counted.count), (0, 5));
    let keys = store.range(RangeRequest { detail: Detail::KeysOnly, ..below("/limit/") }).await.unwrap();
    assert!(keys.items.len() == 5 && keys.items.iter().all(|item| item.value.is_empty()));
}

async fn compares_decide_a_transaction(store: &dyn Store) {
    let only_if = |mod_revision, value: &str| Txn {
        compares: vec![Compare { key: "/txn/a".into(), mod_revision }],
        then: vec![put("/txn/a", value), put("/txn/b", value)],
        ..Txn::default()
    };
    let TxnResponse::Done { revision } = store.txn(only_if(0, "1")).await.unwrap() else { panic!("the key is new") };
    match store.txn(only_if(0, "2")).await.unwrap() {
        TxnResponse::Refused { key, current: Some(current), revision: at } => {
            assert_eq!((key.as_ref(), current.value.as_ref()), (b"/txn/a".as_slice(), b"1".as_slice()));
            assert!(current.mod_revision == revision && at >= revision);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(store.txn(only_if(revision, "3")).await.unwrap(), TxnResponse::Done { .. }));
    assert_eq!(values(store, "/txn/", None).await, ["/txn/a=3", "/txn/b=3"]);
    done(store, delete("/txn/a")).await;
    let refused = store.txn(only_if(revision, "4")).await.unwrap();
    assert!(matches!(refused, TxnResponse::Refused { current: None, .. }), "{refused:?}");
}

async fn a_watch_resumes_from_an_old_revision(store: &dyn Store) {
    let first = done(store, put("/watch/a", "1")).await;
    done(store, put("/elsewhere", "x")).await;
    done(store, put("/watch/a", "2")).await;
    let mut watch = store.watch("/watch/".into(), end_of(b"/watch/"), first).await.unwrap();
    assert_eq!(next_events(&mut watch, 2).await, ["put a=1", "put a=2 after 1"]);
    done(store, put("/elsewhere", "y")).await;
    let last = done(store, delete("/watch/a")).await;
    assert_eq!(next_events(&mut watch, 1).await, [format!("delete a@{last} after 2")]);
}

async fn progress_is_told_on_request(store: &dyn Store) {
    let mut watch = store.watch("/progress/".into(), end_of(b"/progress/"), 1).await.unwrap();
    let newest = done(store, put("/elsewhere", "z")).await;
    assert!(store.revision().await.unwrap() >= newest);
    if store.request_progress().await.unwrap() == Progress::Unsupported {
        return;
    }
    while next(&mut watch).await.unwrap().revision < newest {}
}

async fn leased_keys_vanish(store: &dyn Store) {
    done(store, Op::Put { key: "/lease/a".into(), value: "1".into(), lease_seconds: 1 }).await;
    let from = done(store, put("/lease/b", "1")).await;
    let mut watch = store.watch("/lease/".into(), end_of(b"/lease/"), from + 1).await.unwrap();
    let told = next_events(&mut watch, 1).await;
    assert!(told[0].starts_with("delete a@") && told[0].ends_with("after 1"), "{told:?}");
    assert_eq!(values(store, "/lease/", None).await, ["/lease/b=1"]);
}

async fn compaction_forgets_the_past(store: &dyn Store) {
    let first = done(store, put("/compact/a", "1")).await;
    done(store, put("/compact/a", "2")).await;
    let third = done(store, put("/compact/a", "3")).await;
    store.compact(third).await.unwrap();
    let range = store.range(RangeRequest { at: Some(first), ..below("/compact/") }).await;
    assert!(matches!(range, Err(StoreError::Compacted { .. })), "{range:?}");
    assert_eq!(values(store, "/compact/", Some(third)).await, ["/compact/a=3"]);
    // A store may refuse at once or as the first word of the watch.
    let watched = match store.watch("/compact/".into(), end_of(b"/compact/"), first).await {
        Ok(mut watch) => next(&mut watch).await.map(drop),
        Err(error) => Err(error),
    };
    assert!(matches!(watched, Err(StoreError::Compacted { .. })), "{watched:?}");
    assert!(matches!(store.compact(first).await, Err(StoreError::Compacted { .. })));
    done(store, delete("/compact/a")).await;
    assert_eq!(values(store, "/compact/", None).await, [""; 0]);
}

async fn next(watch: &mut WatchStream) -> Result<coracle_cache::store::WatchBatch, StoreError> {
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, watch.next()).await.expect("a watch tells").expect("a watch goes on")
}

async fn next_events(watch: &mut WatchStream, count: usize) -> Vec<String> {
    let mut told = Vec::new();
    while told.len() < count {
        told.extend(next(watch).await.unwrap().events.iter().map(tell));
    }
    told
}

fn tell(event: &StoreEvent) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let name = |key: &[u8]| text(key).rsplit('/').next().unwrap().to_owned();
    let (what, previous) = match event {
        StoreEvent::Put { current, previous } => {
            (format!("put {}={}", name(&current.key), text(&current.value)), previous)
        }
        StoreEvent::Delete { key, revision, previous } => (format!("delete {}@{revision}", name(key)), previous),
    };
    match previous {
        Some(previous) => format!("{what} after {}", text(&previous.value)),
        None => what,
    }
}
