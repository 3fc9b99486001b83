//! A view that lags behind the server's cache by chance, and whose hints come merged, twice, late or out of order. Per
//! resource the order of what it shows is kept and the last state of every object arrives, as any watch promises.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use coracle_meta::{Object, Resource};
use coracle_reconcile::{Change, Index, Key, Sink, View};
use coracle_rt::{Dice, Scope};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::weather::{Weather, millis, strikes};

const PODS: Resource = Resource::new("", "pods");

pub struct LagView {
    inner: Arc<dyn View>,
    state: Arc<Mutex<State>>,
    wake: Arc<Notify>,
}

struct State {
    weather: Weather,
    dice: Dice,
    tables: BTreeMap<Resource, Table>,
    late: Vec<(Instant, Resource, Change)>,
}

#[derive(Default)]
struct Table {
    objects: BTreeMap<Key, Arc<Object>>,
    nodes: BTreeMap<Key, String>,
    pending: VecDeque<Pending>,
    /// The first objects come at once, the changes after them late.
    opening: bool,
    synced: bool,
    revision: u64,
    sinks: Vec<Sink>,
}

struct Pending {
    due: Instant,
    key: Key,
    new: Option<Arc<Object>>,
    revision: u64,
}

impl LagView {
    /// Its task ends with the scope.
    pub fn new(inner: Arc<dyn View>, weather: Weather, dice: Dice, scope: &Scope) -> Arc<LagView> {
        let state = State { weather, dice, tables: BTreeMap::new(), late: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let wake = Arc::new(Notify::new());
        scope.spawn_until_cancelled("lag", deliver_all(state.clone(), wake.clone()));
        Arc::new(LagView { inner, state, wake })
    }

    fn open(&self, resource: &Resource) {
        let mut state = self.state.lock();
        if state.tables.contains_key(resource) {
            return;
        }
        state.tables.insert(resource.clone(), Table { opening: true, ..Table::default() });
        drop(state);
        let (shared, wake, inner) = (self.state.clone(), self.wake.clone(), self.inner.clone());
        let sink = move |resource: &Resource, change: &Change| {
            shared.lock().receive(resource, change, inner.revision(resource));
            wake.notify_one();
        };
        self.inner.subscribe(resource, Arc::new(sink));
        if let Some(table) = self.state.lock().tables.get_mut(resource) {
            table.opening = false;
        }
    }

    fn read<T>(&self, resource: &Resource, read: impl FnOnce(&mut Table) -> T) -> T {
        self.open(resource);
        read(self.state.lock().tables.entry(resource.clone()).or_default())
    }
}

impl State {
    fn receive(&mut self, resource: &Resource, change: &Change, revision: u64) {
        let lag = millis(&self.dice, self.weather.lag_ms_max);
        let Some(table) = self.tables.get_mut(resource) else { return };
        let Some(object) = change.new.as_ref().or(change.old.as_ref()) else { return };
        let pending = Pending { due: Instant::now() + lag, key: Key::of(object), new: change.new.clone(), revision };
        if table.opening {
            table.apply(pending);
        } else {
            table.pending.push_back(pending);
        }
    }

    /// What is due by now: whom to tell what.
    fn take_due(&mut self, now: Instant) -> Vec<(Sink, Resource, Change)> {
        let mut told = Vec::new();
        let (dice, weather) = (&self.dice, &self.weather);
        for (resource, table) in &mut self.tables {
            while table.pending.front().is_some_and(|pending| pending.due <= now) {
                let Some(pending) = table.pending.pop_front() else { break };
                let follows = table.pending.iter().any(|later| later.key == pending.key);
                if follows && strikes(dice, weather.merged_hints) {
                    continue;
                }
                let Some(change) = table.apply(pending) else { continue };
                if strikes(dice, weather.repeated_hints) {
                    let again = Change { old: change.new.clone(), new: change.new.clone() };
                    self.late.push((now + millis(dice, weather.lag_ms_max), resource.clone(), again));
                }
                if strikes(dice, weather.late_hints) {
                    self.late.push((now + millis(dice, weather.lag_ms_max), resource.clone(), change));
                } else {
                    told.extend(table.sinks.iter().map(|sink| (sink.clone(), resource.clone(), change.clone())));
                }
            }
        }
        let (due, rest) = std::mem::take(&mut self.late).into_iter().partition(|(at, ..)| *at <= now);
        self.late = rest;
        for (_, resource, change) in due {
            let sinks = self.tables.get(&resource).into_iter().flat_map(|table| &table.sinks);
            told.extend(sinks.map(|sink| (sink.clone(), resource.clone(), change.clone())));
        }
        told
    }

    fn next_due(&self) -> Option<Instant> {
        let tables = self.tables.values().filter_map(|table| Some(table.pending.front()?.due));
        tables.chain(self.late.iter().map(|(at, ..)| *at)).min()
    }
}

async fn deliver_all(state: Arc<Mutex<State>>, wake: Arc<Notify>) {
    loop {
        let due = state.lock().next_due();
        match due {
            None => wake.notified().await,
            Some(at) if at <= Instant::now() => {
                let told = state.lock().take_due(Instant::now());
                for (sink, resource, change) in told {
                    sink(&resource, &change);
                }
            }
            Some(at) => drop(tokio::time::timeout_at(at, wake.notified()).await),
        }
    }
}

impl Table {
    fn apply(&mut self, pending: Pending) -> Option<Change> {
        let Pending { key, new, revision, .. } = pending;
        self.revision = self.revision.max(revision);
        self.nodes.remove(&key);
        let old = match &new {
            Some(object) => {
                if let Some(node) = node_of(object) {
                    self.nodes.insert(key.clone(), node);
                }
                self.objects.insert(key, object.clone())
            }
            None => self.objects.remove(&key),
        };
        (old.is_some() || new.is_some()).then_some(Change { old, new })
    }
}

impl View for LagView {
    fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.read(resource, |table| table.objects.get(&Key::new(namespace, name)).cloned())
    }

    fn list(&self, resource: &Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let within = |key: &Key| namespace.is_none_or(|namespace| namespace.is_empty() || key.namespace == namespace);
        self.read(resource, |table| {
            table.objects.iter().filter(|(key, _)| within(key)).map(|(_, object)| object.clone()).collect()
        })
    }

    fn by_index(&self, resource: &Resource, index: Index, value: &str) -> Vec<Arc<Object>> {
        self.read(resource, |table| match index {
            Index::Owner => {
                let owned = |object: &Object| object.meta.owner_references.iter().any(|owner| owner.uid == value);
                table.objects.values().filter(|object| owned(object)).cloned().collect()
            }
            Index::Uncontrolled => {
                let loose = |object: &Object| object.meta.namespace == value && object.meta.controller().is_none();
                table.objects.values().filter(|object| loose(object)).cloned().collect()
            }
            Index::Node if *resource != PODS => Vec::new(),
            Index::Node => {
                let keys = table.nodes.iter().filter(|(_, node)| *node == value);
                keys.filter_map(|(key, _)| table.objects.get(key).cloned()).collect()
            }
        })
    }

    fn revision(&self, resource: &Resource) -> u64 {
        let behind = self.inner.revision(resource);
        self.read(resource, |table| {
            if table.pending.is_empty() {
                // Nothing is under way: as after a bookmark, all is known up to where the server's own view is.
                table.synced |= behind > 0;
                table.revision = table.revision.max(behind);
            }
            if table.synced { table.revision.max(1) } else { 0 }
        })
    }

    fn subscribe(&self, resource: &Resource, sink: Sink) {
        let present = self.read(resource, |table| {
            table.sinks.push(sink.clone());
            table.objects.values().cloned().collect::<Vec<_>>()
        });
        for object in present {
            sink(resource, &Change { old: None, new: Some(object) });
        }
    }
}

/// `spec.nodeName`, without decoding the rest.
fn node_of(object: &Object) -> Option<String> {
    #[derive(Deserialize)]
    struct Outer {
        kind: Option<String>,
        spec: Option<Spec>,
    }
    #[derive(Deserialize)]
    struct Spec {
        #[serde(rename = "nodeName")]
        node_name: Option<String>,
    }
    let outer: Outer = serde_json::from_slice(&object.bytes).ok()?;
    outer.kind.filter(|kind| kind == "Pod")?;
    outer.spec?.node_name.filter(|name| !name.is_empty())
}
