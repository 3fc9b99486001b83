//! What is kept from decision to decision changes none of them: a scheduler that followed every change decides as one
//! that sees the cluster for the first time.

use std::collections::BTreeMap;

use coracle_scheduler::PodInfo;
use coracle_scheduler::pod::Shapes;
use serde_json::{Value, json};

use crate::cluster::{Cluster, merge, node, pod};

/// A repeatable stream of numbers (xorshift).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

pub fn any_node(dice: &mut Dice, at: u64) -> Value {
    let mut extra =
        json!({"metadata": {"labels": {"zone": format!("z{}", dice.roll(3)), "disk": format!("d{}", dice.roll(2))}}});
    extra["metadata"]["labels"]["topology.kubernetes.io/zone"] = format!("z{}", dice.roll(3)).into();
    extra["status"]["allocatable"] = json!({"cpu": (1 + dice.roll(3)).to_string(), "pods": "6"});
    if dice.roll(6) == 0 {
        let effect = ["NoSchedule", "PreferNoSchedule"][dice.roll(2) as usize];
        extra["spec"]["taints"] = json!([{"key": "k", "effect": effect}]);
    }
    if dice.roll(4) == 0 {
        extra["status"]["images"] = json!([{"names": ["i:latest"], "sizeBytes": 500_000_000}]);
    }
    node(&format!("n{at}"), extra)
}

fn any_pod(dice: &mut Dice, name: &str) -> Value {
    let selector = json!({"matchLabels": {"app": format!("a{}", dice.roll(2))}});
    let key = ["zone", "kubernetes.io/hostname"][dice.roll(2) as usize];
    let term = json!({"labelSelector": selector, "topologyKey": key});
    let spec = match dice.roll(8) {
        0 => json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}),
        1 => json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}),
        2 => json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
            [{"weight": 50, "podAffinityTerm": term}]}}}),
        3 => json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key,
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}]}),
        4 => json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": selector}]}),
        5 => json!({"nodeSelector": {"disk": "d1"}}),
        6 => json!({"tolerations": [{"operator": "Exists"}]}),
        _ => json!({}),
    };
    let mut extra = json!({"metadata": {"labels": {"app": format!("a{}", dice.roll(2))}}, "spec": spec});
    extra["spec"]["containers"] =
        json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": format!("{}m", 100 * dice.roll(4))}}}]);
    pod(name, extra)
}

#[test]
fn following_changes_equals_seeing_the_cluster_anew() {
    for seed in 1..=12 {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed));
        let mut followed = Cluster::of_nodes([]);
        let mut nodes: Vec<Value> = (0..5).map(|at| any_node(&mut dice, at)).collect();
        let mut placed: Vec<Value> = Vec::new();
        nodes.iter().for_each(|node| followed.set("nodes", node.clone()));
        for step in 0..40 {
            match dice.roll(6) {
                0 => {
                    let at = dice.roll(nodes.len() as u64);
                    nodes[at as usize] = any_node(&mut dice, at);
                    followed.set("nodes", nodes[at as usize].clone());
                }
                1 if !placed.is_empty() => {
                    let gone = placed.swap_remove(dice.roll(placed.len() as u64) as usize);
                    followed.gone("pods", gone);
                }
                _ => {
                    let wanted = any_pod(&mut dice, &format!("p{step}"));
                    let mut fresh = Cluster::of_nodes(nodes.clone());
                    placed.iter().for_each(|pod| fresh.set("pods", pod.clone()));
                    let (kept, anew) = (survey(&mut followed, &wanted), survey(&mut fresh, &wanted));
                    assert_eq!(kept, anew, "seed {seed}, step {step}: {wanted}");
                    match followed.schedule(wanted.clone()) {
                        Err(message) => {
                            assert_eq!(Err(message), fresh.schedule(wanted.clone()), "seed {seed}, step {step}");
                            followed.gone("pods", wanted);
                        }
                        Ok(node) => {
                            let best = anew.values().flatten().max();
                            assert_eq!(anew[&node].as_ref().ok(), best, "seed {seed}, step {step}");
                            let mut there = wanted.clone();
                            merge(&mut there, json!({"spec": {"nodeName": node}}));
                            followed.set("pods", there.clone());
                            placed.push(there);
                        }
                    }
                }
            }
        }
    }
}

fn survey(cluster: &mut Cluster, wanted: &Value) -> BTreeMap<String, Result<i64, Vec<String>>> {
    let pod = PodInfo::read(wanted.to_string().as_bytes(), &mut Shapes::default()).expect("a pod");
    cluster.scheduler.survey(&pod)
}
