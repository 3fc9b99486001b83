//! The machines, played: a scheduler that binds pods to nodes, kubelets that run them, tell their status, end jobs'
//! containers as a scenario wants it, and renew their leases; and nodes that die.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coracle_client::{Client, DeleteOptions, ObjectPath, Patch, ResourceRef, WriteOptions};
use coracle_meta::Resource;
use coracle_reconcile::{Change, View};
use coracle_rt::{Clock, Dice, Scope};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::weather::millis;
use crate::world::{Setup, json_of};

const PODS: Resource = Resource::new("", "pods");
const NODES: Resource = Resource::new("", "nodes");
const LEASES: Resource = Resource::new("coordination.k8s.io", "leases");
const HEARTBEAT: Duration = Duration::from_secs(10);
const DELAY_MS_MAX: u64 = 3000;

/// The exit code of a pod that is to end; `None` lets it run.
pub type Exit = Arc<dyn Fn(&Value) -> Option<i64> + Send + Sync>;

pub struct Cluster {
    client: Client,
    view: Arc<dyn View>,
    clock: Clock,
    dice: Dice,
    wake: Arc<Notify>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    dead: BTreeSet<String>,
    exit: Option<Exit>,
    /// When a pod takes its next step, by uid and step.
    due: BTreeMap<(String, &'static str), Instant>,
    addresses: u32,
    ended: BTreeMap<String, (String, i64)>,
}

impl Cluster {
    pub async fn start(
        client: Client,
        view: Arc<dyn View>,
        clock: Clock,
        setup: &Setup,
        scope: &Scope,
    ) -> Arc<Cluster> {
        let dice = Dice::seeded(setup.seed ^ 0x6e6f_6465);
        let (wake, state) = (Arc::new(Notify::new()), Mutex::default());
        let cluster = Arc::new(Cluster { client, view, clock, dice, wake, state });
        for number in 0..setup.nodes {
            cluster.add_node(&format!("node-{number}")).await;
        }
        for resource in [PODS, NODES] {
            let wake = cluster.wake.clone();
            cluster.view.subscribe(&resource, Arc::new(move |_: &Resource, _: &Change| wake.notify_one()));
        }
        scope.spawn_until_cancelled("kubelets", cluster.clone().run_pods());
        scope.spawn_until_cancelled("heartbeats", cluster.clone().beat());
        cluster
    }

    pub async fn add_node(&self, name: &str) {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name,
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}}});
        let options = WriteOptions::default();
        let _ = self.client.create(&ResourceRef::from(&NODES), "", &node, &options).await;
        let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40}});
        let _ = self.client.create(&ResourceRef::from(&LEASES), "kube-node-lease", &lease, &options).await;
        self.beat_of(name).await;
    }

    /// The machine is gone: nothing on it is heard of again until it is revived.
    pub fn kill(&self, node: &str) {
        self.state.lock().dead.insert(node.into());
    }

    pub fn revive(&self, node: &str) {
        self.state.lock().dead.remove(node);
        self.wake.notify_one();
    }

    /// How pods end that are meant to.
    pub fn exits(&self, exit: impl Fn(&Value) -> Option<i64> + Send + Sync + 'static) {
        self.state.lock().exit = Some(Arc::new(exit));
        self.wake.notify_one();
    }

    /// Pods that ended by themselves, by uid: name and exit code.
    pub fn ended(&self) -> BTreeMap<String, (String, i64)> {
        self.state.lock().ended.clone()
    }

    async fn beat(self: Arc<Self>) {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            for node in self.view.list(&NODES, None) {
                if !self.state.lock().dead.contains(&node.meta.name) {
                    self.beat_of(&node.meta.name).await;
                }
            }
        }
    }

    async fn beat_of(&self, node: &str) {
        let now = self.clock.now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
        let path = ObjectPath::new(ResourceRef::from(&LEASES), "kube-node-lease", node);
        let renewed = Patch::Merge(json!({"spec": {"renewTime": now}}));
        let _ = self.client.patch(&path, &renewed, &WriteOptions::default()).await;
        let known = self.view.get(&NODES, "", node).map(|node| json_of(&node)).unwrap_or_default();
        let conditions = known["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True") {
            return;
        }
        let status = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
            "message": "kubelet is posting ready status"}], "allocatable": {"cpu": "64", "memory": "64Gi", "pods": "110"},
            "capacity": {"cpu": "64", "memory": "64Gi", "pods": "110"}}});
        let path = ObjectPath::new(ResourceRef::from(&NODES), "", node).subresource("status");
        let _ = self.client.patch(&path, &Patch::Merge(status), &WriteOptions::default()).await;
    }

    async fn run_pods(self: Arc<Self>) {
        loop {
            let mut next: Option<Instant> = None;
            for pod in self.view.list(&PODS, None) {
                let pod = json_of(&pod);
                let Some(step) = self.step(&pod) else { continue };
                let due = self.due(&pod, step);
                if due <= Instant::now() {
                    self.take(&pod, step).await;
                    next = Some(Instant::now() + Duration::from_millis(5));
                } else {
                    next = Some(next.map_or(due, |next| next.min(due)));
                }
            }
            match next {
                None => self.wake.notified().await,
                Some(at) => drop(tokio::time::timeout_at(at, self.wake.notified()).await),
            }
        }
    }

    fn due(&self, pod: &Value, step: &'static str) -> Instant {
        let uid = text(pod, "/metadata/uid");
        let delay = || Instant::now() + millis(&self.dice, DELAY_MS_MAX);
        *self.state.lock().due.entry((uid, step)).or_insert_with(delay)
    }

    /// What is next in a pod's life.
    fn step(&self, pod: &Value) -> Option<&'static str> {
        let node = text(pod, "/spec/nodeName");
        let (state, phase) = (self.state.lock(), text(pod, "/status/phase"));
        let over = phase == "Succeeded" || phase == "Failed";
        let is_going = pod["metadata"]["deletionTimestamp"].is_string();
        if node.is_empty() {
            return (!is_going && self.node_for(pod, &state.dead).is_some()).then_some("bind");
        }
        if state.dead.contains(&node) {
            return None;
        }
        match (is_going, over) {
            (true, false) if text(pod, "/metadata/finalizers/0").is_empty() => Some("remove"),
            (true, false) => Some("stop"),
            (true, true) if pod["metadata"]["deletionGracePeriodSeconds"] != 0 => Some("remove"),
            (_, true) => None,
            (false, false) if phase != "Running" || !is_ready(pod) => Some("run"),
            (false, false) => state.exit.as_ref().and_then(|exit| exit(pod)).map(|_| "exit"),
        }
    }

    async fn take(&self, pod: &Value, step: &'static str) {
        let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
        let path = ObjectPath::new(ResourceRef::from(&PODS), &namespace, &name);
        let options = WriteOptions::default();
        self.state.lock().due.remove(&(text(pod, "/metadata/uid"), step));
        match step {
            "bind" => {
                let dead = self.state.lock().dead.clone();
                let Some(node) = self.node_for(pod, &dead) else { return };
                let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name,
                    "uid": pod["metadata"]["uid"]}, "target": {"kind": "Node", "name": node}});
                let _ = self.client.create_sub(&path.subresource("binding"), &binding).await;
            }
            "run" => drop(self.client.patch(&path.subresource("status"), &self.running(pod), &options).await),
            "exit" => self.exit(pod, &path).await,
            "stop" => {
                let status = json!({"status": {"phase": "Failed", "conditions": ready(pod, "False", self.now())}});
                let _ = self.client.patch(&path.subresource("status"), &Patch::Merge(status), &options).await;
            }
            _ => {
                let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
                let _ = self.client.delete(&path, &now).await;
            }
        }
    }

    async fn exit(&self, pod: &Value, path: &ObjectPath) {
        let code = self.state.lock().exit.as_ref().and_then(|exit| exit(pod)).unwrap_or(0);
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let terminated = json!({"exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" },
            "startedAt": self.now(), "finishedAt": self.now()});
        let containers: Vec<Value> = containers(pod, |name| {
            json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "started": false,
                "state": {"terminated": terminated}})
        });
        let status = json!({"status": {"phase": phase, "conditions": ready(pod, "False", self.now()),
            "containerStatuses": containers}});
        let (path, options) = (path.clone().subresource("status"), WriteOptions::default());
        if self.client.patch(&path, &Patch::Merge(status), &options).await.is_ok() {
            let name = text(pod, "/metadata/name");
            self.state.lock().ended.insert(text(pod, "/metadata/uid"), (name, code));
        }
    }

    fn running(&self, pod: &Value) -> Patch {
        let mut ip = text(pod, "/status/podIP");
        if ip.is_empty() {
            let mut state = self.state.lock();
            state.addresses += 1;
            ip = format!("10.1.{}.{}", state.addresses / 250, 1 + state.addresses % 250);
        }
        let containers: Vec<Value> = containers(pod, |name| {
            json!({"name": name, "image": "i", "imageID": "", "ready": true, "restartCount": 0, "started": true,
                "state": {"running": {"startedAt": self.now()}}})
        });
        Patch::Merge(
            json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": self.now(),
            "hostIP": "192.0.2.7", "hostIPs": [{"ip": "192.0.2.7"}],
            "conditions": ready(pod, "True", self.now()), "containerStatuses": containers}}),
        )
    }

    fn now(&self) -> String {
        self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// A living node whose taints the pod tolerates; the one that the pod is pinned to, where it is.
    fn node_for(&self, pod: &Value, dead: &BTreeSet<String>) -> Option<String> {
        let pinned = text(
            pod,
            "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0",
        );
        let fits = |node: &Arc<Value>| {
            let name = text(node, "/metadata/name");
            let tainted = node["spec"]["taints"].as_array().into_iter().flatten();
            !dead.contains(&name)
                && (pinned.is_empty() || pinned == name)
                && tainted.filter(|taint| taint["effect"] != "PreferNoSchedule").all(|taint| tolerates(pod, taint))
        };
        let nodes = self.view.list(&NODES, None).iter().map(|node| json_of(node)).filter(fits).collect::<Vec<_>>();
        let at = self.dice.below(nodes.len() as u64) as usize;
        nodes.get(at).map(|node| text(node, "/metadata/name"))
    }
}

fn tolerates(pod: &Value, taint: &Value) -> bool {
    pod["spec"]["tolerations"].as_array().into_iter().flatten().any(|toleration| {
        let matches =
            |field: &str| toleration[field].is_null() || toleration[field] == "" || toleration[field] == taint[field];
        matches("key") && matches("effect")
    })
}

fn containers(pod: &Value, status: impl Fn(&str) -> Value) -> Vec<Value> {
    let all = pod["spec"]["containers"].as_array().into_iter().flatten();
    all.map(|container| status(container["name"].as_str().unwrap_or_default())).collect()
}

fn is_ready(pod: &Value) -> bool {
    let all = pod["status"]["conditions"].as_array().into_iter().flatten();
    all.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// The pod's conditions with this readiness.
fn ready(pod: &Value, status: &str, now: String) -> Vec<Value> {
    let all = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let mut all: Vec<Value> = all.into_iter().filter(|condition| condition["type"] != "Ready").collect();
    all.push(json!({"type": "Ready", "status": status, "lastTransitionTime": now}));
    all
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}
