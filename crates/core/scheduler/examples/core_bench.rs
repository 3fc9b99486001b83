//! How many pods a second the core decides on, on a snapshot of many nodes, without any API: `core_bench [NODES [PODS]]
//! [CASE…]`. Each case has a cluster of its own and prints one line, in terms of CPU time.

use std::sync::Arc;

use coracle_meta::Object;
use coracle_scheduler::{Effect, Event, Scheduler};
use jiff::Timestamp;
use serde_json::{Value, json};

/// That of the shipped binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The pod of a number, in a cluster of so many nodes.
type Shaped = fn(usize, usize) -> Value;

const CASES: [(&str, Shaped); 13] = [
    ("equal pods", |at, _| pod(at, json!({}))),
    ("no two pods alike", |at, _| unlike(at)),
    ("no two requests alike", |at, _| sized(at, at)),
    ("100 sizes", |at, _| sized(at, at % 100)),
    ("1000 sizes", |at, _| sized(at, at % 1000)),
    ("anti-affinity", |at, _| pod(at, json!({"affinity": terms("podAntiAffinity", "kubernetes.io/hostname")}))),
    ("affinity", |at, _| pod(at, json!({"affinity": terms("podAffinity", "topology.kubernetes.io/zone")}))),
    ("spread by zone", |at, _| pod(at, spread("topology.kubernetes.io/zone", "DoNotSchedule"))),
    ("spread by host", |at, _| pod(at, spread("kubernetes.io/hostname", "DoNotSchedule"))),
    ("softly by host", |at, _| pod(at, spread("kubernetes.io/hostname", "ScheduleAnyway"))),
    ("unlike, by zone", |at, _| {
        let mut pod = unlike(at);
        pod["spec"]["topologySpreadConstraints"] =
            spread("topology.kubernetes.io/zone", "DoNotSchedule")["topologySpreadConstraints"].clone();
        pod
    }),
    // One pod, which goes first, fills each node; the others find no room.
    ("no room, 10 sizes", |at, nodes| if at < nodes { filling(at) } else { sized(at, 10_000 + at % 10) }),
    ("no room, unlike", |at, nodes| if at < nodes { filling(at) } else { sized(at, 10_000 + at) }),
];

fn main() {
    let (mut numbers, mut wanted) = (Vec::new(), Vec::new());
    for argument in std::env::args().skip(1) {
        match argument.parse() {
            Ok(number) => numbers.push(number),
            Err(_) => wanted.push(argument),
        }
    }
    let nodes = numbers.first().copied().unwrap_or(5000);
    let pods: usize = numbers.get(1).copied().unwrap_or(20_000);
    for (name, shaped) in CASES {
        let most = if name == "anti-affinity" { nodes } else { usize::MAX };
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            run(name, nodes, (0..pods.min(most)).map(|at| shaped(at, nodes)));
        }
    }
    if wanted.is_empty() || wanted.iter().any(|wanted| wanted == "workloads rolled") {
        roll(nodes, pods);
    }
    if wanted.is_empty() || wanted.iter().any(|wanted| wanted == "memory") {
        hold("memory", nodes, pods, |_| ());
        hold("memory, unlike", nodes, pods, |pod| {
            let index = pod["metadata"]["uid"].clone();
            pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"] = index;
        });
    }
}

fn terms(kind: &str, key: &str) -> Value {
    json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"labelSelector": {"matchLabels": {"app": "a"}}, "topologyKey": key}]}})
}

fn spread(key: &str, otherwise: &str) -> Value {
    json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": otherwise,
        "labelSelector": {"matchLabels": {"app": "a"}}}]})
}

fn run(case: &str, nodes: usize, pods: impl Iterator<Item = Value>) {
    let now = Timestamp::UNIX_EPOCH;
    let mut scheduler = Scheduler::standard("default-scheduler");
    for at in 0..nodes {
        scheduler.observe(set("nodes", node(at)), now);
    }
    let events: Vec<_> = pods.map(|pod| set("pods", pod)).collect();
    let count = events.len();
    let began = cpu_seconds();
    events.into_iter().for_each(|event| scheduler.observe(event, now));
    let arrived = cpu_seconds() - began;
    let mut bound = 0;
    while let Some(effect) = scheduler.next(now) {
        bound += usize::from(matches!(effect, Effect::Bind { .. }));
    }
    let decided = cpu_seconds() - began - arrived;
    println!(
        "{case:>21}: {nodes} nodes, {bound} of {count} pods bound: {:.0} arrivals/s, {:.0} decisions/s",
        count as f64 / arrived,
        count as f64 / decided,
    );
}

/// Workloads of three pods each that are rolled at once: a pod of each by turns, the first of them after its ReplicaSet,
/// and with each that is placed an old one goes.
fn roll(nodes: usize, pods: usize) {
    let now = Timestamp::UNIX_EPOCH;
    let mut scheduler = Scheduler::standard("default-scheduler");
    for at in 0..nodes {
        scheduler.observe(set("nodes", node(at)), now);
    }
    let workloads = pods / 3;
    for at in 0..3 * workloads {
        if at < workloads {
            scheduler.observe(set("replicasets", replica_set(at, "old")), now);
        }
        let mut pod = replica(at, workloads, "old");
        pod["spec"]["nodeName"] = json!(format!("node-{}", at % nodes));
        scheduler.observe(set("pods", pod), now);
    }
    let sets: Vec<_> = (0..workloads).map(|at| set("replicasets", replica_set(at, "new"))).collect();
    let new: Vec<_> = (0..3 * workloads).map(|at| set("pods", replica(at, workloads, "new"))).collect();
    let old = (0..3 * workloads).map(|at| match set("pods", replica(at, workloads, "old")) {
        Event::Set { resource, object } => Event::Gone { resource, object },
        other => other,
    });
    let old: Vec<_> = old.collect();
    let (mut sets, mut bound, began) = (sets.into_iter(), 0, cpu_seconds());
    for (new, old) in new.into_iter().zip(old) {
        sets.next().into_iter().for_each(|set| scheduler.observe(set, now));
        scheduler.observe(new, now);
        bound += usize::from(matches!(scheduler.next(now), Some(Effect::Bind { .. })));
        scheduler.observe(old, now);
    }
    let took = cpu_seconds() - began;
    let count = 3 * workloads;
    println!(
        "{:>21}: {nodes} nodes, {bound} of {count} pods bound: {:.0} arrivals and decisions/s",
        "workloads rolled",
        count as f64 / took
    );
}

/// What pods of 50 workloads cost that run on the nodes, in memory.
fn hold(case: &str, nodes: usize, pods: usize, alter: fn(&mut Value)) {
    let now = Timestamp::UNIX_EPOCH;
    let mut scheduler = Scheduler::standard("default-scheduler");
    for at in 0..nodes {
        scheduler.observe(set("nodes", node(at)), now);
    }
    let mut place = |at: usize| {
        let mut pod = replica(at, 50, "new");
        pod["metadata"]["name"] = json!(format!("web-{}-7d4b9c6f5b-{at:05x}", at % 50));
        pod["metadata"]["uid"] = json!(format!("0b6b7d5e-9d0c-4a4c-8f6e-{at:012x}"));
        pod["spec"]["nodeName"] = json!(format!("node-{}", at % nodes));
        alter(&mut pod);
        scheduler.observe(set("pods", pod), now);
    };
    // What is made but once is there before it counts.
    (0..pods / 10).for_each(&mut place);
    let before = resident_bytes();
    (pods / 10..pods).for_each(&mut place);
    let each = (resident_bytes() - before) / (pods - pods / 10) as f64;
    println!("{case:>21}: {nodes} nodes, {} pods placed: {each:.0} bytes a pod", scheduler.cluster().pods());
}

fn resident_bytes() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("a kernel that counts memory");
    let pages = text.split(' ').nth(1).and_then(|second| second.parse::<u64>().ok()).expect("a number second");
    pages as f64 * 4096.0
}

fn replica_set(at: usize, version: &str) -> Value {
    let name = format!("web-{at}-{version}");
    let labels = json!({"app": format!("web-{at}"), "pod-template-hash": version});
    json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name, "namespace": "bench"},
           "spec": {"replicas": 3, "selector": {"matchLabels": labels}}})
}

fn replica(at: usize, workloads: usize, version: &str) -> Value {
    let (workload, mut pod) = (at % workloads, sized(at, 0));
    let name = format!("web-{workload}-{version}");
    pod["metadata"]["name"] = json!(format!("{name}-{at}"));
    pod["metadata"]["uid"] = json!(format!("{name}-{at}"));
    pod["metadata"]["labels"] = json!({"app": format!("web-{workload}"), "pod-template-hash": version});
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name,
                                                 "uid": name, "controller": true}]);
    pod
}

/// How long this one thread has run: other work on the machine does not count.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a kernel that counts run time");
    let nanoseconds: u64 = text.split(' ').next().and_then(|first| first.parse().ok()).expect("a number first");
    nanoseconds as f64 / 1e9
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

fn filling(at: usize) -> Value {
    let mut pod = sized(at, 60_000);
    pod["spec"]["priority"] = json!(1);
    pod
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
