//! Changes of a running container's cpu and memory: what it has, and how what is wanted comes about. Whether a pod may
//! grow at all is decided by who admits pods to the node; here its spec holds only what it may have.

use coracle_meta::Quantity;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, ResourceRequirements};

use crate::observed::Instance;

/// What can be changed without a new pod.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// Why a pod's wish for other resources does not come true yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hindrance {
    /// Not now: others use what it wants.
    Deferred(String),
    /// Never on this node.
    Infeasible(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    InPlace,
    /// The container's policy wants it started anew.
    Restart,
}

/// From what a container has to what it should have.
pub(crate) fn change(container: &Container, actual: &ResourceRequirements) -> Change {
    let wanted = container.resources.clone().unwrap_or_default();
    let changed: Vec<&str> = RESIZABLE.into_iter().filter(|name| differs(&wanted, actual, name)).collect();
    let restarts = |name: &&str| {
        let mut policies = container.resize_policy.iter().flatten();
        policies.any(|policy| policy.resource_name == **name && policy.restart_policy == "RestartContainer")
    };
    match changed.iter().any(restarts) {
        _ if changed.is_empty() => Change::None,
        true => Change::Restart,
        false => Change::InPlace,
    }
}

fn differs(one: &ResourceRequirements, two: &ResourceRequirements, name: &str) -> bool {
    let amount = |list: &Option<std::collections::BTreeMap<String, _>>| {
        let found: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity> =
            list.as_ref().and_then(|list| list.get(name));
        found.and_then(|quantity| quantity.0.parse::<Quantity>().ok())
    };
    amount(&one.requests) != amount(&two.requests) || amount(&one.limits) != amount(&two.limits)
}

/// What a running container has: as it was changed last, as was reported, or as it was made with.
pub(crate) fn actual(
    pod: &Pod,
    container: &Container,
    instance: &Instance,
    resized: Option<&(String, ResourceRequirements)>,
) -> ResourceRequirements {
    if let Some((_, resources)) = resized.filter(|(id, _)| *id == instance.id) {
        return resources.clone();
    }
    if let Some(resources) = reported(pod, instance).and_then(|status| status.resources.clone()) {
        return resources;
    }
    let made_with = instance.resources.clone();
    made_with.or_else(|| container.resources.clone()).unwrap_or_default()
}

fn reported<'a>(pod: &'a Pod, instance: &Instance) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.into_iter().find(|status| status.container_id.as_deref() == Some(&instance.container_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ContainerResizePolicy;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;

    fn resources(cpu: &str, memory: &str) -> ResourceRequirements {
        let amounts = [("cpu", cpu), ("memory", memory)];
        let requests = amounts.map(|(name, amount)| (name.to_owned(), Amount(amount.to_owned())));
        ResourceRequirements { requests: Some(requests.into()), ..ResourceRequirements::default() }
    }

    #[test]
    fn only_other_amounts_are_a_change_and_a_policy_may_want_a_restart() {
        let policy = |resource_name: &str, restart_policy: &str| ContainerResizePolicy {
            resource_name: resource_name.into(),
            restart_policy: restart_policy.into(),
        };
        let container = Container {
            resources: Some(resources("100m", "1Gi")),
            resize_policy: Some(vec![policy("cpu", "NotRequired"), policy("memory", "RestartContainer")]),
            ..Container::default()
        };
        assert_eq!(change(&container, &resources("0.1", "1024Mi")), Change::None);
        assert_eq!(change(&container, &resources("200m", "1Gi")), Change::InPlace);
        assert_eq!(change(&container, &resources("200m", "2Gi")), Change::Restart);
    }
}
