//! Simulated nodes: those of `up` in its own process, and those of `sim` over HTTPS, which leave no trace where that is
//! wished.

use std::process::{Command, Stdio};

use crate::cluster::{BINARY, Cluster};

const HOLLOW: &str = "
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: many}
spec:
  replicas: 6
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      nodeSelector: {coracle.dev/hollow: hollow}
      containers: [{name: c, image: registry.example/never-pulled:v1}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: brief}
spec:
  completions: 4
  parallelism: 4
  template:
    metadata: {annotations: {coracle.dev/run-for: 50ms}}
    spec:
      restartPolicy: OnFailure
      nodeSelector: {coracle.dev/hollow: hollow}
      containers: [{name: c, image: registry.example/never-pulled:v1}]
";

#[test]
fn hollow_nodes_run_what_no_machine_could() {
    let cluster = Cluster::start("sim", &["--hollow-nodes", "3"]);
    assert!(cluster.log().contains("✓ 3 hollow nodes"), "{}", cluster.log());
    cluster.apply(HOLLOW);
    cluster.kubectl("rollout status statefulset/many --timeout=60s");
    cluster.kubectl("wait job/brief --for=condition=Complete --timeout=60s");
    let status = String::from_utf8(cluster.command(&["status"]).stdout).unwrap();
    assert!(status.contains("3 of 3 nodes"), "{status}");
    cluster.kubectl("delete statefulset/many --wait=true");
    let gone = || cluster.kubectl("get pods -l app=many -o name").is_empty().then_some(());
    cluster.until("the end of all pods", gone);
}

#[test]
fn a_simulation_adds_its_nodes_and_takes_them_along() {
    let cluster = Cluster::start("simalone", &[]);
    let mut command = Command::new(BINARY);
    command.args(["sim", "--nodes", "5", "--prefix", "extra-", "--remove", "--taint", "a=b:NoSchedule"]);
    command.arg("--kubeconfig").arg(cluster.kubeconfig()).stdin(Stdio::null()).stderr(Stdio::null());
    let mut process = command.spawn().unwrap();
    let nodes = ["get", "nodes", "-l", "coracle.dev/hollow=extra", "--no-headers"];
    let ready = || {
        let said = cluster.kubectl_with(&nodes, "");
        (said.lines().filter(|line| line.contains(" Ready ")).count() == 5).then_some(())
    };
    cluster.until("readiness of five nodes", ready);
    let taints = cluster.kubectl("get node extra-4 -o jsonpath={.spec.taints}");
    assert!(taints.contains(r#""key":"a""#), "{taints}");
    let pid = rustix::process::Pid::from_child(&process);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(process.wait().unwrap().success());
    assert_eq!(cluster.kubectl_with(&nodes, ""), "");
}
