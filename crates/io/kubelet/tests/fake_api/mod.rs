//! An API server made of a map: objects by path, merged naively, told to a view.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use coracle_client::{Body, Client, Transport};
use coracle_meta::{Object, Resource};
use coracle_reconcile::View;
use coracle_reconcile::view::{Change, Index, Sink};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use serde_json::{Value, json};

#[derive(Default)]
pub struct FakeApi {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    revision: u64,
    writes: usize,
    objects: BTreeMap<String, Value>,
    sinks: Vec<(Resource, Sink)>,
}

struct Wire(Arc<FakeApi>);

impl FakeApi {
    pub fn client(self: &Arc<Self>) -> Client {
        Client::new(Arc::new(Wire(self.clone())))
    }

    pub fn object(&self, path: &str) -> Option<Value> {
        self.state.lock().objects.get(path).cloned()
    }

    pub fn writes(&self) -> usize {
        self.state.lock().writes
    }

    /// Creates or replaces; a pod's status stays what it is.
    pub fn put(&self, object: Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let plural = format!("{}s", text(&object["kind"]).to_lowercase());
        let metadata = &object["metadata"];
        let name = text(&metadata["name"]);
        let path = match text(&metadata["namespace"]).as_str() {
            "" => format!("/api/v1/{plural}/{name}"),
            namespace => format!("/api/v1/namespaces/{namespace}/{plural}/{name}"),
        };
        self.state.lock().set(&path, Some(object));
    }

    pub fn delete(&self, path: &str, grace_seconds: i64) {
        let mut state = self.state.lock();
        let mut object = state.objects[path].clone();
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        object["metadata"]["deletionGracePeriodSeconds"] = json!(grace_seconds);
        state.set(path, Some(object));
    }

    /// Waits for an event with this reason.
    pub async fn event(&self, reason: &str) {
        for _ in 0..500 {
            if self.state.lock().objects.values().any(|object| object["reason"] == reason) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("no event {reason}");
    }

    fn answer(&self, request: &Request<Bytes>) -> (u16, Value) {
        let path = request.uri().path().to_owned();
        let mut body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let mut state = self.state.lock();
        let missing =
            (404, json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "message": "none", "code": 404}));
        let target = path.strip_suffix("/status").unwrap_or(&path).to_owned();
        match *request.method() {
            Method::GET => state.objects.get(&target).map_or(missing, |object| (200, object.clone())),
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or_default());
                state.writes += 1;
                body["metadata"]["uid"] = json!(format!("uid-{}", state.revision));
                state.set(&path, Some(body.clone()));
                (201, body)
            }
            Method::PATCH => {
                let Some(mut object) = state.objects.get(&target).cloned() else { return missing };
                merge(&mut object, &body);
                state.writes += 1;
                if state.objects[&target] != object {
                    state.set(&target, Some(object.clone()));
                }
                (200, object)
            }
            Method::DELETE => {
                state.set(&target, None);
                (200, json!({}))
            }
            _ => missing,
        }
    }
}

fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

impl State {
    fn set(&mut self, path: &str, object: Option<Value>) {
        self.revision += 1;
        let old = match &object {
            Some(object) => self.objects.insert(path.to_owned(), object.clone()),
            None => self.objects.remove(path),
        };
        let as_object = |value: &Value| Arc::new(Object::new(value.to_string().into(), self.revision).unwrap());
        let change = Change { old: old.as_ref().map(as_object), new: object.as_ref().map(as_object) };
        for (resource, sink) in &self.sinks {
            if path.contains(&format!("/{}/", resource.plural)) {
                sink(resource, &change);
            }
        }
    }

    fn list(&self, resource: &Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let of_namespace = namespace.map(|namespace| format!("/namespaces/{namespace}/")).unwrap_or_default();
        let part = format!("/{}/", resource.plural);
        let found = self.objects.iter().filter(|(path, _)| path.contains(&part) && path.contains(&of_namespace));
        found.map(|(_, value)| Arc::new(Object::new(value.to_string().into(), 1).unwrap())).collect()
    }
}

#[async_trait]
impl Transport for Wire {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, coracle_client::BodyError> {
        let (code, body) = self.0.answer(&request);
        let body = Full::new(Bytes::from(body.to_string())).map_err(|never| match never {}).boxed_unsync();
        Ok(Response::builder().status(code).body(body)?)
    }
}

impl View for FakeApi {
    fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let all = self.state.lock().list(resource, (!namespace.is_empty()).then_some(namespace));
        all.into_iter().find(|object| object.meta.name == name)
    }

    fn list(&self, resource: &Resource, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.state.lock().list(resource, namespace)
    }

    fn by_index(&self, resource: &Resource, _: Index, _: &str) -> Vec<Arc<Object>> {
        self.state.lock().list(resource, None)
    }

    fn revision(&self, _: &Resource) -> u64 {
        1
    }

    fn subscribe(&self, resource: &Resource, sink: Sink) {
        let mut state = self.state.lock();
        for object in state.list(resource, None) {
            sink(resource, &Change { old: None, new: Some(object) });
        }
        state.sinks.push((resource.clone(), sink));
    }
}
