//! What is told of pods to others: quotas, budgets, slices of endpoints, autoscalers; and nodes that die.

use std::collections::BTreeSet;
use std::sync::Arc;

use coracle_sim::World;
use serde_json::json;

use super::*;

const QUOTAS: Resource = Resource::new("", "resourcequotas");
const BUDGETS: Resource = Resource::new("policy", "poddisruptionbudgets");
const SERVICES: Resource = Resource::new("", "services");
const SLICES: Resource = Resource::new("discovery.k8s.io", "endpointslices");
const AUTOSCALERS: Resource = Resource::new("autoscaling", "horizontalpodautoscalers");

async fn ready_pods(world: &World, count: usize) {
    world
        .until(1800, "ready pods", |world| {
            world.list(&PODS, "default").iter().filter(|pod| is_ready(pod)).count() == count
        })
        .await;
}

async fn quota(world: Arc<World>) {
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "20", "count/deployments.apps": "5"}}});
    make(&world, &QUOTAS, &quota).await;
    make(&world, &DEPLOYMENTS, &workload("Deployment", "web", 5)).await;
    ready_pods(&world, 5).await;
    change(&world, &DEPLOYMENTS, "web", &json!({"spec": {"replicas": 2}})).await;
    ready_pods(&world, 2).await;
    world.settle(900).await;
    let used = world.see(&QUOTAS, "default", "q")["status"]["used"].clone();
    assert_eq!(used, json!({"pods": "2", "count/deployments.apps": "1"}));
}

async fn budget(world: Arc<World>) {
    let budget =
        json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 2, "selector": {"matchLabels": {"app": "web"}}}});
    make(&world, &BUDGETS, &budget).await;
    make(&world, &DEPLOYMENTS, &workload("Deployment", "web", 3)).await;
    ready_pods(&world, 3).await;
    world
        .until(300, "room for one", |world| {
            int(&world.see(&BUDGETS, "default", "b"), "/status/disruptionsAllowed") == 1
        })
        .await;
    let victim = text(&world.list(&PODS, "default")[0], "/metadata/name").to_owned();
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": victim}});
    world.ok("POST", &format!("{}/eviction", one(&PODS, "default", &victim)), &eviction).await;
    ready_pods(&world, 3).await;
    world.settle(900).await;
    let status = world.see(&BUDGETS, "default", "b")["status"].clone();
    let counts = ["currentHealthy", "desiredHealthy", "expectedPods", "disruptionsAllowed"];
    assert_eq!(counts.map(|field| int(&status[field], "")), [3, 2, 3, 1], "{status:#}");
    assert!(status["disruptedPods"].as_object().is_none_or(|pods| pods.is_empty()), "{status:#}");
}

async fn dying_node(world: Arc<World>) {
    make(&world, &DEPLOYMENTS, &workload("Deployment", "web", 4)).await;
    ready_pods(&world, 4).await;
    world.cluster.kill("node-0");
    // It may have had no pod at all.
    let nodes = Resource::new("", "nodes");
    let is_lost = |world: &World| condition(&world.see(&nodes, "", "node-0"), "Ready") == "Unknown";
    world.until(600, "word of the node's silence", is_lost).await;
    let on_living = |world: &World| {
        let pods = world.list(&PODS, "default");
        pods.iter().filter(|pod| is_ready(pod) && pod["spec"]["nodeName"] == "node-1").count() == 4
    };
    world.until(1800, "four pods on the other node", on_living).await;
    world.ok("DELETE", "/api/v1/nodes/node-0", &Value::Null).await;
    world.until(900, "the lost pods to go", |world| world.list(&PODS, "default").len() == 4).await;
    world.settle(900).await;
    assert!(world.list(&PODS, "default").iter().all(|pod| pod["spec"]["nodeName"] == "node-1"));
}

async fn slices(world: Arc<World>) {
    let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    make(&world, &SERVICES, &service).await;
    make(&world, &DEPLOYMENTS, &workload("Deployment", "web", 4)).await;
    ready_pods(&world, 4).await;
    change(&world, &DEPLOYMENTS, "web", &image("i:2")).await;
    world.pass(world.dice.below(20)).await;
    change(&world, &DEPLOYMENTS, "web", &json!({"spec": {"replicas": 3}})).await;
    world
        .until(900, "the rollout", |world| {
            let deployment = world.see(&DEPLOYMENTS, "default", "web");
            int(&deployment, "/status/updatedReplicas") == 3 && int(&deployment, "/status/replicas") == 3
        })
        .await;
    world.settle(900).await;
    let pods = world.list(&PODS, "default");
    let wanted: BTreeSet<&str> =
        pods.iter().filter(|pod| is_ready(pod)).map(|pod| text(pod, "/status/podIP")).collect();
    let slices = world.list(&SLICES, "default");
    let of_service = slices.iter().filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == "web");
    let ends: Vec<&Value> = of_service.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten()).collect();
    let told: BTreeSet<&str> = ends.iter().map(|end| text(end, "/addresses/0")).collect();
    assert_eq!((told, ends.len()), (wanted.clone(), 3));
    assert!(ends.iter().all(|end| end["conditions"]["ready"] == true));
    let endpoints = world.see(&Resource::new("", "endpoints"), "default", "web");
    let old: BTreeSet<&str> =
        endpoints["subsets"][0]["addresses"].as_array().unwrap().iter().map(|one| text(one, "/ip")).collect();
    assert_eq!(old, wanted);
}

async fn autoscaled(world: Arc<World>) {
    let mut deployment = workload("Deployment", "web", 1);
    deployment["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m"}});
    make(&world, &DEPLOYMENTS, &deployment).await;
    ready_pods(&world, 1).await;
    let view = world.server.view();
    let clock = world.clock.clone();
    world.watchdog.measure(move |load| {
        let pods = view.list(&PODS, Some("default"));
        let each = load / (pods.len().max(1) as u64);
        let items = pods.iter().map(|pod| {
            json!({"metadata": {"name": pod.meta.name, "namespace": "default"}, "timestamp": clock.now().to_string(),
                "window": "30s", "containers": [{"name": "c", "usage": {"cpu": format!("{each}m"), "memory": "1Mi"}}]})
        });
        json!({"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items.collect::<Vec<_>>()})
    });
    world.watchdog.load(400);
    let target = json!({"type": "Utilization", "averageUtilization": 100});
    let hpa = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"}, "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "minReplicas": 1, "maxReplicas": 6,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]}});
    make(&world, &AUTOSCALERS, &hpa).await;
    let replicas = |world: &World| int(&world.see(&DEPLOYMENTS, "default", "web"), "/spec/replicas");
    world.until(1800, "four replicas", |world| replicas(world) == 4).await;
    world.watchdog.load(100);
    world.until(1800, "one replica again", |world| replicas(world) == 1).await;
    world.settle(1200).await;
    let hpa = world.see(&AUTOSCALERS, "default", "web");
    assert_eq!(
        ["AbleToScale", "ScalingActive"].map(|kind| condition(&hpa, kind)),
        ["True", "True"],
        "{:#}",
        hpa["status"]
    );
    assert_eq!((int(&hpa, "/status/currentReplicas"), int(&hpa, "/status/desiredReplicas")), (1, 1));
}

#[test]
fn quotas_settle_to_what_is_used() {
    seeds(quota);
}

#[test]
fn budgets_tell_what_may_be_disrupted() {
    seeds(budget);
}

#[test]
fn pods_of_a_dead_node_are_replaced() {
    seeds(dying_node);
}

#[test]
fn slices_hold_the_ready_pods() {
    seeds(slices);
}

#[test]
fn autoscalers_follow_the_load() {
    seeds(autoscaled);
}
