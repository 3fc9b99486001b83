//! The tour: what a newcomer does in the first hours, in order, on one cluster.

use std::collections::BTreeSet;

use crate::cluster::{Cluster, text, traces};

const HELLO: &str = include_str!("../../../../../examples/hello.yaml");

#[test]
fn a_cluster_runs_heals_updates_survives_and_goes_without_a_trace() {
    let mut cluster = Cluster::start("tour", &[]);
    tells_how_it_is(&cluster);
    reads_like_kubernetes(&cluster);
    makes_what_a_list_holds(&cluster);
    runs_a_deployment(&cluster);
    reaches_it_by_name_address_and_port(&cluster);
    answers_logs_and_exec(&cluster);
    heals(&cluster);
    scales_updates_and_goes_back(&cluster);
    keeps_pods_away_by_taints(&cluster);
    survives_kill(&mut cluster);
    cluster.down();
    assert_eq!(traces(&cluster.name, &cluster.folder), Vec::<String>::new(), "left in the kernel");
    cluster.up(&[]);
    cluster.kubectl("rollout status deployment/hello --timeout=60s");
}

fn tells_how_it_is(cluster: &Cluster) {
    let status = cluster.command(&["status"]);
    let lines = text(&status);
    assert!(status.status.success(), "{lines}");
    for component in [
        "apiserver",
        "store",
        "scheduler",
        "controller-manager",
        "kubelet",
        "proxy",
        "runtime",
        "network",
        "node node-1",
    ] {
        assert!(lines.lines().any(|line| line.starts_with(&format!("✓ {component} "))), "{component}:\n{lines}");
    }
}

fn reads_like_kubernetes(cluster: &Cluster) {
    let nodes = cluster.kubectl("get nodes");
    assert!(nodes.starts_with("NAME") && nodes.contains("node-1") && nodes.contains("Ready"), "{nodes}");
    let resources = cluster.kubectl("api-resources");
    for resource in ["deployments", "customresourcedefinitions", "endpointslices", "poddisruptionbudgets"] {
        assert!(resources.contains(resource), "{resource} is not served:\n{resources}");
    }
    assert!(cluster.kubectl("explain deployment.spec.replicas").contains("integer"));
    assert_eq!(cluster.kubectl("auth can-i create pods").trim(), "yes");
    let missing = cluster.refused(&["get", "pod", "nobody"], "");
    assert!(missing.contains(r#"Error from server (NotFound): pods "nobody" not found"#), "{missing}");
}

/// kubectl looks up in `/openapi/v2` what it finds in no other description, as a list.
fn makes_what_a_list_holds(cluster: &Cluster) {
    let one = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "listed"}}"#;
    let list = format!(r#"{{"apiVersion": "v1", "kind": "List", "items": [{one}]}}"#);
    assert_eq!(cluster.kubectl_with(&["create", "-f", "-"], &list), "configmap/listed created\n");
}

fn runs_a_deployment(cluster: &Cluster) {
    cluster.apply(HELLO);
    cluster.kubectl("rollout status deployment/hello --timeout=60s");
    let pods = cluster.kubectl("get pods -l app=hello");
    assert_eq!(pods.matches("1/1").count(), 3, "{pods}");
    let described = cluster.kubectl("describe pods -l app=hello");
    for reason in ["Scheduled", "Pulled", "Created", "Started"] {
        assert!(described.contains(reason), "no event {reason}:\n{described}");
    }
}

/// Names of the running pods of the Deployment.
fn pods(cluster: &Cluster) -> BTreeSet<String> {
    let names = cluster.kubectl("get pods -l app=hello -o jsonpath={.items[*].metadata.name}");
    names.split_whitespace().map(str::to_owned).collect()
}

fn any_pod(cluster: &Cluster) -> String {
    pods(cluster).pop_first().expect("the Deployment has pods")
}

/// What answers `url` when asked `times` times from inside a pod.
fn fetch(cluster: &Cluster, url: &str, times: u32) -> String {
    let pod = any_pod(cluster);
    let times = times.to_string();
    cluster.kubectl_with(&["exec", &pod, "--", "/coracle", "demo", "fetch", "-n", &times, url], "")
}

fn reaches_it_by_name_address_and_port(cluster: &Cluster) {
    let address = cluster.kubectl("get service hello -o jsonpath={.spec.clusterIP}");
    for url in ["http://hello/", "http://hello.default.svc.cluster.local/", &format!("http://{address}/")] {
        assert!(fetch(cluster, url, 1).starts_with("Hello from pod hello-"), "{url}");
    }
    let answers = fetch(cluster, &format!("http://{address}/"), 60);
    let answered: BTreeSet<_> = answers.lines().filter_map(|line| line.split(' ').nth(3)).collect();
    assert_eq!(answered.len(), 3, "the load is not spread:\n{answers}");
    let node = cluster.kubectl("get nodes -o jsonpath={.items[0].status.addresses[0].address}");
    let from_host =
        std::process::Command::new("curl").args(["-sS", "-m", "5", &format!("http://{node}:30080/")]).output();
    let from_host = text(&from_host.unwrap());
    assert!(from_host.starts_with("Hello from pod hello-"), "{from_host}");
}

fn answers_logs_and_exec(cluster: &Cluster) {
    let pod = any_pod(cluster);
    assert!(cluster.kubectl(&format!("logs {pod}")).contains("listening on port 8080"));
    let version = cluster.kubectl_with(&["exec", &pod, "--", "/coracle", "version"], "");
    assert!(version.starts_with("coracle "), "{version}");
    let failed = cluster.refused(&["exec", &pod, "--", "/coracle", "no-such-command"], "");
    assert!(failed.contains("command terminated with exit code 2"), "{failed}");
}

fn heals(cluster: &Cluster) {
    let before = pods(cluster);
    let victim = any_pod(cluster);
    cluster.kubectl(&format!("delete pod {victim} --wait=false"));
    cluster.until("the replacement of a deleted pod", || {
        let now = pods(cluster);
        (now.len() == 3 && !now.contains(&victim) && now.intersection(&before).count() == 2).then_some(())
    });
    cluster.kubectl("wait pod -l app=hello --for=condition=Ready --timeout=60s");
}

fn scales_updates_and_goes_back(cluster: &Cluster) {
    cluster.kubectl("scale deployment/hello --replicas=5");
    cluster.kubectl("rollout status deployment/hello --timeout=60s");
    assert_eq!(pods(cluster).len(), 5);
    cluster.kubectl("set env deployment/hello COLOUR=blue");
    cluster.kubectl("rollout status deployment/hello --timeout=60s");
    let colour =
        "get deployment hello -o jsonpath={.spec.template.spec.containers[0].env[?(@.name==\"COLOUR\")].value}";
    assert_eq!(cluster.kubectl(colour), "blue");
    let history = cluster.kubectl("rollout history deployment/hello");
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    cluster.kubectl("rollout undo deployment/hello");
    cluster.kubectl("rollout status deployment/hello --timeout=60s");
    assert_eq!(cluster.kubectl(colour), "");
    cluster.kubectl("scale deployment/hello --replicas=3");
    cluster.kubectl("rollout status deployment/hello --timeout=60s");
}

fn keeps_pods_away_by_taints(cluster: &Cluster) {
    cluster.kubectl("taint nodes node-1 closed=yes:NoSchedule");
    cluster.kubectl("scale deployment/hello --replicas=4");
    let message = cluster.until("the reason of a pod that waits", || {
        let events =
            cluster.kubectl("get events --field-selector reason=FailedScheduling -o jsonpath={.items[*].message}");
        (!events.is_empty()).then_some(events)
    });
    assert!(message.contains("0/1 nodes are available: 1 node(s) had untolerated taint(s)."), "{message}");
    cluster.kubectl("taint nodes node-1 closed-");
    cluster.kubectl("rollout status deployment/hello --timeout=60s");
    cluster.kubectl("scale deployment/hello --replicas=3");
    cluster.kubectl("rollout status deployment/hello --timeout=60s");
}

fn survives_kill(cluster: &mut Cluster) {
    let identities = |cluster: &Cluster| {
        let each = "{.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
        let template = format!("jsonpath={{range .items[*]}}{each}{{\"\\n\"}}{{end}}");
        let found = cluster.kubectl_with(&["get", "pods", "-l", "app=hello", "-o", &template], "");
        let mut ids: Vec<_> = found.lines().map(str::to_owned).collect();
        ids.sort();
        ids
    };
    cluster.until("the end of surplus pods", || (pods(cluster).len() == 3).then_some(()));
    let before = identities(cluster);
    cluster.kubectl("create configmap acknowledged --from-literal=key=value");
    cluster.kill();
    cluster.up(&[]);
    assert_eq!(cluster.kubectl("get configmap acknowledged -o jsonpath={.data.key}"), "value");
    cluster.kubectl("wait pod -l app=hello --for=condition=Ready --timeout=60s");
    assert_eq!(identities(cluster), before, "containers were not taken over as they were");
    assert!(fetch(cluster, "http://hello/", 1).starts_with("Hello from pod hello-"));
}
