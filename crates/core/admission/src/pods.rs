//! What plugins read of pods.

use coracle_meta::{Quantity, Value};

pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// Containers and init containers, in upstream's order.
pub fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    pod.list_at(&["spec", "initContainers"]).iter().chain(pod.list_at(&["spec", "containers"]))
}

/// Runs over every container to be edited.
pub fn each_container(pod: &mut Value, mut edit: impl FnMut(&mut Value)) {
    for key in ["initContainers", "containers"] {
        pod.list_at_mut(&["spec", key]).iter_mut().for_each(&mut edit);
    }
}

pub fn is_mirror(pod: &Value) -> bool {
    !pod.at(&["metadata", "annotations", MIRROR]).is_null()
}

pub fn quantity(value: &Value) -> Option<Quantity> {
    if value.is_null() { None } else { Quantity::from_value(value).ok() }
}

fn is_sidecar(container: &Value) -> bool {
    container.str_at(&["restartPolicy"]) == "Always"
}

/// What a pod takes of a resource: the larger of its containers' sum and of what starting needs at once, and its
/// overhead. `kind` is `requests` or `limits`. `None` where nothing names the resource. Source: Kubernetes
/// `component-helpers/resource`.
pub fn pod_total(pod: &Value, kind: &str, resource: &str) -> Option<Quantity> {
    let of = |container: &Value| quantity(container.at(&["resources", kind, resource]));
    let plus = |left: Option<Quantity>, right: Option<Quantity>| match (left, right) {
        (Some(left), Some(right)) => Some(left.plus(right)),
        (left, right) => left.or(right),
    };
    let mut running: Option<Quantity> = pod.list_at(&["spec", "containers"]).iter().map(of).fold(None, plus);
    let (mut sidecars, mut starting) = (None, None);
    for container in pod.list_at(&["spec", "initContainers"]) {
        if is_sidecar(container) {
            sidecars = plus(sidecars, of(container));
            starting = starting.max(sidecars);
        } else if let Some(own) = of(container) {
            starting = starting.max(plus(sidecars, Some(own)));
        }
    }
    running = plus(running, sidecars).max(starting);
    if let Some(own) = quantity(pod.at(&["spec", "resources", kind, resource])) {
        running = Some(own);
    }
    let overhead = quantity(pod.at(&["spec", "overhead", resource]));
    if running.is_some() { plus(running, overhead) } else { running }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_takes_the_larger_of_running_and_starting() {
        let json = br#"{"spec":{"containers":[{"resources":{"requests":{"cpu":"1"}}},{"resources":{"requests":{"cpu":"500m"}}}],
            "initContainers":[{"resources":{"requests":{"cpu":"2"}}}]}}"#;
        let pod = Value::from_json(json).unwrap();
        assert_eq!(pod_total(&pod, "requests", "cpu").unwrap().to_string(), "2");
        assert!(pod_total(&pod, "limits", "cpu").is_none());
    }
}
