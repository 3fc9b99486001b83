//! Pods made from dice: what they use, where they want to be, and with whom.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::dice::Dice;
use crate::volumes;

const TOPOLOGIES: [&str; 4] =
    ["kubernetes.io/hostname", "topology.kubernetes.io/zone", "topology.kubernetes.io/region", "rack"];

/// Where a pod runs, and as which of all it started.
pub struct Place<'a> {
    pub node: &'a str,
    pub order: usize,
}

/// A pod that waits, or has its place.
pub fn pod(dice: &mut Dice, name: &str, nodes: &[String], place: Option<Place<'_>>) -> Value {
    let labels = labels(dice);
    let namespace = *dice.pick(&["n1", "n1", "n2", "n3"]);
    let mut metadata = json!({"name": name, "namespace": namespace, "uid": name, "labels": labels});
    if dice.chance(15) {
        let owner =
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs", "controller": true});
        metadata["ownerReferences"] = json!([owner]);
    }
    let mut spec = json!({"schedulerName": "default-scheduler", "containers": containers(dice)});
    add_uses(dice, &mut spec);
    add_wishes(dice, &mut spec, &labels, nodes);
    if dice.chance(25) {
        spec["volumes"] = volumes::mounted(dice, namespace, place.is_none());
    }
    let mut status = json!({"phase": "Pending"});
    match place {
        Some(place) => {
            spec["nodeName"] = place.node.into();
            spec["priority"] = (*dice.pick(&[-10, 0, 0, 100, 1000])).into();
            let started = format!("2026-01-01T{:02}:{:02}:00Z", place.order / 60, place.order % 60);
            status = json!({"phase": "Running", "startTime": started});
            if dice.chance(10) {
                add_resize(dice, &mut status);
            }
            if dice.chance(8) {
                metadata["deletionTimestamp"] = "2026-01-02T00:00:00Z".into();
                metadata["deletionGracePeriodSeconds"] = 30.into();
                if dice.chance(50) {
                    let reason =
                        dice.pick(&["PreemptionByScheduler", "PreemptionByScheduler", "EvictionByEvictionAPI"]);
                    status["conditions"] = json!([{"type": "DisruptionTarget", "status": "True", "reason": reason}]);
                }
            }
        }
        None => {
            spec["priority"] = (*dice.pick(&[0, 0, 0, 100, 500, 2000])).into();
            if dice.chance(10) {
                status["nominatedNodeName"] = dice.pick(nodes).as_str().into();
            }
            spec["preemptionPolicy"] = (*dice.pick(&["PreemptLowerPriority", "PreemptLowerPriority", "Never"])).into();
        }
    }
    json!({"metadata": metadata, "spec": spec, "status": status})
}

/// A resize under way: what its first container was granted and uses is not what it asks for.
fn add_resize(dice: &mut Dice, status: &mut Value) {
    let uses = json!({"requests": requests(dice)});
    status["containerStatuses"] = json!([{"name": "c0", "resources": uses, "allocatedResources": requests(dice)}]);
    if dice.chance(50) {
        let uses = json!({"requests": requests(dice)});
        status["initContainerStatuses"] =
            json!([{"name": "i0", "resources": uses, "allocatedResources": requests(dice)}]);
    }
    if dice.chance(50) {
        let whole = |dice: &mut Dice| json!({"cpu": dice.pick(&["1", "2", "6"])});
        status["resources"] = json!({"requests": whole(dice)});
        status["allocatedResources"] = whole(dice);
    }
    if dice.chance(50) {
        let reason = *dice.pick(&["Infeasible", "Deferred"]);
        status["conditions"] = json!([{"type": "PodResizePending", "status": "True", "reason": reason}]);
    }
}

fn labels(dice: &mut Dice) -> Value {
    let mut labels = json!({});
    let table: [(&str, &[&str], u64); 3] =
        [("app", &["a", "b", "c"], 90), ("tier", &["t1", "t2"], 60), ("version", &["1", "2"], 60)];
    for (key, values, percent) in table {
        if dice.chance(percent) {
            labels[key] = (*dice.pick(values)).into();
        }
    }
    labels
}

fn containers(dice: &mut Dice) -> Value {
    let containers = (0..dice.between(1, 2)).map(|at| container(dice, &format!("c{at}")));
    containers.collect()
}

fn container(dice: &mut Dice, name: &str) -> Value {
    let image = *dice.pick(&["one", "registry.example:5000/two:v1", "three@sha256:aa", "four", "other:v9"]);
    let mut container = json!({"name": name, "image": image, "resources": {"requests": requests(dice)}});
    if dice.chance(12) {
        let port = *dice.pick(&[80, 443]);
        let mut held = json!({"containerPort": port, "hostPort": port, "protocol": dice.pick(&["TCP", "TCP", "UDP"])});
        if dice.chance(60) {
            held["hostIP"] = (*dice.pick(&["0.0.0.0", "10.0.0.1", "127.0.0.1"])).into();
        }
        container["ports"] = json!([held]);
    }
    container
}

/// Takes ports away from pods whose node has them taken: no node ever lets two pods hold one.
pub fn share_ports(placed: &mut [Value]) {
    let mut taken = BTreeSet::new();
    for pod in placed {
        let node = pod["spec"]["nodeName"].to_string();
        for list in ["containers", "initContainers"] {
            for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
                let held = &container["ports"][0];
                let port = (node.clone(), held["hostPort"].to_string(), held["protocol"].to_string());
                if !held.is_null() && !taken.insert(port) {
                    container["ports"] = json!([]);
                }
            }
        }
    }
}

fn requests(dice: &mut Dice) -> Value {
    let mut requests = json!({});
    let table: [(&str, &[&str], u64); 5] = [
        ("cpu", &["0", "50m", "100m", "333m", "1", "2"], 70),
        ("memory", &["0", "64Mi", "200M", "512Mi", "1Gi"], 70),
        ("ephemeral-storage", &["1Gi", "6Gi"], 12),
        ("example.com/gpu", &["1", "2"], 6),
        ("hugepages-2Mi", &["4Mi", "32Mi"], 4),
    ];
    for (key, values, percent) in table {
        if dice.chance(percent) {
            requests[key] = (*dice.pick(values)).into();
        }
    }
    requests
}

/// What it uses beside its containers.
fn add_uses(dice: &mut Dice, spec: &mut Value) {
    if dice.chance(15) {
        let mut first = container(dice, "i0");
        if dice.chance(50) {
            first["restartPolicy"] = "Always".into();
        }
        spec["initContainers"] = json!([first, container(dice, "i1")]);
    }
    if dice.chance(5) {
        spec["overhead"] = json!({"cpu": "120m", "memory": "30Mi"});
    }
    if dice.chance(5) {
        spec["resources"] = json!({"requests": {"cpu": dice.pick(&["1500m", "5"])}});
    }
    if dice.chance(3) {
        spec["hostNetwork"] = true.into();
        spec["hostUsers"] = false.into();
    }
}

fn add_wishes(dice: &mut Dice, spec: &mut Value, labels: &Value, nodes: &[String]) {
    if dice.chance(10) {
        let (key, value) = *dice.pick(&[("disk", "ssd"), ("topology.kubernetes.io/zone", "z0"), ("rack", "k1")]);
        spec["nodeSelector"] = json!({key: value});
    }
    if dice.chance(35) {
        spec["tolerations"] = (0..dice.between(1, 2)).map(|_| toleration(dice)).collect();
    }
    let mut affinity = json!({});
    if dice.chance(30) {
        affinity["nodeAffinity"] = node_affinity(dice, nodes);
    }
    if dice.chance(25) {
        affinity["podAffinity"] = pod_affinity(dice, labels);
    }
    if dice.chance(25) {
        affinity["podAntiAffinity"] = pod_affinity(dice, labels);
    }
    if affinity != json!({}) {
        spec["affinity"] = affinity;
    }
    if dice.chance(35) {
        let mut constraints: Vec<Value> = Vec::new();
        for _ in 0..dice.between(1, 3) {
            let constraint = spread(dice, labels);
            let same = |known: &Value, field: &str| known[field] == constraint[field];
            if !constraints.iter().any(|known| same(known, "topologyKey") && same(known, "whenUnsatisfiable")) {
                constraints.push(constraint);
            }
        }
        spec["topologySpreadConstraints"] = constraints.into();
    }
}

fn toleration(dice: &mut Dice) -> Value {
    let mut toleration = match dice.below(6) {
        0 => return json!({"operator": "Exists"}),
        1 => json!({"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}),
        2 | 3 => json!({"key": dice.pick(&["k1", "k2"]), "operator": "Exists"}),
        4 => json!({"key": dice.pick(&["k1", "k2"]), "operator": "Equal", "value": dice.pick(&["v1", "v2"])}),
        _ => json!({"key": dice.pick(&["k1", "k2"]), "value": dice.pick(&["", "v1"])}),
    };
    if dice.chance(60) {
        toleration["effect"] = (*dice.pick(&["NoSchedule", "NoExecute", "PreferNoSchedule"])).into();
    }
    toleration
}

fn node_affinity(dice: &mut Dice, nodes: &[String]) -> Value {
    let mut affinity = json!({});
    if dice.chance(60) {
        let terms: Vec<Value> = (0..dice.between(1, 2)).map(|_| node_term(dice, nodes)).collect();
        affinity["requiredDuringSchedulingIgnoredDuringExecution"] = json!({"nodeSelectorTerms": terms});
    }
    if dice.chance(60) {
        let mut terms = Vec::new();
        for _ in 0..dice.between(1, 3) {
            terms.push(json!({"weight": dice.between(1, 100), "preference": node_term(dice, nodes)}));
        }
        affinity["preferredDuringSchedulingIgnoredDuringExecution"] = terms.into();
    }
    affinity
}

fn node_term(dice: &mut Dice, nodes: &[String]) -> Value {
    let table = [
        json!({"key": "disk", "operator": "In", "values": ["ssd"]}),
        json!({"key": "disk", "operator": "NotIn", "values": ["hdd"]}),
        json!({"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["z0", "z1"]}),
        json!({"key": "rack", "operator": "Exists"}),
        json!({"key": "topology.kubernetes.io/region", "operator": "DoesNotExist"}),
        json!({"key": "cores", "operator": "Gt", "values": ["4"]}),
        json!({"key": "cores", "operator": "Lt", "values": ["16"]}),
    ];
    let mut term = json!({});
    if dice.chance(90) {
        term["matchExpressions"] = (0..dice.between(1, 2)).map(|_| dice.pick(&table).clone()).collect();
    }
    if dice.chance(12) {
        let some: Vec<&String> = nodes.iter().filter(|_| dice.chance(40)).take(1).collect();
        if !some.is_empty() {
            let operator = dice.pick(&["In", "In", "NotIn"]);
            let mut fields = vec![json!({"key": "metadata.name", "operator": operator, "values": some})];
            if dice.chance(25) {
                fields.push(json!({"key": "metadata.name", "operator": "In", "values": [dice.pick(nodes)]}));
            }
            term["matchFields"] = fields.into();
        }
    }
    term
}

fn pod_affinity(dice: &mut Dice, labels: &Value) -> Value {
    let mut affinity = json!({});
    if dice.chance(55) {
        let terms: Vec<Value> = (0..dice.between(1, 2)).map(|_| pod_term(dice, labels)).collect();
        affinity["requiredDuringSchedulingIgnoredDuringExecution"] = terms.into();
    }
    if dice.chance(60) {
        let mut terms = Vec::new();
        for _ in 0..dice.between(1, 2) {
            terms.push(json!({"weight": dice.between(1, 100), "podAffinityTerm": pod_term(dice, labels)}));
        }
        affinity["preferredDuringSchedulingIgnoredDuringExecution"] = terms.into();
    }
    affinity
}

fn pod_term(dice: &mut Dice, labels: &Value) -> Value {
    let mut term = json!({"topologyKey": dice.pick(&TOPOLOGIES)});
    add_selector(dice, &mut term, labels);
    if dice.chance(20) {
        term["namespaces"] = dice.pick(&[json!(["n1"]), json!(["n2", "n3"])]).clone();
    }
    if dice.chance(20) {
        let not_x = json!({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["x"]}]});
        term["namespaceSelector"] = dice.pick(&[json!({}), json!({"matchLabels": {"team": "x"}}), not_x]).clone();
    }
    term
}

/// A label selector, and label keys as the API server adds them to it.
fn add_selector(dice: &mut Dice, to: &mut Value, labels: &Value) {
    let app = *dice.pick(&["a", "b", "c"]);
    let mut selector = match dice.below(10) {
        0 => json!({}),
        1 => return,
        2 => json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["t1"]}]}),
        3 => json!({"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}),
        4 => json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": [app]}]}),
        5 => json!({"matchLabels": {"app": app}, "matchExpressions": [{"key": "tier", "operator": "Exists"}]}),
        _ => json!({"matchLabels": {"app": app}}),
    };
    let spreads = to["whenUnsatisfiable"].is_string();
    if dice.chance(20) {
        let apart = !spreads && dice.chance(50);
        to[if apart { "mismatchLabelKeys" } else { "matchLabelKeys" }] = json!(["version"]);
        if let Some(version) = labels["version"].as_str() {
            let operator = if apart { "NotIn" } else { "In" };
            let own = json!({"key": "version", "operator": operator, "values": [version]});
            match selector["matchExpressions"].as_array_mut() {
                Some(expressions) => expressions.push(own),
                None => selector["matchExpressions"] = json!([own]),
            }
        }
    }
    to["labelSelector"] = selector;
}

fn spread(dice: &mut Dice, labels: &Value) -> Value {
    let required = dice.chance(50);
    let mut constraint = json!({
        "maxSkew": dice.between(1, 3), "topologyKey": dice.pick(&TOPOLOGIES),
        "whenUnsatisfiable": if required { "DoNotSchedule" } else { "ScheduleAnyway" },
    });
    add_selector(dice, &mut constraint, labels);
    if required && dice.chance(30) {
        constraint["minDomains"] = dice.between(1, 4).into();
    }
    for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
        if dice.chance(40) {
            constraint[field] = (*dice.pick(&["Honor", "Ignore"])).into();
        }
    }
    constraint
}
