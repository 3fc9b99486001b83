//! A class that is kept and follows the cluster's changes finds the nodes, the reasons and the scores that asking every
//! plugin anew about every node finds.

use std::sync::Arc;

use coracle_meta::selector::LabelSelector;
use coracle_scheduler::class::{Class, Classes};
use coracle_scheduler::cycle::{Search, choose, find};
use coracle_scheduler::pod::Shapes;
use coracle_scheduler::{NodeFacts, PodInfo, PodKey, Profile, Snapshot};
use serde_json::{Value, json};

use crate::cluster::{merge, pod};
use crate::naive::{Outcome, decide};
use crate::same::{Dice, any_node};

/// A cluster that changes, with the classes of one profile.
struct World {
    dice: Dice,
    cluster: Snapshot,
    shapes: Shapes,
    templates: Vec<Value>,
    placed: Vec<Arc<PodInfo>>,
    promised: Vec<PodKey>,
    made: u64,
}

/// What pods of one kind ask for.
pub fn template(dice: &mut Dice) -> Value {
    let selector = json!({"matchLabels": {"app": format!("a{}", dice.roll(2))}});
    let key = ["zone", "kubernetes.io/hostname", "disk"][dice.roll(3) as usize];
    let mut term = json!({"labelSelector": selector, "topologyKey": key});
    if dice.roll(3) == 0 {
        term["namespaceSelector"] = json!({"matchLabels": {"team": "t"}});
    }
    let rule = |when: &str, skew: u64, policy: &str| {
        json!({"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": when, "labelSelector": selector,
               "nodeTaintsPolicy": policy})
    };
    let policy = ["Honor", "Ignore"][dice.roll(2) as usize];
    let required = |kind: &str| json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
    let preferred = |kind: &str, weight: u64| {
        json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution":
            [{"weight": weight, "podAffinityTerm": term}]}}})
    };
    let spec = match dice.roll(11) {
        0 => required("podAntiAffinity"),
        1 => required("podAffinity"),
        2 => preferred("podAffinity", 1 + dice.roll(99)),
        3 => preferred("podAntiAffinity", 1 + dice.roll(99)),
        4 => json!({"topologySpreadConstraints": [rule("DoNotSchedule", 1 + dice.roll(2), policy)]}),
        5 => json!({"topologySpreadConstraints": [rule("ScheduleAnyway", 1, policy)]}),
        6 => json!({"topologySpreadConstraints": [rule("DoNotSchedule", 2, policy)], "nodeSelector": {"disk": "d1"}}),
        7 => json!({"tolerations": [{"operator": "Exists"}]}),
        8 => json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 5,
            "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["d0"]}]}}]}}}),
        9 => json!({"hostNetwork": true}),
        _ => json!({}),
    };
    let mut extra = json!({"metadata": {"namespace": (["n", "m"][dice.roll(2) as usize])}, "spec": spec});
    extra["spec"]["priority"] = json!(dice.roll(3));
    let mut container = json!({"name": "c", "image": (["i", "j"][dice.roll(2) as usize])});
    container["resources"]["requests"] = json!({"cpu": format!("{}m", 100 * dice.roll(4)), "memory": "10Mi"});
    if dice.roll(6) == 0 {
        container["ports"] = json!([{"containerPort": 80, "hostPort": 80}]);
    }
    extra["spec"]["containers"] = json!([container]);
    extra
}

impl World {
    fn new(seed: u64, nodes: u64) -> World {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed));
        let mut cluster = Snapshot::default();
        for at in 0..nodes {
            cluster.set_node(facts(&any_node(&mut dice, at)));
        }
        let templates = (0..10).map(|_| template(&mut dice)).collect();
        let (placed, promised) = (Vec::new(), Vec::new());
        World { dice, cluster, shapes: Shapes::default(), templates, placed, promised, made: 0 }
    }

    fn any_pod(&mut self) -> Arc<PodInfo> {
        self.made += 1;
        let mut extra = self.templates[self.dice.roll(self.templates.len() as u64) as usize].clone();
        extra["metadata"]["labels"] =
            json!({"app": format!("a{}", self.dice.roll(2)), "x": self.dice.roll(2).to_string()});
        let name = format!("p{}", self.made);
        extra["metadata"]["labels"]["own"] = json!(name);
        if self.dice.roll(2) == 0 {
            extra["metadata"]["ownerReferences"] = json!([{"kind": "ReplicaSet", "name": "r", "controller": true}]);
        }
        self.read(pod(&name, extra))
    }

    fn read(&mut self, pod: Value) -> Arc<PodInfo> {
        PodInfo::read(pod.to_string().as_bytes(), &mut self.shapes).expect("a pod")
    }

    fn change(&mut self) {
        let nodes = self.cluster.nodes().len() as u64;
        let any_place = |dice: &mut Dice| dice.roll(nodes) as usize;
        match self.dice.roll(24) {
            20..=23 => self.change_workload(),
            0..=4 => {
                let at = any_place(&mut self.dice);
                let mut node = any_node(&mut self.dice, 0);
                let name = self.cluster.nodes()[at].name.clone();
                merge(&mut node, json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}));
                match self.dice.roll(8) {
                    0 => node["spec"]["unschedulable"] = json!(true),
                    1 => drop(node["metadata"]["labels"].as_object_mut().map(|labels| labels.remove("zone"))),
                    _ => (),
                }
                self.cluster.set_node(facts(&node));
            }
            5 => {
                self.made += 1;
                let node = any_node(&mut self.dice, 1000 + self.made);
                self.cluster.set_node(facts(&node));
            }
            6 if nodes > 3 => {
                let at = any_place(&mut self.dice);
                let name = self.cluster.nodes()[at].name.clone();
                self.cluster.remove_node(&name);
            }
            7 => {
                let team = ["t", "u"][self.dice.roll(2) as usize];
                self.cluster.set_namespace("m", vec![("team".into(), team.into())]);
            }
            8..=9 => {
                let (pod, at) = (self.any_pod(), any_place(&mut self.dice));
                let node = self.cluster.nodes()[at].name.clone();
                self.promised.push(pod.key.clone());
                self.cluster.nominate(pod, &node);
            }
            10..=11 if !self.promised.is_empty() => {
                let key = self.promised.swap_remove(self.dice.roll(self.promised.len() as u64) as usize);
                self.cluster.nominations.remove(&key);
            }
            12..=16 if !self.placed.is_empty() => {
                let gone = self.placed.swap_remove(self.dice.roll(self.placed.len() as u64) as usize);
                self.cluster.lift(&gone.key);
            }
            _ => {
                let (pod, at) = (self.any_pod(), any_place(&mut self.dice));
                let node = self.cluster.nodes()[at].name.clone();
                self.place(pod, &node);
            }
        }
    }

    /// What pods without constraints of their own are counted by.
    fn change_workload(&mut self) {
        let namespace = ["n", "m"][self.dice.roll(2) as usize];
        let pair = |key: &str, value: u64| {
            (key.to_owned(), if key == "app" { format!("a{value}") } else { value.to_string() })
        };
        let selector = match self.dice.roll(4) {
            0 => Vec::new(),
            1 => vec![pair("app", self.dice.roll(2)), pair("x", self.dice.roll(2))],
            2 => vec![pair("x", self.dice.roll(2))],
            _ => vec![pair("app", self.dice.roll(2))],
        };
        match self.dice.roll(2) {
            0 => {
                let name = format!("s{}", self.dice.roll(3));
                self.cluster.workloads.set_service(namespace, &name, selector);
            }
            _ => {
                let selector = (!selector.is_empty()).then(|| LabelSelector::from_pairs(selector));
                self.cluster.workloads.set_controller("ReplicaSet", namespace, "r", selector);
            }
        }
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.cluster.put(pod.clone(), node);
        self.placed.push(pod);
    }
}

fn facts(node: &Value) -> NodeFacts {
    NodeFacts::read(node.to_string().as_bytes()).expect("a node")
}

fn outcome(pod: &PodInfo, class: &mut Class, cluster: &Snapshot, order: &[u32], search: Search) -> Outcome {
    let found = find(pod, class, cluster, order, search);
    let totals = class.totals(&found.feasible, cluster.nodes());
    Outcome {
        feasible: found.feasible.into_iter().zip(totals).collect(),
        rejected: found.rejected.iter().map(|(at, verdict)| (*at, class.status(*verdict).clone())).collect(),
    }
}

fn follow(seed: u64, nodes: u64, percent: u32, steps: u32) -> usize {
    let mut world = World::new(seed, nodes);
    let profile = Profile::standard("default-scheduler");
    profile.track(&mut world.cluster);
    let mut classes = Classes::default();
    let mut bound = 0;
    for step in 0..steps {
        (0..world.dice.roll(4)).for_each(|_| world.change());
        let pod = world.any_pod();
        world.cluster.track(&pod.shape);
        let order = world.cluster.order();
        let search = Search { percent, start: world.dice.roll(order.len() as u64) as usize, turn: step as usize };
        let shape = world.shapes.reduced(&pod.shape, &world.cluster);
        let mut class = classes.take((&pod, shape), &profile.plugins, &world.cluster);
        assert!(class.rejection().is_none() && class.among().is_none());
        let kept = outcome(&pod, &mut class, &world.cluster, &order, search);
        let anew = decide(&pod, &profile.plugins, &world.cluster, &order, search);
        assert_eq!(kept, anew, "seed {seed}, step {step}: {pod:?}");
        let feasible: Vec<u32> = kept.feasible.iter().map(|(at, _)| *at).collect();
        if !feasible.is_empty() {
            let at = choose(&mut class, &world.cluster, &feasible, search.turn);
            let most = kept.feasible.iter().map(|(_, total)| *total).max();
            let chosen = kept.feasible.iter().find(|(place, _)| *place == at).map(|(_, total)| *total);
            assert_eq!(chosen, most, "seed {seed}, step {step}: {pod:?}");
            let node = world.cluster.nodes()[at as usize].name.clone();
            world.place(pod.clone(), &node);
            bound += 1;
        }
        classes.keep(&pod, class);
        world.cluster.keep_order(order);
    }
    bound
}

#[test]
fn kept_classes_decide_as_asking_anew_does() {
    let bound: usize = (1..=16).map(|seed| follow(seed, 4 + seed, 0, 60)).sum();
    assert!(bound > 300, "only {bound} pods found a node");
}

#[test]
fn kept_classes_stop_where_asking_anew_stops() {
    assert!(follow(17, 130, 10, 40) > 20);
}
