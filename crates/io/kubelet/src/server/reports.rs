//! What the node runs and what that uses.

use std::fmt::Write;

use coracle_proto::cri;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, json as json_answer, text};
use crate::node::own_pods;
use crate::node_context::NodeContext;
use crate::observe::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID};

pub(super) fn pods(node: &NodeContext) -> Answer {
    let pods = own_pods(node);
    let items: Vec<&k8s_openapi::api::core::v1::Pod> = pods.iter().map(AsRef::as_ref).collect();
    json_answer(&json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

/// `stats/summary`, as far as the runtime tells.
pub(super) async fn summary(node: &NodeContext) -> Answer {
    let stats = match node.runtime.list_container_stats().await {
        Ok(stats) => stats,
        Err(status) => return text(StatusCode::INTERNAL_SERVER_ERROR, status.message()),
    };
    let now = node.clock.now().to_string();
    let mut pods: Vec<(String, Value)> = Vec::new();
    for one in &stats {
        let label = |key: &str| label(one, key);
        let uid = label(POD_UID);
        let place = match pods.iter().position(|(known, _)| *known == uid) {
            Some(place) => place,
            None => {
                let reference = json!({"name": label(POD_NAME), "namespace": label(POD_NAMESPACE), "uid": uid});
                pods.push((uid.clone(), json!({"podRef": reference, "startTime": now, "containers": []})));
                pods.len() - 1
            }
        };
        let container = json!({
            "name": label(CONTAINER_NAME), "startTime": now,
            "cpu": {"time": now, "usageCoreNanoSeconds": cpu_nanos(one)},
            "memory": {"time": now, "workingSetBytes": memory_bytes(one)},
        });
        if let Some(containers) = pods[place].1["containers"].as_array_mut() {
            containers.push(container);
        }
    }
    let pods: Vec<Value> = pods.into_iter().map(|(_, pod)| pod).collect();
    json_answer(&json!({"node": {"nodeName": node.options.node_name, "startTime": now}, "pods": pods}))
}

/// `metrics/resource`: what metrics-server reads.
pub(super) async fn resource_metrics(node: &NodeContext) -> Answer {
    let stats = match node.runtime.list_container_stats().await {
        Ok(stats) => stats,
        Err(status) => return text(StatusCode::INTERNAL_SERVER_ERROR, status.message()),
    };
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, value: &dyn Fn(&cri::ContainerStats) -> f64| {
        let _ = writeln!(out, "# TYPE {name} {kind}");
        for one in &stats {
            let label = |key: &str| label(one, key);
            let _ = writeln!(
                out,
                "{name}{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}} {}",
                label(CONTAINER_NAME),
                label(POD_NAMESPACE),
                label(POD_NAME),
                value(one)
            );
        }
    };
    family("container_cpu_usage_seconds_total", "counter", &|one| cpu_nanos(one) as f64 / 1e9);
    family("container_memory_working_set_bytes", "gauge", &|one| memory_bytes(one) as f64);
    text(StatusCode::OK, &out)
}

fn label(stats: &cri::ContainerStats, key: &str) -> String {
    let labels = stats.attributes.as_ref().map(|attributes| &attributes.labels);
    labels.and_then(|labels| labels.get(key)).cloned().unwrap_or_default()
}

fn cpu_nanos(stats: &cri::ContainerStats) -> u64 {
    let usage = stats.cpu.as_ref().and_then(|cpu| cpu.usage_core_nano_seconds.as_ref());
    usage.map_or(0, |usage| usage.value)
}

fn memory_bytes(stats: &cri::ContainerStats) -> u64 {
    let used = stats.memory.as_ref().and_then(|memory| memory.working_set_bytes.as_ref());
    used.map_or(0, |used| used.value)
}
