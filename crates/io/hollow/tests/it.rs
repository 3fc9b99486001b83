//! Hollow nodes in a whole control plane in one process: what schedulers and controllers make of them is what a user of
//! the cluster sees.

#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

use std::sync::Arc;
use std::time::Duration;

use coracle_apiserver::{Identity, LocalTransport, Options, Server};
use coracle_cache::Cache;
use coracle_client::{Client, ListOptions, ObjectPath, ResourceRef, WatchEvent, WatchOptions, WriteOptions};
use coracle_controld::{DEFAULT_SCHEDULER, Driver, run_scheduler};
use coracle_hollow::{Fleet, Hollow, LABEL};
use coracle_rt::{Clock, Dice, Scope};
use coracle_scheduler::Scheduler;
use coracle_store::Engine;
use futures_util::StreamExt;
use serde_json::{Value, json};

const PODS: ResourceRef = ResourceRef::new("", "v1", "pods");
const NODES: ResourceRef = ResourceRef::new("", "v1", "nodes");
const DEPLOYMENTS: ResourceRef = ResourceRef::new("apps", "v1", "deployments");
const JOBS: ResourceRef = ResourceRef::new("batch", "v1", "jobs");
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A control plane without a socket.
struct Cluster {
    scope: Scope,
    client: Client,
    folder: std::path::PathBuf,
}

impl Cluster {
    async fn start() -> Cluster {
        let scope = Scope::root();
        let folder = std::env::temp_dir().join(format!("coracle-hollow-{}", Dice::system().uuid()));
        std::fs::create_dir(&folder).unwrap();
        let store = Engine::ephemeral(&folder, scope.child("store")).unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let server = Server::new(Options {
            cache: Cache::new(store, scope.child("cache")),
            clock: Clock::system(),
            dice: Dice::system(),
            scope: scope.child("apiserver"),
            advertise: ([192, 0, 2, 1].into(), 6443),
            service_cidr: "10.96.0.0/16".into(),
            node_ports: (30000, 32767),
            token_keys: vec![key.serialize_pem()],
            tokens: Vec::new(),
            kubelet_tls: None,
            docs: None,
            runtime_config: Vec::new(),
            gates: Default::default(),
            metric_resolution: Duration::from_secs(10),
        })
        .unwrap();
        server.start().await.unwrap();
        let local = |identity| Client::new(Arc::new(LocalTransport { server: server.clone(), identity }));
        let scheduler = Scheduler::standard(DEFAULT_SCHEDULER);
        let scheduling = scope.child("scheduler");
        run_scheduler(&scheduling, server.view(), local(Identity::scheduler()), Clock::system(), scheduler);
        let (client, controllers) = (local(Identity::admin()), local(Identity::admin()));
        let driver = Driver {
            scope: scope.child("controllers"),
            view: server.view(),
            clients: Arc::new(move |_| controllers.clone()),
            clock: Clock::system(),
            signer: None,
            metrics: Arc::default(),
        };
        driver.start(coracle_controllers::all(&coracle_controllers::Settings::default()));
        Cluster { scope, client, folder }
    }

    async fn hollow(&self, fleet: Fleet) -> (Scope, Hollow) {
        let scope = self.scope.child("hollow");
        let hollow = Hollow::start(&scope, self.client.clone(), Clock::system(), fleet).unwrap();
        tokio::time::timeout(WAIT_MAX, hollow.registered()).await.expect("the nodes register");
        (scope, hollow)
    }

    async fn create(&self, resource: &ResourceRef, object: Value) -> Value {
        self.client.create(resource, "default", &object, &WriteOptions::default()).await.unwrap()
    }

    /// Follows a resource until an object of it is as wanted; `None` is one that was deleted.
    async fn until(&self, what: &str, resource: &ResourceRef, wanted: impl Fn(&Value, bool) -> bool) -> Value {
        let follow = async {
            let options = WatchOptions { send_initial_events: true, ..WatchOptions::default() };
            loop {
                let mut stream = self.client.watch_as::<Value>(resource, "", &options).await.unwrap();
                while let Some(Ok(event)) = stream.next().await {
                    let (object, there) = match event {
                        WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, true),
                        WatchEvent::Deleted(object) => (object, false),
                        WatchEvent::Bookmark { .. } => continue,
                    };
                    if wanted(&object, there) {
                        return object;
                    }
                }
            }
        };
        match tokio::time::timeout(WAIT_MAX, follow).await {
            Ok(object) => object,
            Err(_) => panic!("{what} did not happen:\n{:#}", json!(self.list(&PODS).await)),
        }
    }

    /// Until the pod of this uid is gone, however soon after `since`.
    async fn until_gone(&self, since: String, uid: &Value) {
        let options = WatchOptions { resource_version: since, ..WatchOptions::default() };
        let mut stream = self.client.watch_as::<Value>(&PODS, "", &options).await.unwrap();
        let gone = async {
            loop {
                match stream.next().await.expect("the watch goes on").unwrap() {
                    WatchEvent::Deleted(pod) if pod["metadata"]["uid"] == *uid => return,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(WAIT_MAX, gone).await.expect("the pod goes");
    }

    async fn list(&self, resource: &ResourceRef) -> Vec<Value> {
        self.client.list(resource, "", &ListOptions::default()).await.unwrap().items
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.scope.cancel();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn template(annotations: Value, spec: Value) -> Value {
    let mut template = json!({"metadata": {"labels": {"app": "a"}, "annotations": annotations},
        "spec": {"containers": [{"name": "c", "image": "registry.k8s.io/pause:3.10"}]}});
    for (field, value) in spec.as_object().unwrap() {
        template["spec"][field] = value.clone();
    }
    template
}

fn deployment(replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"app": "a"}}, "template": template(json!({}), json!({}))}})
}

fn job(name: &str, annotations: Value, policy: &str) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"completions": 3,
        "parallelism": 3, "backoffLimit": 0, "template": template(annotations, json!({"restartPolicy": policy}))}})
}

fn has(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|one| one["type"] == condition && one["status"] == "True")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_becomes_ready_and_its_deleted_pod_is_replaced() {
    let cluster = Cluster::start().await;
    let (_scope, hollow) = cluster.hollow(Fleet { nodes: 4, zones: 2, ..Fleet::default() }).await;
    cluster.create(&DEPLOYMENTS, deployment(12)).await;
    let ready = |object: &Value, _| object["status"]["readyReplicas"] == 12 && has(object, "Available");
    cluster.until("readiness of the deployment", &DEPLOYMENTS, ready).await;
    let pods = cluster.list(&PODS).await;
    let mut ips: Vec<&Value> = pods.iter().map(|pod| &pod["status"]["podIP"]).collect();
    ips.sort_by_key(|ip| ip.to_string());
    ips.dedup();
    assert_eq!((pods.len(), ips.len()), (12, 12));
    let victim = ObjectPath::new(PODS, "default", pods[0]["metadata"]["name"].as_str().unwrap());
    let uid = pods[0]["metadata"]["uid"].clone();
    let before = cluster.client.list(&PODS, "", &ListOptions::default()).await.unwrap().metadata.resource_version;
    cluster.client.delete(&victim, &coracle_client::DeleteOptions::default()).await.unwrap();
    cluster.until_gone(before, &uid).await;
    let known: Vec<Value> = pods.iter().map(|pod| pod["metadata"]["uid"].clone()).collect();
    let replaced = move |object: &Value, _| has(object, "Ready") && !known.contains(&object["metadata"]["uid"]);
    cluster.until("readiness of another pod", &PODS, replaced).await;
    assert_eq!(hollow.nodes(), (4, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_complete_and_fail_as_they_are_told() {
    let cluster = Cluster::start().await;
    cluster.hollow(Fleet { nodes: 2, job_seconds: 0, ..Fleet::default() }).await;
    cluster.create(&JOBS, job("well", json!({"coracle.dev/run-for": "100ms"}), "OnFailure")).await;
    let complete = |object: &Value, _| object["metadata"]["name"] == "well" && has(object, "Complete");
    let well = cluster.until("completion of the job", &JOBS, complete).await;
    assert_eq!(well["status"]["succeeded"], 3);
    cluster.create(&JOBS, job("ill", json!({"coracle.dev/exit-code": "7"}), "Never")).await;
    let failed = |object: &Value, _| object["metadata"]["name"] == "ill" && has(object, "Failed");
    cluster.until("failure of the job", &JOBS, failed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_takes_over_what_is_there_and_shrinks_to_its_size() {
    let cluster = Cluster::start().await;
    let (first, _) = cluster.hollow(Fleet { nodes: 5, ..Fleet::default() }).await;
    first.cancel();
    let before = cluster.list(&NODES).await;
    cluster.hollow(Fleet { nodes: 3, zones: 3, ..Fleet::default() }).await;
    let after = cluster.list(&NODES).await;
    let uids = |nodes: &[Value]| nodes.iter().map(|node| node["metadata"]["uid"].clone()).collect::<Vec<_>>();
    assert_eq!((before.len(), uids(&after)), (5, uids(&before[..3])));
    assert_eq!(after[2]["metadata"]["labels"]["topology.kubernetes.io/zone"], "hollow-2");
    assert_eq!(after[2]["metadata"]["labels"][LABEL], "hollow");
    assert!(after.iter().all(|node| has(node, "Ready")));
    assert_eq!(coracle_hollow::remove(&cluster.client, "hollow-").await.unwrap(), 3);
    assert_eq!(cluster.list(&NODES).await, Vec::<Value>::new());
    let leases = cluster.list(&ResourceRef::new("coordination.k8s.io", "v1", "leases")).await;
    assert_eq!(leases, Vec::<Value>::new());
}
