//! The API that a kube-scheduler sees: lists and watches of what a case holds, and an ear for what the scheduler writes.
//! It is also the scheduler's extender, which is told the feasible nodes of every pod.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufReader, BufWriter};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::cases::PROBE;
use crate::http::{self, Request};

/// What is listed and watched: resource, group and version, kind.
const RESOURCES: [(&str, &str, &str); 19] = [
    ("pods", "v1", "Pod"),
    ("nodes", "v1", "Node"),
    ("namespaces", "v1", "Namespace"),
    ("services", "v1", "Service"),
    ("replicationcontrollers", "v1", "ReplicationController"),
    ("persistentvolumes", "v1", "PersistentVolume"),
    ("persistentvolumeclaims", "v1", "PersistentVolumeClaim"),
    ("configmaps", "v1", "ConfigMap"),
    ("replicasets", "apps/v1", "ReplicaSet"),
    ("statefulsets", "apps/v1", "StatefulSet"),
    ("poddisruptionbudgets", "policy/v1", "PodDisruptionBudget"),
    ("storageclasses", "storage.k8s.io/v1", "StorageClass"),
    ("csinodes", "storage.k8s.io/v1", "CSINode"),
    ("csidrivers", "storage.k8s.io/v1", "CSIDriver"),
    ("csistoragecapacities", "storage.k8s.io/v1", "CSIStorageCapacity"),
    ("volumeattachments", "storage.k8s.io/v1", "VolumeAttachment"),
    ("resourceclaims", "resource.k8s.io/v1", "ResourceClaim"),
    ("resourceslices", "resource.k8s.io/v1", "ResourceSlice"),
    ("deviceclasses", "resource.k8s.io/v1", "DeviceClass"),
];
pub const EXTENDER: &str = "/extender";
/// Events kept for watchers that begin at an earlier revision.
const TOLD_MAX: usize = 10_000;

/// What the scheduler lets be seen of its mind. Pods and nodes by name.
#[derive(Debug)]
pub enum Seen {
    Filtered {
        pod: String,
        feasible: Vec<String>,
    },
    Bound {
        pod: String,
        node: String,
    },
    Refused {
        pod: String,
        message: String,
        nominated: Option<String>,
    },
    Evicted {
        pod: String,
    },
    /// All evictions for the pod were asked for.
    MadeRoom {
        pod: String,
    },
    Score {
        pod: String,
        node: String,
        plugin: String,
        score: i64,
    },
    Total {
        pod: String,
        node: String,
        total: i64,
    },
    /// The scheduler ended; its last words.
    Ended(String),
}

#[derive(Default)]
struct State {
    revision: u64,
    /// By resource, then namespace and name.
    objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    watchers: Vec<(&'static str, Sender<String>)>,
    /// What watchers were told, by revision, for those that begin at an earlier one.
    told: VecDeque<(u64, &'static str, String)>,
    /// The last revision of which nothing is told any more.
    forgotten: u64,
}

pub struct Api {
    state: Mutex<State>,
    seen: Sender<Seen>,
}

enum Answer {
    Whole(u16, Value),
    Stream(Receiver<String>),
}

impl Api {
    /// Serves on a free port of this machine until the process ends.
    pub fn serve(seen: Sender<Seen>) -> io::Result<(Arc<Api>, SocketAddr)> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let api = Arc::new(Api { state: Mutex::default(), seen });
        let serving = api.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let api = serving.clone();
                std::thread::spawn(move || api.converse(&stream));
            }
        });
        Ok((api, address))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds or replaces an object and tells the watchers.
    pub fn put(&self, resource: &'static str, object: &Value) {
        self.state().put(resource, object.clone());
    }

    pub fn remove(&self, resource: &'static str, object: &Value) {
        let mut state = self.state();
        state.revision += 1;
        let revision = state.revision.to_string();
        if let Some(mut gone) = state.objects.entry(resource).or_default().remove(&key(object)) {
            gone["metadata"]["resourceVersion"] = revision.into();
            state.tell(resource, "DELETED", &gone);
        }
    }

    /// How many watches of a resource stand.
    pub fn watchers(&self, resource: &str) -> usize {
        self.state().watchers.iter().filter(|(watched, _)| *watched == resource).count()
    }

    /// How many watches of whatever stand.
    pub fn watches(&self) -> usize {
        self.state().watchers.len()
    }

    /// The pod is on the node from now on.
    pub fn bind(&self, pod: &Value, node: &str) {
        let mut bound = pod.clone();
        bound["spec"]["nodeName"] = node.into();
        self.put("pods", &bound);
    }

    fn converse(&self, stream: &TcpStream) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let mut from = BufReader::new(stream);
        let mut to = BufWriter::new(stream);
        loop {
            let request = Request::read(&mut from).ok()??;
            match self.answer(&request) {
                Answer::Whole(status, body) => http::answer(&mut to, status, &body).ok()?,
                Answer::Stream(pieces) => {
                    http::begin_stream(&mut to).ok()?;
                    for piece in pieces {
                        http::send_piece(&mut to, &piece).ok()?;
                    }
                    return None;
                }
            }
        }
    }

    fn answer(&self, request: &Request) -> Answer {
        if request.path.starts_with(EXTENDER) {
            return Answer::Whole(200, self.extend(&request.json()));
        }
        let segments: Vec<&str> = request.path.trim_matches('/').split('/').collect();
        match (request.method.as_str(), segments.as_slice()) {
            ("GET", [.., resource]) => self.read(resource, &request.query),
            ("POST", [.., "events"]) => Answer::Whole(201, request.json()),
            (method, ["api", "v1", "namespaces", namespace, "pods", pod, rest @ ..]) => {
                self.write(&format!("{namespace}/{pod}"), (method, rest), request)
            }
            _ => not_found(),
        }
    }

    /// A write to a pod. Of one that is gone nothing can be said any more: a scheduler that was told its binding holds
    /// would count it for ever.
    fn write(&self, key: &str, (method, subresource): (&str, &[&str]), request: &Request) -> Answer {
        let Some(known) = self.state().objects.get("pods").and_then(|pods| pods.get(key)).cloned() else {
            return not_found();
        };
        let pod = known["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        match (method, subresource) {
            ("POST", ["binding"]) => {
                let node = request.json()["target"]["name"].as_str().unwrap_or_default().to_owned();
                self.hear(Seen::Bound { pod, node });
                Answer::Whole(201, success())
            }
            ("PATCH", ["status"]) => {
                self.hear_refusal(&known, &request.json()["status"]);
                Answer::Whole(200, with_type(&known, "v1", "Pod"))
            }
            ("DELETE", []) => {
                self.hear(Seen::Evicted { pod });
                Answer::Whole(200, success())
            }
            _ => not_found(),
        }
    }

    fn hear(&self, seen: Seen) {
        // Nobody listens any more when the comparison is over.
        let _ = self.seen.send(seen);
    }

    /// Keeps probes from being bound and lets everything else be.
    fn extend(&self, arguments: &Value) -> Value {
        let pod = arguments["Pod"]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let names = &arguments["NodeNames"];
        let feasible: Vec<String> =
            names.as_array().into_iter().flatten().filter_map(|name| Some(name.as_str()?.to_owned())).collect();
        let probe = pod.ends_with(PROBE);
        let refused: BTreeMap<&str, &str> = feasible.iter().map(|name| (name.as_str(), "a probe")).collect();
        let answer = match probe {
            true => json!({"NodeNames": [], "FailedAndUnresolvableNodes": refused}),
            false => json!({"NodeNames": names}),
        };
        self.hear(Seen::Filtered { pod, feasible });
        answer
    }

    fn read(&self, resource: &str, query: &str) -> Answer {
        let Some((resource, version, kind)) = RESOURCES.iter().find(|known| known.0 == resource) else {
            return not_found();
        };
        let mut state = self.state();
        let typed = |object: &Value| with_type(object, version, kind);
        let items: Vec<Value> =
            state.objects.get(resource).into_iter().flat_map(|all| all.values().map(typed)).collect();
        let revision = state.revision.to_string();
        if !query.contains("watch=") {
            let list = json!({"kind": format!("{kind}List"), "apiVersion": version,
                "metadata": {"resourceVersion": revision}, "items": items});
            return Answer::Whole(200, list);
        }
        let (to, pieces) = channel();
        if query.contains("sendInitialEvents=true") {
            let end = json!({"metadata": {"resourceVersion": revision,
                "annotations": {"k8s.io/initial-events-end": "true"}}});
            let first = items.iter().map(|item| event("ADDED", item));
            for piece in first.chain([event("BOOKMARK", &with_type(&end, version, kind))]) {
                let _ = to.send(piece);
            }
        } else if let Some(from) = parameter(query, "resourceVersion").and_then(|text| text.parse().ok()) {
            if from < state.forgotten {
                let _ = to.send(event("ERROR", &expired()));
                return Answer::Stream(pieces);
            }
            let missed = state.told.iter().filter(|(at, of, _)| *at > from && of == resource);
            for (_, _, piece) in missed {
                let _ = to.send(piece.clone());
            }
        }
        state.watchers.push((resource, to));
        Answer::Stream(pieces)
    }

    /// A patch tells of the nominated node only what changes.
    fn hear_refusal(&self, known: &Value, status: &Value) {
        let conditions = status["conditions"].as_array().into_iter().flatten();
        let mut refusals = conditions.filter(|condition| condition["type"] == "PodScheduled");
        if let Some(refusal) = refusals.next() {
            let nominated = status.get("nominatedNodeName").unwrap_or(&known["status"]["nominatedNodeName"]);
            let nominated = nominated.as_str().filter(|node| !node.is_empty()).map(ToOwned::to_owned);
            let pod = known["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let message = refusal["message"].as_str().unwrap_or_default().to_owned();
            self.hear(Seen::Refused { pod, message, nominated });
        }
    }
}

impl State {
    fn put(&mut self, resource: &'static str, mut object: Value) {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let was = self.objects.entry(resource).or_default().insert(key(&object), object.clone());
        self.tell(resource, if was.is_some() { "MODIFIED" } else { "ADDED" }, &object);
    }

    fn tell(&mut self, resource: &'static str, what: &str, object: &Value) {
        let Some((_, version, kind)) = RESOURCES.iter().find(|known| known.0 == resource) else { return };
        let piece = event(what, &with_type(object, version, kind));
        self.told.push_back((self.revision, resource, piece.clone()));
        if self.told.len() > TOLD_MAX
            && let Some((revision, ..)) = self.told.pop_front()
        {
            self.forgotten = revision;
        }
        self.watchers.retain(|(watched, to)| *watched != resource || to.send(piece.clone()).is_ok());
    }
}

fn event(what: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": what, "object": object}))
}

fn with_type(object: &Value, version: &str, kind: &str) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = version.into();
    object["kind"] = kind.into();
    object
}

fn key(object: &Value) -> String {
    let word = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
    format!("{}/{}", word("namespace"), word("name"))
}

/// A parameter of a query.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(known, _)| *known == name).map(|(_, value)| value)
}

fn expired() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": "Expired", "message": "too old resource version", "code": 410})
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})
}

fn not_found() -> Answer {
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": "NotFound", "message": "not found", "code": 404});
    Answer::Whole(404, status)
}
