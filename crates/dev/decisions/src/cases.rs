//! Small clusters made from dice: nodes that differ in all that scheduling looks at, what they attach, pods on them, and
//! one pod that waits. Everything is as an API server would have stored it.

use std::fmt;

use serde_json::{Value, json};

use crate::dice::Dice;
use crate::pods::{self, Place};
use crate::volumes;

/// The name of pods of which nothing is wanted but the news that they were looked at ends like this.
pub const PROBE: &str = "probe";
const LAST: &str = "last";

/// Resource and object.
pub type World = Vec<(&'static str, Value)>;

pub struct Case {
    pub number: u64,
    /// With which all names of the case begin.
    pub prefix: String,
    pub nodes: Vec<Value>,
    pub placed: Vec<Value>,
    /// Of some of the nodes, the last among them.
    pub limits: Vec<Value>,
    pub attachments: Vec<Value>,
    /// The one to be scheduled.
    pub pod: Value,
}

/// What is there in every case: namespaces, and what selects or protects pods in them.
pub fn world() -> World {
    let namespace = |name: &str, labels: Value| ("namespaces", json!({"metadata": {"name": name, "labels": labels}}));
    let service = |name: &str, selector: Value| {
        let port = json!([{"port": 80, "protocol": "TCP"}]);
        (
            "services",
            json!({"metadata": {"name": name, "namespace": "n1"}, "spec": {"selector": selector, "ports": port}}),
        )
    };
    let budget = |name: &str, app: &str, allowed: i64| {
        let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": app}}});
        let status =
            json!({"disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1, "expectedPods": 1});
        ("poddisruptionbudgets", json!({"metadata": {"name": name, "namespace": "n1"}, "spec": spec, "status": status}))
    };
    let selector = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["b", "c"]}]});
    let mut world = volumes::world();
    world.extend([
        namespace("n1", json!({"team": "x", "kubernetes.io/metadata.name": "n1"})),
        namespace("n2", json!({"team": "y", "env": "prod", "kubernetes.io/metadata.name": "n2"})),
        namespace("n3", json!({"kubernetes.io/metadata.name": "n3"})),
        service("all-a", json!({"app": "a"})),
        service("some-b", json!({"app": "b", "tier": "t1"})),
        (
            "replicasets",
            json!({"metadata": {"name": "rs", "namespace": "n1"},
            "spec": {"replicas": 1, "selector": selector}}),
        ),
        budget("none-of-b", "b", 0),
        budget("one-of-a", "a", 1),
    ]);
    world
}

impl Case {
    /// The case of a number: the same each time it is shown, but for names, so that nothing of one showing can be taken for
    /// news of another.
    pub fn new(dice: &mut Dice, number: u64, showing: u32) -> Case {
        let prefix = format!("c{number}-{showing}-");
        let count = if dice.chance(4) { dice.between(20, 40) } else { dice.between(1, 9) } as usize;
        let names: Vec<String> = (0..count).map(|at| format!("{prefix}n{at}")).collect();
        let nodes = names.iter().map(|name| node(dice, name)).collect();
        let crowd = dice.below(2 * count + 2);
        let mut placed = Vec::new();
        for at in 0..crowd {
            let place = Place { node: &names[dice.below(count)], order: at };
            placed.push(pods::pod(dice, &format!("{prefix}p{at}"), &names, Some(place)));
        }
        pods::share_ports(&mut placed);
        volumes::share_claims(&mut placed);
        let pod = pods::pod(dice, &format!("{prefix}pod"), &names, None);
        let last = count - 1;
        let limited: Vec<&String> =
            names.iter().enumerate().filter(|(at, _)| *at == last || dice.chance(70)).map(|(_, name)| name).collect();
        let limits = limited.into_iter().map(|name| volumes::limits(dice, name)).collect();
        let attachments = (0..dice.below(2 * count))
            .map(|at| {
                let node = dice.below(count);
                volumes::attachment(dice, &format!("{prefix}a{at}"), &names[node])
            })
            .collect();
        Case { number, prefix, nodes, placed, limits, attachments, pod }
    }

    /// All but the waiting pod, as it is decided about.
    pub fn surroundings(&self) -> impl DoubleEndedIterator<Item = (&'static str, &Value)> {
        let of = |resource: &'static str| move |object| (resource, object);
        let nodes = self.nodes.iter().map(of("nodes"));
        let limits = self.limits.iter().map(of("csinodes"));
        let attachments = self.attachments.iter().map(of("volumeattachments"));
        nodes.chain(limits).chain(attachments).chain(self.placed.iter().map(of("pods")))
    }

    pub fn pod_name(&self) -> &str {
        self.pod["metadata"]["name"].as_str().unwrap_or_default()
    }

    pub fn last_node(&self) -> &str {
        self.nodes.last().and_then(|node| node["metadata"]["name"].as_str()).unwrap_or_default()
    }

    /// What the last node attaches, and that it does: a probe that is refused for it has seen all limits and attachments.
    pub fn last_limits(&self) -> (Value, Value) {
        let mut limits = self.limits.last().cloned().unwrap_or_default();
        volumes::add_probed(&mut limits);
        (limits, volumes::probed_attachment(&format!("{}a-{LAST}", self.prefix), self.last_node()))
    }

    /// The nodes once more, the last with a label that a probe looks for: whoever finds it has seen all of them together.
    pub fn nodes_again(&self) -> Vec<Value> {
        let mut nodes = self.nodes.clone();
        if let Some(last) = nodes.last_mut() {
            last["metadata"]["labels"][LAST] = "yes".into();
        }
        nodes
    }

    /// A pod that the last node alone can take, whatever it is like, once it has its label, and not even that any more once
    /// it attaches as much as it can.
    pub fn probe(&self, attempt: usize) -> Value {
        let name = format!("{}{attempt}-{PROBE}", self.prefix);
        let field = json!({"key": "metadata.name", "operator": "In", "values": [self.last_node()]});
        let label = json!({"key": LAST, "operator": "Exists"});
        let required = json!({"nodeSelectorTerms": [{"matchFields": [field], "matchExpressions": [label]}]});
        json!({
            "metadata": {"name": name, "namespace": "n1", "uid": name},
            "spec": {
                "schedulerName": "default-scheduler", "preemptionPolicy": "Never", "containers": [{"name": "c"}],
                "tolerations": [{"operator": "Exists"}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": volumes::PROBED}}],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
            },
            "status": {"phase": "Pending"},
        })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.nodes {
            writeln!(out, "  node {node}")?;
        }
        for limits in &self.limits {
            writeln!(out, "  limits {limits}")?;
        }
        for attachment in &self.attachments {
            writeln!(out, "  attached {attachment}")?;
        }
        for pod in &self.placed {
            writeln!(out, "  placed {pod}")?;
        }
        write!(out, "  pod {}", self.pod)
    }
}

fn node(dice: &mut Dice, name: &str) -> Value {
    let size = size(dice);
    json!({
        "metadata": {"name": name, "uid": name, "labels": labels(dice, name)},
        "spec": standing(dice),
        "status": {
            "capacity": size, "allocatable": size, "images": images(dice),
            "declaredFeatures": dice.some(&["RestartAllContainersOnContainerExits", "UserNamespacesHostNetworkSupport"], 30),
        },
    })
}

fn labels(dice: &mut Dice, name: &str) -> Value {
    let mut labels = json!({});
    let table: [(&str, &[&str], u64); 5] = [
        ("topology.kubernetes.io/zone", &["z0", "z1", "z2"], 85),
        ("topology.kubernetes.io/region", &["r0", "r1"], 40),
        ("disk", &["ssd", "hdd"], 70),
        ("rack", &["k0", "k1", "k2", "k3"], 60),
        ("cores", &["4", "8", "16", "many"], 60),
    ];
    for (key, values, percent) in table {
        if dice.chance(percent) {
            labels[key] = (*dice.pick(values)).into();
        }
    }
    if dice.chance(95) {
        labels["kubernetes.io/hostname"] = name.into();
    }
    labels
}

fn size(dice: &mut Dice) -> Value {
    let mut size = json!({
        "cpu": dice.pick(&["500m", "1", "2", "3500m", "4", "8", "15900m"]),
        "memory": dice.pick(&["512Mi", "1Gi", "2Gi", "4000M", "8Gi", "31234567Ki"]),
        "pods": dice.pick(&["1", "3", "5", "110", "110"]),
    });
    let table = [("ephemeral-storage", "10Gi", 60), ("example.com/gpu", "2", 30), ("hugepages-2Mi", "64Mi", 20)];
    for (name, amount, percent) in table {
        if dice.chance(percent) {
            size[name] = amount.into();
        }
    }
    if dice.chance(3) {
        size.as_object_mut().map(|size| size.remove("memory"));
    }
    size
}

/// Cordons and taints.
fn standing(dice: &mut Dice) -> Value {
    let mut spec = json!({});
    let mut taints = Vec::new();
    if dice.chance(10) {
        spec["unschedulable"] = true.into();
        if dice.chance(70) {
            taints.push(json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}));
        }
    }
    if dice.chance(30) {
        for _ in 0..dice.between(1, 3) {
            let effect = dice.pick(&["NoSchedule", "NoExecute", "PreferNoSchedule", "PreferNoSchedule"]);
            let mut taint = json!({"key": dice.pick(&["k1", "k2"]), "effect": effect});
            if dice.chance(70) {
                taint["value"] = (*dice.pick(&["v1", "v2"])).into();
            }
            taints.push(taint);
        }
    }
    if dice.chance(3) {
        taints.push(json!({"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}));
    }
    if !taints.is_empty() {
        spec["taints"] = taints.into();
    }
    spec
}

/// An image has one size: where nodes disagree, kube-scheduler takes that of the node it saw first.
fn images(dice: &mut Dice) -> Value {
    let table = [
        (json!(["docker.io/library/one:latest", "one:latest"]), 700_000_000),
        (json!(["registry.example:5000/two:v1"]), 1_900_000_000i64),
        (json!(["three@sha256:aa", "three:v3"]), 60_000_000),
        (json!(["four:latest"]), 5_000_000_000),
    ];
    let mut images = Vec::new();
    for (names, size) in table {
        if dice.chance(25) {
            images.push(json!({"names": names, "sizeBytes": size}));
        }
    }
    images.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_made_of_its_number_alone() {
        let case = |number, showing| Case::new(&mut Dice::new(3, number), number, showing);
        let text = |case: Case| case.to_string().replace(&case.prefix, "");
        assert_eq!(case(5, 0).to_string(), case(5, 0).to_string());
        assert_eq!(text(case(5, 0)), text(case(5, 1)), "another showing has other names");
        assert_ne!(text(case(5, 0)), text(case(6, 0)));
    }
}
