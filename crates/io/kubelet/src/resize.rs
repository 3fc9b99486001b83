//! Whether a pod may have the resources that it was given after it had started: it may, unless the node has not got
//! them. Until then the kubelet goes on with those that the pod had.

use coracle_podlife::{Hindrance, each_container, request};
use coracle_reconcile::view::{Index, resource_of};
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use crate::fields::quantity;
use crate::node_context::{NodeContext, uid_of};
use crate::pods::has_ended;

/// Resources by name, and the unit in which amounts are told, in billionths.
const RESOURCES: [(&str, i128); 2] = [("cpu", 1_000_000), ("memory", 1_000_000_000)];

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
    let capacity = |name: &str| node.allocatable.get(name).map_or(0, |amount| quantity(amount));
    for (name, unit) in RESOURCES {
        let (wanted, capacity) = (request(pod, name), capacity(name));
        if wanted > capacity {
            let (wanted, capacity) = (wanted / unit, capacity / unit);
            return Some(Hindrance::Infeasible(format!(
                "Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {capacity}"
            )));
        }
    }
    let here = node.view.by_index(&resource_of::<Pod>(), Index::Node, &node.options.node_name);
    let others = here.iter().filter(|other| other.meta.uid != uid_of(pod));
    let others: Vec<_> = others.filter_map(|one| one.decode::<Pod>().ok()).filter(|other| !has_ended(other)).collect();
    for (name, unit) in RESOURCES {
        let (wanted, capacity) = (request(pod, name), capacity(name));
        let used: i128 = others.iter().map(|other| request(other, name)).sum();
        if wanted + used > capacity {
            let (wanted, used, capacity) = (wanted / unit, used / unit, capacity / unit);
            return Some(Hindrance::Deferred(format!(
                "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
            )));
        }
    }
    None
}

fn resources(pod: &Pod) -> Vec<(String, Option<ResourceRequirements>)> {
    each_container(pod).into_iter().map(|(_, container)| (container.name, container.resources)).collect()
}

fn containers_mut(pod: &mut Pod) -> impl Iterator<Item = &mut Container> {
    pod.spec.iter_mut().flat_map(|spec| spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()))
}
