//! Gives every pod of this node a worker, and carries news to it: from the API, from the runtime, from the objects that
//! its volumes show.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coracle_meta::{Object, Resource};
use coracle_podlife::{Presence, Rejection};
use coracle_reconcile::PodFacts;
use coracle_reconcile::view::resource_of;
use coracle_reconcile::view::{Change, Index};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::node_context::NodeContext;
use crate::observe::{POD_NAME, POD_NAMESPACE, POD_UID};
use crate::worker::{self, Event, WorkerHandle};

const EVENTS_RETRY: Duration = Duration::from_secs(1);
const SYNC_LOOK: Duration = Duration::from_millis(5);
/// How often the runtime is searched for sandboxes that no worker knows.
const ORPHANS_LOOK: Duration = Duration::from_secs(300);

/// What has changed since the router last looked: sets, so that a burst costs no more than what it is about.
#[derive(Default)]
struct News {
    pods: BTreeSet<PodKey>,
    /// Namespace and name of ConfigMaps and Secrets.
    sources: BTreeSet<(String, String)>,
    /// Uids of pods that something happened to in the runtime; empty for all.
    hints: BTreeSet<String>,
    ended: BTreeSet<String>,
    /// Who asked for all pods to end.
    leave: Vec<Leave>,
}

/// The node goes down: all pods end, and no other is taken.
struct Leave {
    grace_seconds_max: i64,
    /// Dropped once nothing runs any more.
    done: oneshot::Sender<()>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PodKey {
    namespace: String,
    name: String,
    uid: String,
}

#[derive(Default)]
struct Inbox {
    news: Mutex<News>,
    notify: Notify,
}

impl Inbox {
    fn add(&self, put: impl FnOnce(&mut News)) {
        put(&mut self.news.lock());
        self.notify.notify_one();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    TakesPods,
    GoesDown,
}

struct Router {
    node: Arc<NodeContext>,
    inbox: Arc<Inbox>,
    workers: BTreeMap<String, WorkerHandle>,
    course: Course,
    /// Who waits for the last pod to end.
    waiting: Vec<oneshot::Sender<()>>,
}

/// The way to all pods of the node.
pub(crate) struct Pods {
    inbox: Arc<Inbox>,
}

impl Pods {
    /// Ends every container by its hook and its grace, but within `grace_seconds_max`, and resolves when nothing runs any
    /// more. From then on no pod is started.
    pub async fn end(&self, grace_seconds_max: i64) {
        let (done, ended) = oneshot::channel();
        self.inbox.add(|news| news.leave.push(Leave { grace_seconds_max, done }));
        // Dropped, not used.
        let _ = ended.await;
    }
}

/// Runs the pods of this node until the scope ends.
pub(crate) fn start(node: &Arc<NodeContext>) -> Pods {
    let inbox = Arc::new(Inbox::default());
    let router = Router {
        node: node.clone(),
        inbox: inbox.clone(),
        workers: BTreeMap::new(),
        course: Course::TakesPods,
        waiting: Vec::new(),
    };
    node.scope.spawn_until_cancelled("pods", router.run());
    node.scope.spawn_until_cancelled("runtime-events", follow_runtime(node.clone(), inbox.clone()));
    Pods { inbox }
}

async fn follow_runtime(node: Arc<NodeContext>, inbox: Arc<Inbox>) {
    loop {
        match node.runtime.events().await {
            Ok(mut events) => {
                // Whatever was missed before the stream stood.
                inbox.add(|news| {
                    news.hints.insert(String::new());
                });
                while let Some(event) = events.next().await {
                    let sandbox = event.pod_sandbox_status.unwrap_or_default();
                    let uid = sandbox.metadata.map(|metadata| metadata.uid).unwrap_or_default();
                    inbox.add(|news| {
                        news.hints.insert(uid);
                    });
                }
            }
            Err(status) => tracing::debug!(error = status.message(), "the runtime tells no events"),
        }
        tokio::time::sleep(EVENTS_RETRY).await;
    }
}

impl Router {
    async fn run(mut self) {
        self.subscribe();
        let pods = resource_of::<Pod>();
        while !self.node.view.is_synced(&pods) {
            tokio::time::sleep(SYNC_LOOK).await;
        }
        loop {
            let news = std::mem::take(&mut *self.inbox.news.lock());
            self.handle(news).await;
            tokio::select! {
                () = self.inbox.notify.notified() => {}
                () = tokio::time::sleep(ORPHANS_LOOK) => self.adopt_orphans().await,
            }
        }
    }

    fn subscribe(&self) {
        let own = self.node.options.node_name.clone();
        let (inbox, runtime) = (self.inbox.clone(), self.node.runtime.clone());
        let sink = move |_: &Resource, change: &Change| {
            if change.old.is_none() {
                // Its own pods or one that nobody has yet: where it goes is known too late to get ready then.
                runtime.warm();
            }
            let mut either = [&change.new, &change.old].into_iter().flatten();
            if let Some(object) = either.find(|object| *PodFacts::of(object).node == *own) {
                inbox.add(|news| {
                    news.pods.insert(key(object));
                });
            }
        };
        self.node.view.subscribe(&resource_of::<Pod>(), Arc::new(sink));
        for resource in [resource_of::<ConfigMap>(), resource_of::<Secret>()] {
            let inbox = self.inbox.clone();
            let sink = move |_: &Resource, change: &Change| {
                if let Some(object) = change.new.as_ref().or(change.old.as_ref()) {
                    let name = (object.meta.namespace.clone(), object.meta.name.clone());
                    inbox.add(|news| {
                        news.sources.insert(name);
                    });
                }
            };
            self.node.view.subscribe(&resource, Arc::new(sink));
        }
        self.inbox.add(|news| {
            news.hints.insert(String::new());
        });
    }

    async fn handle(&mut self, news: News) {
        for uid in &news.ended {
            self.workers.remove(uid);
        }
        self.leave(news.leave).await;
        for key in &news.pods {
            self.route(key).await;
        }
        for (namespace, name) in &news.sources {
            self.refresh(namespace, name).await;
        }
        if news.hints.contains("") {
            self.adopt_orphans().await;
        }
        for uid in &news.hints {
            let all = uid.is_empty();
            let told: Vec<_> = match all {
                true => self.workers.values().map(|worker| worker.mailbox.clone()).collect(),
                false => self.workers.get(uid).map(|worker| worker.mailbox.clone()).into_iter().collect(),
            };
            for mailbox in told {
                let _ = mailbox.send(Event::Hint).await;
            }
        }
    }

    /// Tells every pod that the node goes down; once none is left, those who wait for it.
    async fn leave(&mut self, asked: Vec<Leave>) {
        for Leave { grace_seconds_max, done } in asked {
            self.course = Course::GoesDown;
            self.waiting.push(done);
            for worker in self.workers.values() {
                // One that has just ended needs no word.
                let _ = worker.mailbox.send(Event::Leave { grace_seconds_max }).await;
            }
        }
        if self.workers.is_empty() {
            self.waiting.clear();
        }
    }

    async fn route(&mut self, key: &PodKey) {
        let object = self.node.view.get(&resource_of::<Pod>(), &key.namespace, &key.name);
        let pod = object.filter(|object| object.meta.uid == key.uid).and_then(|object| object.decode::<Pod>().ok());
        match (self.workers.get(&key.uid), pod) {
            (Some(worker), pod) => {
                let ended = worker.mailbox.send(Event::Pod(pod.clone())).await.is_err();
                if let (true, Some(pod)) = (ended, pod) {
                    self.employ(pod, Presence::InApi);
                }
            }
            (None, Some(pod)) => self.employ(pod, Presence::InApi),
            (None, None) => {}
        }
    }

    fn employ(&mut self, pod: Arc<Pod>, presence: Presence) {
        if self.course == Course::GoesDown {
            return;
        }
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if presence == Presence::InApi {
            self.node.runtime.warm();
        }
        let rejection = if presence == Presence::InApi { self.reject(&pod) } else { None };
        let inbox = self.inbox.clone();
        let on_end = Box::new(move |uid: String| {
            inbox.add(|news| {
                news.ended.insert(uid);
            })
        });
        self.workers.insert(uid, worker::start(&self.node, pod, presence, rejection, on_end));
    }

    /// Whether a pod that was never started here finds no room beside those that were taken before it.
    fn reject(&self, pod: &Pod) -> Option<Rejection> {
        let told = pod.status.as_ref();
        if told.is_some_and(|status| status.start_time.is_some()) || has_ended(pod) {
            return None;
        }
        let here = self.node.view.by_index(&resource_of::<Pod>(), Index::Node, &self.node.options.node_name);
        let own = pod.metadata.uid.as_deref().unwrap_or_default();
        let is_taken = |other: &&Arc<Object>| other.meta.uid != own && self.workers.contains_key(&other.meta.uid);
        let taken = || here.iter().filter(is_taken).filter(|other| !PodFacts::of(other).is_finished());
        let others = || taken().filter_map(|other| other.decode::<Pod>().ok()).collect::<Vec<_>>();
        coracle_podlife::reject(pod, taken().count(), others, &self.node.allocatable)
    }

    /// Pods that name the object somewhere look at their volumes again; to be named for another reason does no harm.
    async fn refresh(&self, namespace: &str, name: &str) {
        if self.workers.is_empty() {
            return;
        }
        let quoted = format!("\"{name}\"").into_bytes();
        for pod in self.node.view.by_index(&resource_of::<Pod>(), Index::Node, &self.node.options.node_name) {
            let named = pod.meta.namespace == namespace && contains(&pod.bytes, &quoted);
            if let Some(worker) = self.workers.get(&pod.meta.uid).filter(|_| named) {
                let _ = worker.mailbox.send(Event::Refresh).await;
            }
        }
    }

    /// Sandboxes and containers of pods that the API does not know any more are torn down.
    async fn adopt_orphans(&mut self) {
        let (sandboxes, containers) = (
            self.node.runtime.list_pod_sandbox(Default::default()).await,
            self.node.runtime.list_containers(Default::default()).await,
        );
        let (Ok(sandboxes), Ok(containers)) = (sandboxes, containers) else { return };
        let labels = sandboxes.into_iter().map(|one| one.labels).chain(containers.into_iter().map(|one| one.labels));
        let known = self.node.view.by_index(&resource_of::<Pod>(), Index::Node, &self.node.options.node_name);
        for labels in labels {
            let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
            let uid = label(POD_UID);
            let is_known = known.iter().any(|pod| pod.meta.uid == uid);
            if uid.is_empty() || self.workers.contains_key(&uid) || is_known {
                continue;
            }
            let mut pod = Pod::default();
            pod.metadata.name = Some(label(POD_NAME));
            pod.metadata.namespace = Some(label(POD_NAMESPACE));
            pod.metadata.uid = Some(uid);
            self.employ(Arc::new(pod), Presence::Gone);
        }
    }
}

fn key(object: &Object) -> PodKey {
    PodKey { namespace: object.meta.namespace.clone(), name: object.meta.name.clone(), uid: object.meta.uid.clone() }
}

pub(crate) fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}
