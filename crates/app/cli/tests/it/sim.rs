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

const GANGS: &str = r#"
apiVersion: scheduling.k8s.io/v1alpha2
kind: Workload
metadata: {name: training}
spec:
  podGroupTemplates:
  - name: workers
    schedulingPolicy: {gang: {minCount: 3}}
---
apiVersion: scheduling.k8s.io/v1alpha2
kind: PodGroup
metadata: {name: one}
spec:
  podGroupTemplateRef: {workload: {workloadName: training, podGroupTemplateName: workers}}
  schedulingPolicy: {gang: {minCount: 3}}
---
apiVersion: scheduling.k8s.io/v1alpha2
kind: PodGroup
metadata: {name: two}
spec: {schedulingPolicy: {gang: {minCount: 3}}}
"#;

/// A pod that half a hollow node has room for.
fn gang_member(group: &str, at: u32) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {group}-{at}, labels: {{gang: {group}}}}}\nspec:\n  \
         schedulingGroup: {{podGroupName: {group}}}\n  nodeSelector: {{coracle.dev/hollow: hollow}}\n  containers:\n  \
         - {{name: c, image: registry.example/never-pulled:v1, resources: {{requests: {{cpu: 30}}}}}}\n---\n"
    )
}

#[test]
fn of_two_gangs_that_fit_one_by_one_each_goes_whole() {
    let gates = "GenericWorkload=true,GangScheduling=true";
    let version = "scheduling.k8s.io/v1alpha2=true";
    let flags = ["--hollow-nodes", "2", "--feature-gates", gates, "--runtime-config", version];
    let cluster = Cluster::start("gangs", &flags);
    cluster.apply(GANGS);
    // The pods of both come by turns: there is room for four of the six.
    let pods: String = (0..3).flat_map(|at| ["one", "two"].map(|group| gang_member(group, at))).collect();
    cluster.apply(&pods);
    let conditions = "get podgroups -o jsonpath={range.items[*]}{.metadata.name}={.status.conditions[0].reason};{end}";
    let told = || {
        let told = cluster.kubectl(conditions);
        (told.contains("Scheduled") && told.contains("Unschedulable")).then_some(told)
    };
    let told = cluster.until("one gang placed and one refused", told);
    let (first, second) = if told.contains("one=Scheduled") { ("one", "two") } else { ("two", "one") };
    let nodes =
        |group: &str| cluster.kubectl(&format!("get pods -l gang={group} -o jsonpath={{.items[*].spec.nodeName}}"));
    assert_eq!((nodes(first).split_whitespace().count(), nodes(second).as_str()), (3, ""));
    let rows = cluster.kubectl("get podgroups --no-headers");
    let row = rows.lines().find(|row| row.starts_with("one")).unwrap_or_default();
    let columns: Vec<&str> = row.split_whitespace().collect();
    let status = if first == "one" { "Scheduled" } else { "Unschedulable" };
    assert_eq!(columns[..4], ["one", "Gang", "training", status], "{rows}");
    cluster.kubectl(&format!("delete podgroup/{first} --wait=false"));
    assert!(cluster.kubectl("get podgroups -o name").contains(first), "pods hold their group");
    cluster.kubectl(&format!("delete pods -l gang={first} --wait=true"));
    let gone = || (!cluster.kubectl("get podgroups -o name").contains(first)).then_some(());
    cluster.until("the end of the group that no pod belongs to", gone);
    let went = || (nodes(second).split_whitespace().count() == 3).then_some(());
    cluster.until("the second gang's turn", went);
}
