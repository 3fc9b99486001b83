//! A whole kubelet on a runtime and an API that are made of maps.

#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

mod fake_api;
mod fake_runtime;

use std::sync::Arc;
use std::time::Duration;

use coracle_kubelet::{Connections, Kubelet, Options};
use coracle_rt::{Clock, Scope};
use fake_api::FakeApi;
use fake_runtime::FakeRuntime;
use serde_json::{Value, json};

struct Rig {
    scope: Scope,
    api: Arc<FakeApi>,
    runtime: Arc<FakeRuntime>,
    dir: std::path::PathBuf,
}

impl Rig {
    async fn start(name: &str) -> Rig {
        Rig::start_both(name).await.0
    }

    async fn start_both(name: &str) -> (Rig, Kubelet) {
        let dir = std::env::temp_dir().join(format!("coracle-kubelet-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let mut rig = Rig {
            scope: Scope::root(),
            api: Arc::new(FakeApi::default()),
            runtime: Arc::new(FakeRuntime::default()),
            dir,
        };
        let kubelet = rig.kubelet().await;
        (rig, kubelet)
    }

    /// Another life of the kubelet, on the same runtime and API.
    async fn kubelet(&mut self) -> Kubelet {
        self.scope = Scope::root();
        let options = Options::new("node-1", "192.0.2.1", &self.dir);
        let connections = Connections {
            view: self.api.clone(),
            client: self.api.client(),
            runtime: self.runtime.clone(),
            clock: Clock::system(),
        };
        Kubelet::start(&self.scope, options, connections).await.unwrap()
    }

    /// The pod, once it is as the predicate says.
    async fn pod(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..1000 {
            if let Some(pod) = self.api.object(&format!("/api/v1/namespaces/default/pods/{name}"))
                && is(&pod)
            {
                return pod;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what} never came: {:#?}", self.api.object(&format!("/api/v1/namespaces/default/pods/{name}")));
    }

    async fn gone(&self, name: &str) {
        for _ in 0..1000 {
            let path = format!("/api/v1/namespaces/default/pods/{name}");
            if self.api.object(&path).is_none() && self.runtime.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} stays: {:?}", self.runtime.calls());
    }
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1},
        "spec": {"nodeName": "node-1", "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
            "containers": [{"name": "main", "image": "demo:1"}]},
        "status": {"phase": "Pending", "qosClass": "BestEffort"},
    });
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

#[tokio::test]
async fn a_pod_runs_and_leaves_nothing_when_it_is_deleted() {
    let rig = Rig::start("runs").await;
    rig.api.put(pod("a", json!({"initContainers": [{"name": "first", "image": "demo:1"}]})));
    let waiting = rig.pod("a", "the init container", |pod| {
        pod["status"]["initContainerStatuses"][0]["state"]["running"].is_object()
    });
    let waiting = waiting.await;
    assert_eq!(waiting["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "PodInitializing");
    assert_eq!(waiting["status"]["phase"], "Pending");
    rig.runtime.exit("first", 0);
    let running = rig.pod("a", "readiness", is_ready).await;
    assert_eq!(running["status"]["phase"], "Running");
    assert_eq!(running["status"]["podIP"], "10.0.0.1");
    assert_eq!(running["status"]["hostIP"], "192.0.2.1");
    rig.api.delete("/api/v1/namespaces/default/pods/a", 30);
    rig.gone("a").await;
    assert!(!rig.dir.join("pods/uid-a").exists());
    let calls = rig.runtime.calls();
    assert_eq!(calls.iter().filter(|call| call.starts_with("create ")).count(), 2, "{calls:?}");
}

#[tokio::test]
async fn a_new_kubelet_takes_over_without_touching_anything() {
    let mut rig = Rig::start("adopts").await;
    rig.api.put(pod("a", json!({})));
    let before = rig.pod("a", "readiness", is_ready).await;
    rig.scope.close(Duration::from_secs(5)).await;
    let calls = rig.runtime.calls();
    rig.kubelet().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let after = rig.pod("a", "readiness", is_ready).await;
    assert_eq!(after["status"], before["status"]);
    assert_eq!(rig.runtime.calls(), calls);
}

#[tokio::test]
async fn what_ends_is_started_again_and_backs_off() {
    let rig = Rig::start("restarts").await;
    rig.api.put(pod("a", json!({})));
    rig.pod("a", "readiness", is_ready).await;
    rig.runtime.exit("main", 1);
    rig.pod("a", "the first restart", |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"] == 1 && is_ready(pod)
    })
    .await;
    rig.runtime.exit("main", 1);
    let waiting = rig.pod("a", "the back-off", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    let waiting = waiting.await;
    assert_eq!(waiting["status"]["phase"], "Running");
    assert_eq!(waiting["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 1);
    rig.api.delete("/api/v1/namespaces/default/pods/a", 0);
    rig.gone("a").await;
}

#[tokio::test]
async fn pods_end_with_their_node_by_hook_and_grace_and_stay_in_the_api() {
    let (rig, kubelet) = Rig::start_both("leaves").await;
    let lifecycle = json!({"preStop": {"exec": {"command": ["say", "goodbye"]}}});
    rig.api.put(pod("a", json!({"containers": [{"name": "main", "image": "demo:1", "lifecycle": lifecycle}]})));
    rig.api.put(pod("b", json!({"terminationGracePeriodSeconds": 3})));
    let before = rig.pod("a", "readiness", is_ready).await;
    rig.pod("b", "readiness", is_ready).await;
    assert!(kubelet.end_pods(Duration::from_secs(8)).await, "{:?}", rig.runtime.calls());
    rig.api.put(pod("late", json!({})));
    let calls = rig.runtime.calls();
    let at = |wanted: &str| calls.iter().position(|call| call.starts_with(wanted));
    let stops: Vec<&str> =
        calls.iter().filter(|call| call.starts_with("stop ")).filter_map(|call| call.split(' ').nth(2)).collect();
    assert!(stops.contains(&"8") && stops.contains(&"3") && stops.len() == 2, "{calls:?}");
    assert!(at("exec say goodbye") < at("stop c") || stops[0] == "3", "{calls:?}");
    // Asked again, it has nothing left to do.
    assert!(kubelet.end_pods(Duration::from_secs(8)).await);
    assert_eq!(rig.runtime.calls(), calls);
    let after = rig.pod("a", "the pod", |_| true).await;
    assert_eq!(after["status"], before["status"]);
}

#[tokio::test]
async fn a_job_like_pod_ends_and_stays() {
    let rig = Rig::start("ends").await;
    rig.api.put(pod("a", json!({"restartPolicy": "Never"})));
    rig.pod("a", "readiness", is_ready).await;
    rig.runtime.exit("main", 0);
    let done = rig.pod("a", "success", |pod| pod["status"]["phase"] == "Succeeded").await;
    assert_eq!(done["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    assert!(!is_ready(&done));
    let writes = rig.api.writes();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(rig.api.writes() <= writes + 2, "an ended pod is quiet");
}

#[tokio::test]
async fn volumes_show_their_sources_and_follow_them() {
    let rig = Rig::start("volumes").await;
    let volumes = json!([{"name": "v", "configMap": {"name": "settings"}}]);
    let containers = json!([{"name": "main", "image": "demo:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        "env": [{"name": "K", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "k"}}}]}]);
    rig.api.put(pod("a", json!({"volumes": volumes, "containers": containers})));
    rig.api.event("FailedMount").await;
    let map = |value: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "settings", "namespace": "default", "uid": "m"}, "data": {"k": value}})
    };
    rig.api.put(map("1"));
    rig.pod("a", "readiness", is_ready).await;
    let file = rig.dir.join("pods/uid-a/volumes/kubernetes.io~configmap/v/k");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
    assert_eq!(rig.runtime.env("main", "K").as_deref(), Some("1"));
    rig.api.put(map("2"));
    for _ in 0..500 {
        if std::fs::read_to_string(&file).unwrap() == "2" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the volume did not follow its source");
}

/// The next regular look at the node is five minutes away.
#[tokio::test]
async fn what_is_added_to_a_nodes_capacity_pods_may_use_at_once() {
    let rig = Rig::start("extended").await;
    let node = async |holds: fn(&Value) -> bool| {
        for _ in 0..500 {
            let node = rig.api.object("/api/v1/nodes/node-1").unwrap_or_default();
            if holds(&node) {
                return node;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not so in time: {:#?}", rig.api.object("/api/v1/nodes/node-1"));
    };
    let mut ready = node(is_ready).await;
    ready["status"]["capacity"]["example.com/dongle"] = json!("3");
    rig.api.put(ready);
    node(|node| node["status"]["allocatable"]["example.com/dongle"] == "3").await;
}

#[tokio::test]
async fn the_node_registers_and_becomes_ready() {
    let rig = Rig::start("node").await;
    for _ in 0..500 {
        let node = rig.api.object("/api/v1/nodes/node-1").unwrap_or_default();
        let lease = rig.api.object("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/node-1");
        if is_ready(&node) && lease.is_some() {
            assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "node-1");
            assert_eq!(node["status"]["capacity"]["pods"], "110");
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no ready node: {:#?}", rig.api.object("/api/v1/nodes/node-1"));
}
