//! What nodes and pods use, as `kubectl top` shows it, and an autoscaler that follows it up and down.

use serde_json::Value;

use crate::busybox;
use crate::cluster::{Cluster, text};

/// Works until a file appears on the node, then idles.
const WORKER: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: worker}
spec:
  selector: {matchLabels: {app: worker}}
  template:
    metadata: {labels: {app: worker}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: work
        image: test.local/busybox:v1
        command: [sh, -c, 'while :; do [ -e /flag/stop ] && sleep 1; done']
        resources: {requests: {cpu: 50m}, limits: {cpu: 200m}}
        volumeMounts: [{name: flag, mountPath: /flag}]
      - name: rest
        image: test.local/busybox:v1
        command: [sh, -c, 'while :; do sleep 60; done']
        resources: {requests: {cpu: 10m}}
      volumes:
      - name: flag
        hostPath: {path: FLAG_FOLDER, type: DirectoryOrCreate}
"#;

/// As the flags here, so that nobody waits for a quarter of a minute.
const QUICK: [&str; 4] = ["--metric-resolution", "1s", "--horizontal-pod-autoscaler-sync-period", "1s"];

#[test]
fn kubectl_top_shows_use_and_an_autoscaler_follows_it() {
    let cluster = Cluster::start("usage", &QUICK);
    let archive = cluster.folder.join("busybox.tar");
    busybox::archive(&archive);
    let imported = cluster.command(&["image", "import", &archive.to_string_lossy()]);
    assert!(imported.status.success(), "{}", text(&imported));
    let flag = cluster.folder.join("flag");
    cluster.apply(&WORKER.replace("FLAG_FOLDER", &flag.to_string_lossy()));
    cluster.kubectl("rollout status deployment/worker --timeout=60s");
    shows_nodes_and_containers(&cluster);
    scales_out_and_in(&cluster, &flag);
}

fn shows_nodes_and_containers(cluster: &Cluster) {
    let row = |arguments: &str, name: &str| -> Option<Vec<String>> {
        let output = cluster.try_kubectl(&arguments.split(' ').collect::<Vec<_>>(), "");
        let shown = text(&output);
        let line = shown.lines().find(|line| line.split_whitespace().any(|word| word == name))?;
        Some(line.split_whitespace().map(str::to_owned).collect())
    };
    let node = cluster.until("the use of the node", || row("top nodes --no-headers", "node-1"));
    assert!(number(&node[1], "m") > 0 && number(&node[2], "%") <= 110 && number(&node[3], "Mi") > 0, "{node:?}");
    // The worker is held to a fifth of a processor and wants all of it.
    let work = cluster.until("the use of the worker", || {
        row("top pods --containers --no-headers", "work").filter(|row| number(&row[2], "m") >= 50)
    });
    assert!(work[0].starts_with("worker-") && number(&work[2], "m") <= 300, "{work:?}");
    let rest = row("top pods --containers --no-headers", "rest").unwrap();
    assert!(number(&rest[2], "m") < 50, "{rest:?}");
    assert!(cluster.kubectl("api-versions").lines().any(|line| line == "metrics.k8s.io/v1beta1"));
    assert!(cluster.kubectl("get podmetrics").starts_with("NAME"));
    let list =
        cluster.kubectl("get --raw /apis/metrics.k8s.io/v1beta1/namespaces/default/pods?labelSelector=app%3Dworker");
    let list: Value = serde_json::from_str(&list).unwrap();
    let containers = list["items"][0]["containers"].as_array().unwrap();
    assert_eq!(containers.iter().map(|one| one["name"].as_str().unwrap()).collect::<Vec<_>>(), ["rest", "work"]);
    assert!(list["items"][0]["window"].is_string() && list["items"][0]["timestamp"].is_string());
    assert!(cluster.refused(&["top", "pod", "nobody"], "").contains("pods \"nobody\" not found"));
    let summary = cluster.kubectl("get --raw /api/v1/nodes/node-1/proxy/stats/summary");
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert!(summary["node"]["cpu"]["usageNanoCores"].as_u64().is_some_and(|used| used > 0), "{summary:#}");
    assert!(summary["pods"][0]["containers"][0]["memory"]["workingSetBytes"].as_u64().is_some_and(|used| used > 0));
}

fn number(text: &str, unit: &str) -> u64 {
    text.strip_suffix(unit).and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{text} is not in {unit}"))
}

fn scales_out_and_in(cluster: &Cluster, flag: &std::path::Path) {
    cluster.kubectl("autoscale deployment worker --cpu-percent=80 --min=1 --max=3");
    let now = r#"{"spec":{"behavior":{"scaleDown":{"stabilizationWindowSeconds":0}}}}"#;
    cluster.kubectl_with(&["patch", "hpa", "worker", "--type=merge", "-p", now], "");
    let replicas = |count: u64| {
        let scaler = cluster.kubectl("get hpa worker -o json");
        let scaler: Value = serde_json::from_str(&scaler).unwrap();
        (scaler["status"]["currentReplicas"] == count && scaler["status"]["desiredReplicas"] == count).then_some(scaler)
    };
    // New pods have no metrics at first, and for that time an autoscaler may have nothing to go by.
    let is_limited = |scaler: &Value| {
        let metric = &scaler["status"]["currentMetrics"][0]["resource"];
        condition(scaler, "ScalingLimited") == "True TooManyReplicas"
            && condition(scaler, "ScalingActive") == "True ValidMetricFound"
            && metric["name"] == "cpu"
            && metric["current"]["averageUtilization"].is_i64()
    };
    let scaler = cluster.until("three replicas, and more wanted", || replicas(3).filter(is_limited));
    assert!(condition(&scaler, "AbleToScale").starts_with("True "), "{scaler:#}");
    assert!(cluster.kubectl("get deployment worker -o jsonpath={.spec.replicas}") == "3");
    std::fs::write(flag.join("stop"), "").unwrap();
    let scaler = cluster.until("one replica", || replicas(1));
    assert!(scaler["status"]["lastScaleTime"].is_string());
    let told = cluster.until("both events", || {
        let told =
            cluster.kubectl("get events --field-selector reason=SuccessfulRescale -o jsonpath={.items[*].message}");
        told.contains("All metrics below target").then_some(told)
    });
    assert!(
        told.contains("New size: 3; reason: cpu resource utilization (percentage of request) above target"),
        "{told}"
    );
}

fn condition(scaler: &Value, kind: &str) -> String {
    let mut conditions = scaler["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == kind).unwrap_or(&Value::Null);
    format!("{} {}", found["status"].as_str().unwrap_or("absent"), found["reason"].as_str().unwrap_or_default())
}
