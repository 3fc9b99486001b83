//! No pod sleeps through a change that lets a node take it.

use std::collections::BTreeMap;

use coracle_scheduler::Effect;
use serde_json::{Value, json};

use crate::cluster::{Cluster, key, merge};
use crate::kept::template;
use crate::same::{Dice, any_node};

const NODES: u64 = 4;

struct World {
    dice: Dice,
    cluster: Cluster,
    /// By name, as the API has them.
    placed: BTreeMap<String, Value>,
    waiting: BTreeMap<String, Value>,
    made: u64,
}

impl World {
    fn new(seed: u64) -> World {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed));
        let mut cluster = Cluster::of_nodes((0..NODES).map(|at| any_node(&mut dice, at)));
        for (name, labels) in [("n", json!({"team": "t"})), ("m", json!({}))] {
            cluster.set("namespaces", json!({"metadata": {"name": name, "labels": labels}}));
        }
        World { dice, cluster, placed: BTreeMap::new(), waiting: BTreeMap::new(), made: 0 }
    }

    fn pod(&mut self) -> (String, Value) {
        self.made += 1;
        let name = format!("p{}", self.made);
        let labels = json!({"app": format!("a{}", self.dice.roll(2))});
        let mut pod = json!({"metadata": {"name": name, "uid": name, "labels": labels}});
        merge(&mut pod, template(&mut self.dice));
        // What makes room wakes by itself; here only others' changes are to.
        merge(&mut pod, json!({"metadata": {"namespace": "n"}, "spec": {"preemptionPolicy": "Never"}}));
        (name, pod)
    }

    fn set_placed(&mut self, name: String, pod: Value) {
        self.cluster.set("pods", pod.clone());
        self.placed.insert(name, pod);
    }

    fn any_placed(&mut self) -> Option<(String, Value)> {
        let at = self.dice.roll(self.placed.len().max(1) as u64) as usize;
        self.placed.iter().nth(at).map(|(name, pod)| (name.clone(), pod.clone()))
    }

    /// Changes something and tells what.
    fn change(&mut self) -> String {
        let at = self.dice.roll(NODES);
        match self.dice.roll(8) {
            0 | 1 => {
                let node = any_node(&mut self.dice, at);
                self.cluster.set("nodes", node.clone());
                format!("node {node}")
            }
            2 => {
                let node = format!("n{at}");
                self.cluster.gone("nodes", any_node(&mut self.dice, at));
                // As the collector of garbage does.
                let lost: Vec<_> =
                    self.placed.values().filter(|pod| pod["spec"]["nodeName"] == node).cloned().collect();
                for pod in lost {
                    self.placed.remove(pod["metadata"]["name"].as_str().unwrap_or_default());
                    self.cluster.gone("pods", pod);
                }
                format!("node {node} gone")
            }
            3 => {
                let (name, mut pod) = self.pod();
                pod["spec"]["nodeName"] = format!("n{at}").into();
                self.set_placed(name, pod.clone());
                format!("placed {pod}")
            }
            4 => match self.any_placed() {
                Some((name, pod)) => {
                    self.cluster.gone("pods", pod);
                    self.placed.remove(&name);
                    format!("{name} gone")
                }
                None => String::new(),
            },
            5 => match self.any_placed() {
                Some((name, mut pod)) => {
                    pod["metadata"]["labels"]["app"] = format!("a{}", self.dice.roll(2)).into();
                    pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "50m".into();
                    self.set_placed(name, pod.clone());
                    format!("changed {pod}")
                }
                None => String::new(),
            },
            _ => {
                let (name, pod) = self.pod();
                self.cluster.set("pods", pod.clone());
                self.waiting.insert(name, pod);
                String::new()
            }
        }
    }

    /// Lets all pods be tried that are awake.
    fn settle(&mut self) {
        self.cluster.now += 20;
        while let Some(effect) = self.cluster.next() {
            let Effect::Bind { pod, node } = effect else { continue };
            let mut bound = self.waiting.remove(&*pod.key.name).expect("it waited");
            bound["spec"]["nodeName"] = node.into();
            self.set_placed(pod.key.name.to_string(), bound);
        }
    }

    /// Pods that wait though a node can take them.
    fn asleep(&mut self) -> Vec<String> {
        let names: Vec<String> = self.waiting.keys().cloned().collect();
        let mut asleep = Vec::new();
        for name in names {
            let pod = self.cluster.scheduler.queue().get(&key(&name)).cloned().expect("it waits");
            let survey = self.cluster.scheduler.survey(&pod);
            if survey.values().any(Result::is_ok) {
                asleep.push(format!("{survey:?}\n{}", self.waiting[&name]));
            }
        }
        asleep
    }
}

#[test]
fn no_pod_sleeps_through_a_change_that_helps_it() {
    for seed in 1..=16 {
        let mut world = World::new(seed);
        world.settle();
        for _ in 0..60 {
            let changed = world.change();
            world.settle();
            let asleep = world.asleep();
            assert!(asleep.is_empty(), "seed {seed}, after {changed}:\n{}", asleep.join("\n"));
        }
    }
}
