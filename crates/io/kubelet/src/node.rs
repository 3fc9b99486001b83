//! The node's own object and its lease: made when it is not there, kept up to date, renewed as a sign of life.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coracle_client::{ClientError, ObjectPath, Patch, ResourceRef, WriteOptions};
use coracle_meta::Resource;
use coracle_podlife::Severity;
use coracle_reconcile::plan::merge_patch;
use coracle_reconcile::view::resource_of;
use coracle_reconcile::{Change, Index};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::extended;
use crate::node_context::NodeContext;
use crate::options::Options;

const LEASE_SECONDS: u64 = 40;
const RENEW: Duration = Duration::from_secs(10);
const STATUS_EVERY: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(7);
const IMAGES_MAX: usize = 50;
const IMAGE_NAMES_MAX: usize = 5;
const MEMORY_PRESSURE_BYTES: u64 = 100 << 20;
const DISK_PRESSURE_PERCENT: u64 = 10;

/// What the node has and what of it pods may use.
#[derive(Clone)]
pub(crate) struct Capacity {
    pub memory_bytes: u64,
    pub capacity: BTreeMap<String, String>,
    pub allocatable: BTreeMap<String, String>,
}

pub(crate) fn capacity(options: &Options) -> Capacity {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory_bytes = memory_kib("MemTotal") * 1024;
    let disk = disk_of(&options.root_dir).map_or(0, |(total, _)| total);
    let mut capacity = BTreeMap::from([
        ("cpu".to_owned(), cpus.to_string()),
        ("memory".to_owned(), format!("{}Ki", memory_bytes / 1024)),
        ("ephemeral-storage".to_owned(), format!("{}Ki", disk / 1024)),
        ("pods".to_owned(), options.pods_max.to_string()),
    ]);
    for size in ["hugepages-1Gi", "hugepages-2Mi"] {
        capacity.insert(size.to_owned(), "0".to_owned());
    }
    let mut allocatable = capacity.clone();
    for (name, kept) in &options.reserved {
        let (total, kept) = (crate::fields::quantity(&capacity[name.as_str()]), crate::fields::quantity(kept));
        let left = (total - kept).max(0);
        let text =
            if name == "cpu" { format!("{}m", left / 1_000_000) } else { format!("{}Ki", left / 1_000_000_000 / 1024) };
        allocatable.insert(name.clone(), text);
    }
    Capacity { memory_bytes, capacity, allocatable }
}

/// Keeps node and lease until the scope ends.
pub(crate) fn start(node: &Arc<NodeContext>, capacity: Capacity) {
    let (context, status) = (node.clone(), capacity);
    node.scope.spawn_until_cancelled("node-status", async move { Keeper::new(context, status).run().await });
    node.scope.spawn_until_cancelled("node-lease", renew(node.clone()));
}

struct Keeper {
    node: Arc<NodeContext>,
    capacity: Capacity,
    last: Option<Value>,
    was_ready: bool,
    /// Rings when somebody has changed the node's extended resources.
    unsettled: Arc<Notify>,
}

impl Keeper {
    fn new(node: Arc<NodeContext>, capacity: Capacity) -> Keeper {
        let unsettled = Arc::<Notify>::default();
        let (bell, name) = (unsettled.clone(), node.options.node_name.clone());
        let sink = move |_: &Resource, change: &Change| {
            let own = change.new.as_ref().filter(|node| node.meta.name == name);
            let read = own.and_then(|node| node.decode::<Value>().ok());
            if read.is_some_and(|node| !extended::unsettled(&node["status"]).is_empty()) {
                bell.notify_one();
            }
        };
        node.view.subscribe(&resource_of::<Node>(), Arc::new(sink));
        Keeper { node, capacity, last: None, was_ready: false, unsettled }
    }

    async fn run(mut self) {
        let recorder = self.node.events.about_node(&self.node.options.node_name);
        recorder.note(Severity::Normal, "Starting", "Starting kubelet.", None);
        let mut delay = RETRY;
        loop {
            match self.write().await {
                Ok(()) => {
                    delay = RETRY;
                    // Until the runtime is ready the node is looked at more often.
                    let pause = if self.was_ready { STATUS_EVERY } else { RETRY };
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.unsettled.notified() => tokio::time::sleep(RETRY).await,
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, node = self.node.options.node_name, "writing the node");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(RETRY_MAX);
                }
            }
        }
    }

    async fn write(&mut self) -> Result<(), ClientError> {
        let name = self.node.options.node_name.clone();
        let path = ObjectPath::of::<Node>("", &name);
        let options = WriteOptions::default();
        let current = match self.node.client.get(&path).await {
            Ok(current) => current,
            Err(ClientError::Status(status)) if status.is_not_found() => {
                self.last = None;
                let nodes = ResourceRef::of::<Node>();
                let made = self.node.client.create(&nodes, "", &self.object(), &options).await?;
                tracing::info!(node = name, "the node is registered");
                made
            }
            Err(error) => return Err(error),
        };
        if let Some(change) = self.labels(&current) {
            self.node.client.patch(&path, &Patch::Merge(change), &options).await?;
        }
        let status = self.status(&current).await;
        let old = current["status"].clone();
        let ready = is_true(&status, "Ready");
        if let Some(mut change) =
            merge_patch(&json!({}), &status).filter(|_| self.last.as_ref() != Some(&status) || old != status)
        {
            for (name, amount) in extended::unsettled(&old) {
                change["allocatable"][name] = amount;
            }
            let patch = Patch::Strategic(json!({"status": change}));
            self.node.client.patch(&path.clone().subresource("status"), &patch, &options).await?;
            self.last = Some(status);
        }
        if ready && !self.was_ready {
            let recorder = self.node.events.about_node(&name);
            let message = format!("Node {name} status is now: NodeReady");
            recorder.note(Severity::Normal, "NodeReady", &message, None);
        }
        self.was_ready = ready;
        Ok(())
    }

    fn object(&self) -> Value {
        let options = &self.node.options;
        let taints: Vec<Value> = options.taints.iter().filter_map(|taint| serde_json::to_value(taint).ok()).collect();
        let mut object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": options.node_name, "labels": own_labels(options),
                "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
            "spec": {},
        });
        if !taints.is_empty() {
            object["spec"]["taints"] = json!(taints);
        }
        object
    }

    /// Labels of ours that the node lacks.
    fn labels(&self, current: &Value) -> Option<Value> {
        let labels = own_labels(&self.node.options);
        let missing: serde_json::Map<String, Value> = labels
            .into_iter()
            .filter(|(key, value)| current["metadata"]["labels"][key].as_str() != Some(value))
            .map(|(key, value)| (key, Value::String(value)))
            .collect();
        (!missing.is_empty()).then(|| json!({"metadata": {"labels": missing}}))
    }

    async fn status(&self, current: &Value) -> Value {
        let options = &self.node.options;
        let port = options.listen.port();
        json!({
            "capacity": self.capacity.capacity,
            "allocatable": self.capacity.allocatable,
            "addresses": [
                {"type": "InternalIP", "address": options.node_ip},
                {"type": "Hostname", "address": options.node_name},
            ],
            "conditions": self.conditions(current).await,
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "nodeInfo": self.info().await,
            "images": self.images().await,
        })
    }

    async fn conditions(&self, current: &Value) -> Vec<Value> {
        let now = whole(self.node.clock.now());
        let disk = disk_of(&self.node.options.root_dir);
        let short_disk = disk.is_some_and(|(total, free)| free * 100 < total * DISK_PRESSURE_PERCENT);
        let short_memory = memory_kib("MemAvailable") * 1024 < MEMORY_PRESSURE_BYTES;
        let (ready, reason, message) = match self.node.runtime.status().await {
            Ok(status) => runtime_ready(&status.status.unwrap_or_default().conditions),
            Err(status) => (false, "KubeletNotReady", format!("container runtime is down: {}", status.message())),
        };
        let pressure = |short: bool, yes, no, has: &str, has_not: &str| {
            if short { (true, yes, has.to_owned()) } else { (false, no, has_not.to_owned()) }
        };
        let memory = pressure(
            short_memory,
            "KubeletHasInsufficientMemory",
            "KubeletHasSufficientMemory",
            "kubelet has insufficient memory available",
            "kubelet has sufficient memory available",
        );
        let disk = pressure(
            short_disk,
            "KubeletHasDiskPressure",
            "KubeletHasNoDiskPressure",
            "kubelet has disk pressure",
            "kubelet has no disk pressure",
        );
        let pids = (false, "KubeletHasSufficientPID", "kubelet has sufficient PID available".to_owned());
        let found = [
            ("MemoryPressure", memory),
            ("DiskPressure", disk),
            ("PIDPressure", pids),
            ("Ready", (ready, reason, message)),
        ];
        found
            .into_iter()
            .map(|(name, (holds, reason, message))| {
                let status = if holds { "True" } else { "False" };
                let before = current["status"]["conditions"].as_array().into_iter().flatten();
                let same = before.into_iter().find(|old| old["type"] == name && old["status"] == status);
                let since = same.and_then(|old| old["lastTransitionTime"].as_str()).unwrap_or(&now).to_owned();
                json!({"type": name, "status": status, "reason": reason, "message": message,
                    "lastHeartbeatTime": now, "lastTransitionTime": since})
            })
            .collect()
    }

    async fn info(&self) -> Value {
        let system = rustix::system::uname();
        let text = |value: &std::ffi::CStr| value.to_string_lossy().into_owned();
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let runtime = self.node.runtime.version().await.unwrap_or_default();
        json!({
            "machineID": file("/etc/machine-id"),
            "systemUUID": file("/sys/class/dmi/id/product_uuid"),
            "bootID": file("/proc/sys/kernel/random/boot_id"),
            "kernelVersion": text(system.release()),
            "osImage": os_image(),
            "containerRuntimeVersion": format!("{}://{}", runtime.runtime_name, runtime.runtime_version),
            "kubeletVersion": self.node.options.version,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": architecture(),
        })
    }

    async fn images(&self) -> Vec<Value> {
        let mut images = self.node.runtime.list_images().await.unwrap_or_default();
        images.sort_by_key(|image| std::cmp::Reverse(image.size));
        let shown = images.into_iter().take(IMAGES_MAX).map(|image| {
            let names: Vec<String> =
                image.repo_digests.into_iter().chain(image.repo_tags).take(IMAGE_NAMES_MAX).collect();
            json!({"names": names, "sizeBytes": image.size})
        });
        shown.collect()
    }
}

fn runtime_ready(conditions: &[coracle_proto::cri::RuntimeCondition]) -> (bool, &'static str, String) {
    let bad = conditions
        .iter()
        .find(|condition| matches!(condition.r#type.as_str(), "RuntimeReady" | "NetworkReady") && !condition.status);
    match bad {
        None => (true, "KubeletReady", "kubelet is posting ready status".to_owned()),
        Some(bad) if bad.r#type == "NetworkReady" => (
            false,
            "KubeletNotReady",
            format!(
                "container runtime network not ready: NetworkReady=false reason:{} message:{}",
                bad.reason, bad.message
            ),
        ),
        Some(bad) => (false, "KubeletNotReady", format!("container runtime not ready: {}", bad.message)),
    }
}

/// Renews the lease of the node for ever; a node that has no lease yet gets one.
async fn renew(node: Arc<NodeContext>) {
    let mut delay = RETRY;
    loop {
        match renew_once(&node).await {
            Ok(()) => {
                delay = RETRY;
                tokio::time::sleep(RENEW).await;
            }
            Err(error) => {
                tracing::debug!(%error, node = node.options.node_name, "renewing the lease of the node");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RETRY_MAX);
            }
        }
    }
}

async fn renew_once(node: &NodeContext) -> Result<(), ClientError> {
    let name = &node.options.node_name;
    let path = ObjectPath::of::<Lease>("kube-node-lease", name);
    let options = WriteOptions::default();
    let renew_time = micros(node.clock.now());
    let patch = Patch::Merge(json!({"spec": {"renewTime": renew_time}}));
    match node.client.patch(&path, &patch, &options).await {
        Err(ClientError::Status(status)) if status.is_not_found() => {}
        other => return other.map(drop),
    }
    // The lease belongs to the node: without one there is nothing to live for yet.
    let owner = node.client.get(&ObjectPath::of::<Node>("", name)).await?;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": "kube-node-lease", "ownerReferences": [{
            "apiVersion": "v1", "kind": "Node", "name": name, "uid": owner["metadata"]["uid"]}]},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": renew_time},
    });
    node.client.create(&ResourceRef::of::<Lease>(), "kube-node-lease", &lease, &options).await.map(drop)
}

/// Pods of this node, for the server.
pub(crate) fn own_pods(node: &NodeContext) -> Vec<Arc<Pod>> {
    let pods = node.view.by_index(&resource_of::<Pod>(), Index::Node, &node.options.node_name);
    pods.iter().filter_map(|pod| pod.decode().ok()).collect()
}

fn own_labels(options: &Options) -> BTreeMap<String, String> {
    let mut labels = options.labels.clone();
    for (key, value) in [
        ("kubernetes.io/hostname", options.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture()),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn os_image() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

fn memory_kib(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.split(':').next() == Some(key));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

/// Bytes of the file system, all and free.
fn disk_of(path: &std::path::Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

fn is_true(status: &Value, name: &str) -> bool {
    let conditions = status["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == name && condition["status"] == "True")
}

fn whole(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

fn micros(at: Timestamp) -> String {
    format!("{at:.6}")
}
