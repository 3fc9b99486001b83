//! A cluster's objects in memory that carry plans out on themselves, so that a table of cases can check what a plan
//! leads to and that a plan carried out gives the empty plan.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_meta::{GroupVersionKind, Object, Resource};
use coracle_reconcile::{Answer, Ask, Controller, Index, Key, Known, ObjectTable, Outcome, Plan, Sink, View, Write};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::witness::Witness;

/// Plans in a row after which a controller is taken to chase its own tail.
const PLANS_MAX: usize = 30;

/// Tables by resource; every write takes the next revision.
#[derive(Default)]
pub struct FakeView {
    state: Mutex<State>,
    known: Mutex<Vec<Known>>,
    steady: Mutex<Duration>,
}

#[derive(Default)]
struct State {
    tables: BTreeMap<Resource, ObjectTable>,
    revision: u64,
}

impl FakeView {
    pub fn new() -> FakeView {
        FakeView::default()
    }

    /// Adds an object as it stands; a missing uid is its name with `-uid`.
    pub fn with(self, resource: Resource, object: Value) -> FakeView {
        self.put(&resource, object);
        self
    }

    pub fn knowing(self, resource: Resource, kind: GroupVersionKind, namespaced: bool) -> FakeView {
        self.known.lock().push(Known { resource, kind, namespaced });
        self
    }

    /// Sets the clock that nobody sets.
    pub fn at(&self, steady: Duration) -> &FakeView {
        *self.steady.lock() = steady;
        self
    }

    pub fn put(&self, resource: &Resource, mut object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let meta = object["metadata"].as_object_mut().expect("an object has metadata");
        meta.remove("resourceVersion");
        meta.entry("uid").or_insert_with(|| json!(format!("{name}-uid")));
        meta.entry("creationTimestamp").or_insert_with(|| json!("2026-01-01T00:00:00Z"));
        let mut state = self.state.lock();
        state.revision += 1;
        let object = Object::new(object.to_string().into(), state.revision).expect("made from a tree");
        state.tables.entry(resource.clone()).or_insert_with(|| ObjectTable::of(resource)).put(object);
    }

    pub fn remove(&self, resource: &Resource, namespace: &str, name: &str) {
        let mut state = self.state.lock();
        state.revision += 1;
        let revision = state.revision;
        let table = state.tables.entry(resource.clone()).or_insert_with(|| ObjectTable::of(resource));
        table.remove(&Key::new(namespace, name), revision);
    }

    /// The object as a tree, null where there is none.
    pub fn json(&self, resource: &Resource, namespace: &str, name: &str) -> Value {
        let found = self.get(resource, namespace, name);
        found.and_then(|object| serde_json::from_slice(&object.json()).ok()).unwrap_or(Value::Null)
    }

    pub fn names(&self, resource: &Resource) -> Vec<String> {
        self.list(resource, None).iter().map(|object| object.meta.name.clone()).collect()
    }

    /// Carries the writes of a plan out; asks and events are left to the test.
    pub fn apply(&self, plan: &Plan) {
        for write in &plan.writes {
            self.write(write);
        }
    }

    /// Decides and applies until the plan holds no more writes, and answers every plan that did. A question about a
    /// single object is answered from the view itself, others are not.
    pub fn settle(&self, controller: &dyn Controller, key: &Key, now: Timestamp) -> Vec<Plan> {
        let (mut plans, mut last) = (Vec::new(), Outcome::default());
        loop {
            let plan = controller.decide(self, key, &last, now);
            let answers: Option<Vec<Answer>> = plan.asks.iter().map(|ask| self.answer(ask)).collect();
            let asked = std::mem::take(&mut last.asked);
            if plan.writes.is_empty() {
                match answers.filter(|_| !plan.asks.is_empty() && plan.asks != asked) {
                    Some(answers) => last = Outcome { asked: plan.asks, answers, ..Outcome::default() },
                    None => return plans,
                }
                continue;
            }
            self.apply(&plan);
            plans.push(plan);
            assert!(plans.len() < PLANS_MAX, "{} does not settle: {:#?}", controller.name(), plans.last());
        }
    }

    fn answer(&self, ask: &Ask) -> Option<Answer> {
        let Ask::Read { resource, namespace, name } = ask else { return None };
        let found = self.json(resource, namespace, name);
        Some(Answer::Object(Some(found).filter(|found| !found.is_null())))
    }

    fn write(&self, write: &Write) {
        match write {
            Write::Create { resource, namespace, object } => self.create(resource, namespace, object.clone()),
            Write::Patch { resource, namespace, name, uid, patch, .. } => {
                let mut object = self.json(resource, namespace, name);
                assert!(!object.is_null(), "patch of {resource} {name}, which is not there");
                assert_eq!(object["metadata"]["uid"], json!(uid), "patch of another {name}");
                let spec = object["spec"].clone();
                merge(&mut object, patch);
                if object["spec"] != spec {
                    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
                    object["metadata"]["generation"] = json!(generation);
                }
                self.put_or_drop(resource, object);
            }
            Write::Replace { resource, object, .. } => self.put_or_drop(resource, object.clone()),
            Write::Delete { resource, namespace, name, .. } => {
                let mut object = self.json(resource, namespace, name);
                if object.is_null() {
                    return;
                }
                object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                self.put_or_drop(resource, object);
            }
        }
    }

    fn create(&self, resource: &Resource, namespace: &str, mut object: Value) {
        let number = self.state.lock().revision + 1;
        let meta = object["metadata"].as_object_mut().expect("an object has metadata");
        if !meta.contains_key("name") {
            let prefix = meta.get("generateName").and_then(Value::as_str).unwrap_or_default().to_owned();
            meta.insert("name".into(), json!(format!("{prefix}{number:05}")));
        }
        if !namespace.is_empty() {
            meta.insert("namespace".into(), json!(namespace));
        }
        meta.insert("uid".into(), json!(format!("uid-{number}")));
        meta.insert("generation".into(), json!(1));
        self.put(resource, object);
    }

    /// A deleted object without finalizers is gone.
    fn put_or_drop(&self, resource: &Resource, object: Value) {
        let meta = &object["metadata"];
        let holds = |list: &Value| list.as_array().is_some_and(|held| !held.is_empty());
        let held = holds(&meta["finalizers"]) || holds(&object["spec"]["finalizers"]);
        if meta["deletionTimestamp"].is_string() && !held {
            let text = |key: &str| meta[key].as_str().unwrap_or_default();
            self.remove(resource, text("namespace"), text("name"));
        } else {
            self.put(resource, object);
        }
    }

    fn table<T: Default>(&self, resource: &Resource, read: impl FnOnce(&ObjectTable) -> T) -> T {
        self.state.lock().tables.get(resource).map(read).unwrap_or_default()
    }
}

impl View for FakeView {
    fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.table(resource, |table| table.get(namespace, name))
    }

    fn list(&self, resource: &Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.table(resource, |table| table.list(namespace))
    }

    fn by_index(&self, resource: &Resource, index: Index, value: &str) -> Vec<Arc<Object>> {
        self.table(resource, |table| table.by_index(index, value))
    }

    fn revision(&self, _resource: &Resource) -> u64 {
        self.state.lock().revision.max(1)
    }

    /// A fake tells nobody: tests ask it again.
    fn subscribe(&self, _resource: &Resource, _sink: Sink) {}

    fn known(&self) -> Arc<[Known]> {
        self.known.lock().clone().into()
    }

    fn steady(&self) -> Duration {
        *self.steady.lock()
    }
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            members.remove(key);
        } else {
            merge(members.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
