//! What is scheduled in the cases of scheduling: nodes without a kubelet, and pods that all ask for the same. Affinity,
//! spread and preemption ask what Kubernetes' own scheduler benchmark asks in its cases of these names.

use clap::ValueEnum;
use serde_json::{Value, json};

/// Marks nodes and pods of these cases.
pub const LABEL: &str = "coracle-bench";
/// The priority class of pods that may preempt.
pub const URGENT: &str = "coracle-bench-urgent";
/// How the names of pods that wait begin.
pub const WAITING: &str = "waits-";
/// Low pods that fill a node of four cores.
const LOW_PER_NODE: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// Small pods on 1,000 nodes
    Plain,
    /// Small pods on 5,000 nodes
    Wide,
    /// Pods that want a zone where one of them is
    Affinity,
    /// Pods that keep the zones even
    Spread,
    /// Pods that have to evict others on each node
    Preemption,
}

impl Shape {
    pub fn title(self) -> String {
        let what = match self {
            Shape::Plain | Shape::Wide => "pods",
            Shape::Affinity => "pods with affinity by zone",
            Shape::Spread => "pods spread by zone",
            Shape::Preemption => "preempting pods",
        };
        format!("{what} scheduled on {} nodes, {}", self.nodes(), self.pods())
    }

    pub fn goal(self) -> &'static str {
        match self {
            Shape::Plain | Shape::Wide => "15× the peer",
            Shape::Affinity | Shape::Spread => "20× the peer",
            Shape::Preemption => "10× the peer",
        }
    }

    pub fn nodes(self) -> u64 {
        match self {
            Shape::Plain | Shape::Affinity | Shape::Spread => 1000,
            Shape::Wide => 5000,
            Shape::Preemption => 500,
        }
    }

    pub fn pods(self) -> u64 {
        match self {
            Shape::Plain | Shape::Wide => 5000,
            Shape::Affinity | Shape::Spread => 2000,
            Shape::Preemption => 500,
        }
    }

    /// Whether most of the work comes before the first binding, which then begins nothing.
    pub fn counts_from_start(self) -> bool {
        self == Shape::Preemption
    }

    /// Pods that stand on the nodes already.
    pub fn placed(self) -> u64 {
        match self {
            Shape::Preemption => self.nodes() * LOW_PER_NODE,
            _ => 0,
        }
    }

    pub fn node(self, number: u64) -> Value {
        let cores = if self == Shape::Preemption { "4" } else { "64" };
        let (name, size) = (node_name(number), json!({"cpu": cores, "memory": "256Gi", "pods": "250"}));
        let zone = format!("z{}", number % 3);
        let labels = json!({LABEL: "true", "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone});
        let time = "2026-01-01T00:00:00Z";
        let ready = json!({
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
            "lastHeartbeatTime": time, "lastTransitionTime": time,
        });
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
            "status": {"capacity": size, "allocatable": size, "conditions": [ready]},
        })
    }

    pub fn pod(self, number: u64) -> Value {
        let mut pod = pod(format!("{WAITING}{number}"), if self == Shape::Preemption { "3000m" } else { "10m" });
        let alike = json!({"matchLabels": {LABEL: "true"}});
        let zone = "topology.kubernetes.io/zone";
        match self {
            Shape::Plain | Shape::Wide => {}
            Shape::Affinity => {
                let term = json!({"labelSelector": alike, "topologyKey": zone});
                pod["spec"]["affinity"] =
                    json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
            }
            Shape::Spread => {
                pod["spec"]["topologySpreadConstraints"] = json!([{
                    "maxSkew": 5, "topologyKey": zone, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": alike,
                }]);
            }
            Shape::Preemption => pod["spec"]["priorityClassName"] = URGENT.into(),
        }
        pod
    }

    /// A pod that stands on a node already, and goes at once when it is evicted.
    pub fn low(self, number: u64) -> Value {
        let mut pod = pod(format!("stands-{number}"), "900m");
        pod["spec"]["nodeName"] = node_name(number / LOW_PER_NODE).into();
        pod["spec"]["terminationGracePeriodSeconds"] = 0.into();
        pod
    }
}

fn node_name(number: u64) -> String {
    format!("bench-node-{number}")
}

fn pod(name: String, cpu: &str) -> Value {
    let requests = json!({"cpu": cpu, "memory": "16Mi"});
    let tolerate = |key: &str| json!({"key": key, "operator": "Exists"});
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {LABEL: "true"}},
        "spec": {
            "tolerations": [tolerate("node.kubernetes.io/not-ready"), tolerate("node.kubernetes.io/unreachable")],
            "containers": [{"name": "c", "image": "x", "resources": {"requests": requests}}],
        },
    })
}
