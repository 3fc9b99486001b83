//! Defaults of pods and pod templates. Source: Kubernetes `pkg/apis/core/v1/defaults.go`.

use coracle_meta::Value;

use super::{fill, image, quantities, volume_defaults, within};

const CONTAINERS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

/// A pod: what every template gets, and what only pods get.
pub fn pod(pod: &mut Value) {
    let spec = pod.ensure(&["spec"]);
    pod_spec(spec);
    for member in ["containers", "initContainers"] {
        for container in spec.list_at_mut(&[member]) {
            within(container, &["resources"], quantities::requests_from_limits);
        }
    }
    within(spec, &["resources"], quantities::requests_from_limits);
    spec.set_default(&["enableServiceLinks"], true);
    if spec.bool_at(&["hostNetwork"]) {
        for member in ["containers", "initContainers"] {
            spec.list_at_mut(&[member]).iter_mut().for_each(host_ports);
        }
    }
}

/// A pod template, below `template`.
pub fn template(template: &mut Value) {
    pod_spec(template.ensure(&["spec"]));
}

fn pod_spec(spec: &mut Value) {
    account(spec);
    fill(spec, &["dnsPolicy"], "ClusterFirst");
    fill(spec, &["restartPolicy"], "Always");
    fill(spec, &["schedulerName"], "default-scheduler");
    spec.set_default(&["securityContext"], Value::map());
    spec.set_default(&["terminationGracePeriodSeconds"], 30);
    within(spec, &["overhead"], quantities::canonical);
    within(spec, &["resources"], resources);
    spec.list_at_mut(&["volumes"]).iter_mut().for_each(volume_defaults::volume);
    for member in CONTAINERS {
        spec.list_at_mut(&[member]).iter_mut().for_each(container);
    }
}

/// The account's name stands in two fields: the old one follows the new one.
fn account(spec: &mut Value) {
    let old = spec.str_at(&["serviceAccount"]).to_owned();
    if !old.is_empty() {
        fill(spec, &["serviceAccountName"], old);
    }
    let name = spec.str_at(&["serviceAccountName"]).to_owned();
    if !name.is_empty() {
        spec.set(&["serviceAccount"], name);
    }
}

fn container(container: &mut Value) {
    let policy = image::pull_policy(container.str_at(&["image"]));
    fill(container, &["imagePullPolicy"], policy);
    fill(container, &["terminationMessagePath"], "/dev/termination-log");
    fill(container, &["terminationMessagePolicy"], "File");
    for port in container.list_at_mut(&["ports"]) {
        fill(port, &["protocol"], "TCP");
    }
    for variable in container.list_at_mut(&["env"]) {
        within(variable, &["valueFrom", "fieldRef"], |field| fill(field, &["apiVersion"], "v1"));
        within(variable, &["valueFrom", "fileKeyRef"], |file| file.set_default(&["optional"], false));
        within(variable, &["valueFrom"], volume_defaults::resource_field);
    }
    within(container, &["resources"], resources);
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        within(container, &[probe], self::probe);
    }
    for hook in ["postStart", "preStop"] {
        within(container, &["lifecycle", hook], http_get);
    }
}

fn resources(resources: &mut Value) {
    within(resources, &["limits"], quantities::canonical);
    within(resources, &["requests"], quantities::canonical);
}

fn probe(probe: &mut Value) {
    fill(probe, &["timeoutSeconds"], 1);
    fill(probe, &["periodSeconds"], 10);
    fill(probe, &["successThreshold"], 1);
    fill(probe, &["failureThreshold"], 3);
    within(probe, &["grpc"], |grpc| grpc.set_default(&["service"], ""));
    http_get(probe);
}

fn http_get(handler: &mut Value) {
    within(handler, &["httpGet"], |get| {
        fill(get, &["path"], "/");
        fill(get, &["scheme"], "HTTP");
    });
}

fn host_ports(container: &mut Value) {
    for port in container.list_at_mut(&["ports"]) {
        let number = port.get("containerPort").clone();
        if !number.is_empty() {
            fill(port, &["hostPort"], number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::tree;

    #[test]
    fn a_short_pod_becomes_the_pod_that_kubernetes_shows() {
        let mut given = tree(
            r#"{"spec":{"containers":[{"name":"a","image":"nginx:1","resources":{"limits":{"cpu":"0.5"}},"ports":[{"containerPort":80}],"readinessProbe":{"httpGet":{"port":80}}}],"volumes":[{"name":"v"},{"name":"c","configMap":{"name":"x"}}]}}"#,
        );
        pod(&mut given);
        let container = r#"{"name":"a","image":"nginx:1","resources":{"limits":{"cpu":"500m"},"requests":{"cpu":"500m"}},"ports":[{"containerPort":80,"protocol":"TCP"}],"readinessProbe":{"httpGet":{"port":80,"path":"/","scheme":"HTTP"},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3},"imagePullPolicy":"IfNotPresent","terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}"#;
        let rest = r#""volumes":[{"name":"v","emptyDir":{}},{"name":"c","configMap":{"name":"x","defaultMode":420}}],"dnsPolicy":"ClusterFirst","restartPolicy":"Always","schedulerName":"default-scheduler","securityContext":{},"terminationGracePeriodSeconds":30,"enableServiceLinks":true"#;
        assert_eq!(given, tree(&format!(r#"{{"spec":{{"containers":[{container}],{rest}}}}}"#)));
    }

    #[test]
    fn a_template_gets_no_requests_from_limits() {
        let mut given = tree(r#"{"spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":"1"}}}]}}"#);
        template(&mut given);
        assert!(given.list_at(&["spec", "containers"])[0].at(&["resources", "requests"]).is_null());
    }
}
