//! Whether a pod may have the resources that it was given after it had started: it may, unless the node has not got
//! them. Until then the kubelet goes on with those that the pod had.

use coracle_podlife::{ContainerKind, Hindrance, each_container};
use coracle_reconcile::view::{Index, resource_of};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use crate::fields::quantity;
use crate::node_context::{NodeContext, uid_of};

/// In billionths of a core and of a byte.
#[derive(Clone, Copy, Default)]
struct Amounts {
    cpu: i128,
    memory: i128,
}

/// Puts the resources that the pod had back into `pod` where it may not have those that it asks for, and says why.
pub(crate) fn admit(node: &NodeContext, pod: &mut Pod, had: &Pod) -> Option<Hindrance> {
    if resources(pod) == resources(had) {
        return None;
    }
    let hindrance = hindrance(node, pod)?;
    let had = resources(had);
    for container in containers_mut(pod) {
        if let Some((_, resources)) = had.iter().find(|(name, _)| *name == container.name) {
            container.resources = resources.clone();
        }
    }
    Some(hindrance)
}

/// The pod as the node last told of it: what it has is in its status, where a daemon before this one left it.
pub(crate) fn as_allocated(pod: &Pod) -> Pod {
    let mut had = pod.clone();
    let status = pod.status.clone().unwrap_or_default();
    let told: Vec<_> = status.container_statuses.into_iter().chain(status.init_container_statuses).flatten().collect();
    for container in containers_mut(&mut had) {
        let told = told.iter().find(|told| told.name == container.name && told.container_id.is_some());
        let Some(told) = told.filter(|told| told.allocated_resources.is_some()) else { continue };
        let asked = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        if told.allocated_resources.as_ref() != asked {
            container.resources = told.resources.clone();
        }
    }
    had
}

fn hindrance(node: &NodeContext, pod: &Pod) -> Option<Hindrance> {
    let wanted = requests(pod);
    let of_node = |name: &str| node.allocatable.get(name).map_or(0, |amount| quantity(amount));
    let capacity = Amounts { cpu: of_node("cpu"), memory: of_node("memory") };
    let others = node.view.by_index(&resource_of::<Pod>(), Index::Node, &node.options.node_name);
    let mut used = Amounts::default();
    for other in others.iter().filter(|other| other.meta.uid != uid_of(pod)).filter_map(|one| one.decode::<Pod>().ok())
    {
        let phase = other.status.as_ref().and_then(|status| status.phase.as_deref());
        if !matches!(phase, Some("Succeeded" | "Failed")) {
            let more = requests(&other);
            used = Amounts { cpu: used.cpu + more.cpu, memory: used.memory + more.memory };
        }
    }
    let checks = [
        ("cpu", wanted.cpu, used.cpu, capacity.cpu, 1_000_000),
        ("memory", wanted.memory, used.memory, capacity.memory, 1_000_000_000),
    ];
    for (name, wanted, _, capacity, unit) in checks {
        if wanted > capacity {
            let (wanted, capacity) = (wanted / unit, capacity / unit);
            return Some(Hindrance::Infeasible(format!(
                "Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {capacity}"
            )));
        }
    }
    for (name, wanted, used, capacity, unit) in checks {
        if wanted + used > capacity {
            let (wanted, used, capacity) = (wanted / unit, used / unit, capacity / unit);
            return Some(Hindrance::Deferred(format!(
                "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
            )));
        }
    }
    None
}

/// What the containers that stay ask for together.
fn requests(pod: &Pod) -> Amounts {
    let mut sum = Amounts::default();
    for (kind, container) in each_container(pod) {
        if matches!(kind, ContainerKind::Regular | ContainerKind::Sidecar) {
            let requests = container.resources.and_then(|resources| resources.requests).unwrap_or_default();
            let amount = |name: &str| requests.get(name).map_or(0, |amount| quantity(&amount.0));
            sum = Amounts { cpu: sum.cpu + amount("cpu"), memory: sum.memory + amount("memory") };
        }
    }
    sum
}

fn resources(pod: &Pod) -> Vec<(String, Option<ResourceRequirements>)> {
    each_container(pod).into_iter().map(|(_, container)| (container.name, container.resources)).collect()
}

fn containers_mut(pod: &mut Pod) -> impl Iterator<Item = &mut Container> {
    pod.spec.iter_mut().flat_map(|spec| spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()))
}
