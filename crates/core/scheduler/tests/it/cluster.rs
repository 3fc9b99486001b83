//! A small cluster to schedule on, from JSON.

use std::sync::Arc;

use coracle_meta::Object;
use coracle_scheduler::extender::Question;
use coracle_scheduler::{Effect, Event, GroupOutcome, PodKey, Scheduler};
use jiff::Timestamp;
use serde_json::{Value, json};

pub struct Cluster {
    pub scheduler: Scheduler,
    pub now: i64,
}

pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter().for_each(|(key, value)| merge(into.entry(key).or_insert(Value::Null), value));
        }
        (into, from) => *into = from,
    }
}

/// A node with 2 CPUs, 4 GiB, 10 pods, and its name as host name and zone.
pub fn node(name: &str, extra: Value) -> Value {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"zone": name, "kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}},
    });
    merge(&mut node, extra);
    node
}

/// A pod labelled `app=a` that asks for nothing.
pub fn pod(name: &str, extra: Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c"}]},
    });
    merge(&mut pod, extra);
    pod
}

/// A pod that asks for so many milli-CPUs.
pub fn sized(name: &str, milli: u32, extra: Value) -> Value {
    let requests = json!({"requests": {"cpu": format!("{milli}m")}});
    let mut pod = pod(name, json!({"spec": {"containers": [{"name": "c", "resources": requests}]}}));
    merge(&mut pod, extra);
    pod
}

pub fn on(node: &str) -> Value {
    json!({"spec": {"nodeName": node}})
}

impl Cluster {
    pub fn new(objects: impl IntoIterator<Item = (&'static str, Value)>) -> Cluster {
        Cluster::with(Scheduler::standard("default-scheduler"), objects)
    }

    pub fn with(scheduler: Scheduler, objects: impl IntoIterator<Item = (&'static str, Value)>) -> Cluster {
        let mut cluster = Cluster { scheduler, now: 1000 };
        for (resource, object) in objects {
            cluster.set(resource, object);
        }
        cluster
    }

    pub fn of_nodes(nodes: impl IntoIterator<Item = Value>) -> Cluster {
        Cluster::new(nodes.into_iter().map(|node| ("nodes", node)))
    }

    pub fn time(&self) -> Timestamp {
        Timestamp::from_second(self.now).expect("a time")
    }

    pub fn set(&mut self, resource: &'static str, object: Value) {
        let object = Arc::new(Object::new(object.to_string().into(), 1).expect("an object"));
        let now = self.time();
        self.scheduler.observe(Event::Set { resource, object }, now);
    }

    pub fn gone(&mut self, resource: &'static str, object: Value) {
        let object = Arc::new(Object::new(object.to_string().into(), 1).expect("an object"));
        let now = self.time();
        self.scheduler.observe(Event::Gone { resource, object }, now);
    }

    pub fn tell(&mut self, event: Event) {
        let now = self.time();
        self.scheduler.observe(event, now);
    }

    pub fn next(&mut self) -> Option<Effect> {
        let now = self.time();
        self.scheduler.next(now)
    }

    /// Adds a pod and tells where it goes, or why it cannot.
    pub fn schedule(&mut self, pod: Value) -> Result<String, String> {
        self.set("pods", pod);
        match self.next() {
            Some(Effect::Bind { node, .. } | Effect::Prepare { node, .. }) => Ok(node),
            Some(Effect::Failed { message, .. }) => Err(message),
            other => panic!("the pod was not decided about: {other:?}"),
        }
    }

    /// The names of the pods bound and refused by everything that is ready.
    pub fn run(&mut self) -> Vec<String> {
        let effects = std::iter::from_fn(|| self.next());
        effects
            .map(|effect| match effect {
                Effect::Bind { pod, node } => format!("{} on {node}", pod.key.name),
                Effect::BindBy { pod, node, .. } => format!("{} handed over for {node}", pod.key.name),
                Effect::Ask { pod, question } => format!("{} asked about: {}", pod.key.name, asked(&question)),
                Effect::Prepare { pod, node, .. } => format!("{} prepared for {node}", pod.key.name),
                Effect::Failed { pod, .. } => format!("{} refused", pod.key.name),
                Effect::Group { group, outcome: GroupOutcome::Scheduled } => format!("group {} goes", group.name),
                Effect::Group { group, outcome: GroupOutcome::Not { message, .. } } => {
                    format!("group {}: {message}", group.name)
                }
                Effect::Preempt { pod, victims, .. } => {
                    let victims: Vec<_> = victims.iter().map(|pod| &*pod.key.name).collect();
                    format!("{} evicts {}", pod.key.name, victims.join(" "))
                }
            })
            .collect()
    }
}

/// A question in few words: what is asked, whom, and about which nodes.
pub fn asked(question: &Question) -> String {
    let (what, mut nodes) = match question {
        Question::Filter { extender, nodes } => (format!("filter {extender}"), nodes.clone()),
        Question::Prioritize { extenders, nodes } => (format!("prioritize {extenders:?}"), nodes.clone()),
        Question::Preempt { extender, candidates } => {
            (format!("preempt {extender}"), candidates.iter().map(|candidate| candidate.node.clone()).collect())
        }
    };
    nodes.sort();
    format!("{what} {}", nodes.join(" "))
}

pub fn key(name: &str) -> PodKey {
    PodKey { namespace: "n".into(), name: name.into() }
}
