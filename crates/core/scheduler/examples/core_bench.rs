//! How many pods a second the core decides on, on a snapshot of many nodes, without any API: `core_bench [NODES [PODS]]`.
//! Each case has a cluster of its own and prints one line.

use std::sync::Arc;
use std::time::Instant;

use coracle_meta::Object;
use coracle_scheduler::{Effect, Event, Scheduler};
use jiff::Timestamp;
use serde_json::{Value, json};

fn main() {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse().expect("a number"));
    let (nodes, pods) = (numbers.next().unwrap_or(5000), numbers.next().unwrap_or(20_000));
    let apart = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": "kubernetes.io/hostname"}]}});
    let together = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": "topology.kubernetes.io/zone"}]}});
    let even = |key: &str| {
        json!([{"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "a"}}}])
    };
    run("equal pods", nodes, (0..pods).map(|at| pod(at, json!({}))));
    run("no two pods alike", nodes, (0..pods).map(unlike));
    run("100 sizes", nodes, (0..pods).map(|at| sized(at, at % 100)));
    run("anti-affinity", nodes, (0..pods.min(nodes)).map(|at| pod(at, json!({"affinity": apart}))));
    run("affinity", nodes, (0..pods).map(|at| pod(at, json!({"affinity": together}))));
    let zones = even("topology.kubernetes.io/zone");
    run("spread by zone", nodes, (0..pods).map(|at| pod(at, json!({"topologySpreadConstraints": zones}))));
    let hosts = even("kubernetes.io/hostname");
    run("spread by host", nodes, (0..pods).map(|at| pod(at, json!({"topologySpreadConstraints": hosts}))));
}

fn run(case: &str, nodes: usize, pods: impl Iterator<Item = Value>) {
    let now = Timestamp::UNIX_EPOCH;
    let mut scheduler = Scheduler::standard("default-scheduler");
    for at in 0..nodes {
        scheduler.observe(set("nodes", node(at)), now);
    }
    let events: Vec<_> = pods.map(|pod| set("pods", pod)).collect();
    let began = Instant::now();
    let count = events.len();
    events.into_iter().for_each(|event| scheduler.observe(event, now));
    let arrived = began.elapsed();
    let mut bound = 0;
    while let Some(effect) = scheduler.next(now) {
        bound += usize::from(matches!(effect, Effect::Bind { .. }));
    }
    let decided = began.elapsed() - arrived;
    println!(
        "{case:>18}: {nodes} nodes, {bound} of {count} pods bound: {:.0} arrivals/s, {:.0} decisions/s",
        count as f64 / arrived.as_secs_f64(),
        count as f64 / decided.as_secs_f64(),
    );
}

fn set(resource: &'static str, object: Value) -> Event {
    let object = Object::new(object.to_string().into(), 1).expect("an object");
    Event::Set { resource, object: Arc::new(object) }
}

fn node(at: usize) -> Value {
    let name = format!("node-{at}");
    json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("zone-{}", at % 3),
            "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux",
        }},
        "status": {"allocatable": {"cpu": "64", "memory": "256Gi", "pods": "250", "ephemeral-storage": "100Gi"}},
    })
}

fn sized(at: usize, size: usize) -> Value {
    let requests = json!({"cpu": format!("{}m", 10 + size), "memory": "16Mi"});
    json!({
        "metadata": {"name": format!("pod-{at}"), "namespace": "bench", "uid": format!("{at}"), "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": "image", "resources": {"requests": requests}}]},
    })
}

fn pod(at: usize, spec: Value) -> Value {
    let mut pod = sized(at, 0);
    for (key, value) in spec.as_object().expect("a map") {
        pod["spec"][key] = value.clone();
    }
    pod
}

fn unlike(at: usize) -> Value {
    let mut pod = sized(at, 0);
    pod["metadata"]["labels"]["unique"] = json!(format!("u{at}"));
    pod
}
