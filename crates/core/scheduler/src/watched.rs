//! The resources that scheduling reads, and how an object of each changes what is known.

use coracle_meta::selector::LabelSelector;
use coracle_meta::{Gate, Gates, Object, Resource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::api::{apps, policy, resource as dra, scheduling, storage};

use crate::devices::DeviceClaim;
use crate::framework::{Change, Difference};
use crate::groups::GroupFacts;
use crate::node::NodeFacts;
use crate::pod::{PodInfo, PodKey};
use crate::scheduler::Scheduler;
use crate::select::{Labels, compile};
use crate::storage::{AttachmentFacts, CapacityFacts, ClaimFacts, ClassFacts, VolumeFacts, limits};

/// Groups of pods, which are followed where the gate for them is on.
const GROUPS: Resource = Resource::new("scheduling.k8s.io", "podgroups");

/// What to follow, in an order in which a pod is not judged before what it depends on was seen.
pub fn watches(gates: Gates) -> Vec<Resource> {
    gates.has(Gate::GenericWorkload).then_some(GROUPS).into_iter().chain(WATCHED).collect()
}

const WATCHED: [Resource; 16] = [
    Resource::new("", "namespaces"),
    Resource::new("", "services"),
    Resource::new("", "replicationcontrollers"),
    Resource::new("apps", "replicasets"),
    Resource::new("apps", "statefulsets"),
    Resource::new("policy", "poddisruptionbudgets"),
    Resource::new("storage.k8s.io", "storageclasses"),
    Resource::new("storage.k8s.io", "csinodes"),
    Resource::new("storage.k8s.io", "csidrivers"),
    Resource::new("storage.k8s.io", "csistoragecapacities"),
    Resource::new("storage.k8s.io", "volumeattachments"),
    Resource::new("", "persistentvolumes"),
    Resource::new("", "persistentvolumeclaims"),
    Resource::new("resource.k8s.io", "resourceclaims"),
    Resource::new("", "nodes"),
    Resource::new("", "pods"),
];

/// The name by which events call a watched resource.
pub fn watched(resource: &Resource) -> Option<&'static str> {
    const NAMES: [&str; 16] = [
        "namespaces",
        "services",
        "replicationcontrollers",
        "replicasets",
        "statefulsets",
        "poddisruptionbudgets",
        "storageclasses",
        "csinodes",
        "csidrivers",
        "csistoragecapacities",
        "volumeattachments",
        "persistentvolumes",
        "persistentvolumeclaims",
        "resourceclaims",
        "nodes",
        "pods",
    ];
    if *resource == GROUPS {
        return Some("podgroups");
    }
    WATCHED.iter().position(|known| known == resource).map(|at| NAMES[at])
}

impl Scheduler {
    pub(crate) fn set(&mut self, resource: &str, object: &Object, now: Timestamp) {
        let name = object.meta.name.as_str();
        match resource {
            "pods" => {
                if let Some(pod) = PodInfo::read(&object.bytes, &mut self.shapes) {
                    self.set_pod(pod, now);
                }
            }
            "nodes" => {
                if let Some(node) = NodeFacts::read(&object.bytes) {
                    self.set_node(node, now);
                }
            }
            "namespaces" => self.cluster.set_namespace(name, sorted(&object.meta.labels)),
            "poddisruptionbudgets" => {
                if let Ok(budget) = object.decode::<policy::v1::PodDisruptionBudget>() {
                    self.cluster.budgets.set(&budget);
                }
            }
            "services" | "replicationcontrollers" | "replicasets" | "statefulsets" => {
                self.set_workload(resource, object);
            }
            "resourceclaims" => self.set_device_claim(object, now),
            "podgroups" => self.set_group(object, now),
            _ => self.set_storage(resource, object, now),
        }
    }

    pub(crate) fn gone(&mut self, resource: &str, object: &Object, now: Timestamp) {
        let (namespace, name) = (object.meta.namespace.as_str(), object.meta.name.as_str());
        match resource {
            "pods" => self.pod_gone(&PodKey { namespace: namespace.into(), name: name.into() }, now),
            "nodes" => {
                if let Some(facts) = self.cluster.remove_node(name) {
                    self.wake(&Change::NodeGone(facts), now);
                }
            }
            "namespaces" => self.cluster.remove_namespace(name),
            "poddisruptionbudgets" => self.cluster.budgets.remove(namespace, name),
            "services" => {
                self.cluster.workloads.set_service(namespace, name, Vec::new());
            }
            "replicationcontrollers" | "replicasets" | "statefulsets" => {
                self.cluster.workloads.set_controller(kind_of(resource), namespace, name, None);
            }
            "resourceclaims" => {
                self.cluster.devices.set((namespace.to_owned(), name.to_owned()), None);
                self.cluster.turn_world();
            }
            "podgroups" => self.cluster.groups.remove(&PodKey { namespace: namespace.into(), name: name.into() }),
            _ => self.storage_gone(resource, object, now),
        }
    }

    fn set_group(&mut self, object: &Object, now: Timestamp) {
        let Ok(group) = object.decode::<scheduling::v1alpha2::PodGroup>() else { return };
        let key = PodKey { namespace: object.meta.namespace.as_str().into(), name: object.meta.name.as_str().into() };
        if self.cluster.groups.set(key.clone(), GroupFacts::new(&group)) {
            self.wake_members(&key.clone(), &Change::GroupAdded(key), now);
        }
    }

    /// What workloads select tells only by what pods are counted that have no constraints of their own.
    fn set_workload(&mut self, resource: &str, object: &Object) {
        let (namespace, name) = (&object.meta.namespace, &object.meta.name);
        let workloads = &mut self.cluster.workloads;
        let selector = match resource {
            "services" => {
                let Ok(service) = object.decode::<api::Service>() else { return };
                let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
                workloads.set_service(namespace, name, selector.into_iter().collect());
                return;
            }
            "replicationcontrollers" => {
                let Ok(controller) = object.decode::<api::ReplicationController>() else { return };
                let selector = controller.spec.as_ref().and_then(|spec| spec.selector.clone());
                selector.map(LabelSelector::from_pairs)
            }
            "replicasets" => {
                let Ok(set) = object.decode::<apps::v1::ReplicaSet>() else { return };
                set.spec.as_ref().map(|spec| compile(Some(&spec.selector)))
            }
            _ => {
                let Ok(set) = object.decode::<apps::v1::StatefulSet>() else { return };
                set.spec.as_ref().map(|spec| compile(Some(&spec.selector)))
            }
        };
        workloads.set_controller(kind_of(resource), namespace, name, selector);
    }

    fn set_device_claim(&mut self, object: &Object, now: Timestamp) {
        let Ok(claim) = object.decode::<dra::v1::ResourceClaim>() else { return };
        let (namespace, name) = (object.meta.namespace.clone(), object.meta.name.clone());
        let claim = DeviceClaim::new(&claim);
        let was = self.cluster.devices.set((namespace.clone(), name.clone()), Some(claim.clone()));
        if was.as_ref() == Some(&claim) {
            return;
        }
        let kind = if was.is_none() { Difference::Added } else { Difference::Updated };
        self.cluster.turn_world();
        self.wake(&Change::ResourceClaim { namespace, name, kind }, now);
    }

    /// What says the same as before changes nothing.
    fn set_storage(&mut self, resource: &str, object: &Object, now: Timestamp) {
        let (namespace, name) = (object.meta.namespace.clone(), object.meta.name.clone());
        let storage = &mut self.cluster.storage;
        let change = match resource {
            "persistentvolumeclaims" => {
                let Ok(claim) = object.decode::<api::PersistentVolumeClaim>() else { return };
                let facts = ClaimFacts::new(&claim);
                let was = storage.set_claim((namespace.clone(), name.clone()), Some(facts.clone()));
                Difference::between(was.as_ref(), &facts).map(|kind| Change::Claim { namespace, name, kind })
            }
            "persistentvolumes" => {
                let Ok(volume) = object.decode::<api::PersistentVolume>() else { return };
                let facts = VolumeFacts::new(&volume);
                let was = storage.set_volume(&name, Some(facts.clone()));
                Difference::between(was.as_ref(), &facts).map(Change::Volume)
            }
            "storageclasses" => {
                let Ok(class) = object.decode::<storage::v1::StorageClass>() else { return };
                let facts = ClassFacts::new(&class);
                let was = storage.set_class(&name, Some(facts.clone()));
                Difference::between(was.as_ref(), &facts).map(Change::Class)
            }
            "csinodes" => {
                let Ok(node) = object.decode::<storage::v1::CSINode>() else { return };
                let facts = limits(&node);
                let was = storage.set_limits(&name, Some(facts.clone()));
                Difference::between(was.as_ref(), &facts).map(Change::CsiNode)
            }
            "csidrivers" => {
                let Ok(driver) = object.decode::<storage::v1::CSIDriver>() else { return };
                let heeds = driver.spec.storage_capacity == Some(true);
                Difference::between(storage.set_driver(&name, Some(heeds)).as_ref(), &heeds).map(Change::Driver)
            }
            "csistoragecapacities" => {
                let Ok(capacity) = object.decode::<storage::v1::CSIStorageCapacity>() else { return };
                let facts = CapacityFacts::new(&capacity);
                let was = storage.set_capacity((namespace, name), Some(facts.clone()));
                Difference::between(was.as_ref(), &facts).map(Change::Capacity)
            }
            _ => return self.set_attachment(object),
        };
        if let Some(change) = change {
            self.storage_changed(&change, now);
        }
    }

    /// Another volume on a node helps no pod that waits.
    fn set_attachment(&mut self, object: &Object) {
        let Ok(attachment) = object.decode::<storage::v1::VolumeAttachment>() else { return };
        let facts = AttachmentFacts::new(&attachment);
        let was = self.cluster.storage.set_attachment(&object.meta.name, Some(facts.clone()));
        if was.as_ref() != Some(&facts) {
            self.cluster.turn_world();
        }
    }

    fn storage_gone(&mut self, resource: &str, object: &Object, now: Timestamp) {
        let (namespace, name) = (object.meta.namespace.clone(), object.meta.name.as_str());
        let storage = &mut self.cluster.storage;
        match resource {
            "persistentvolumeclaims" => {
                storage.set_claim((namespace, name.to_owned()), None);
            }
            "persistentvolumes" => drop(storage.set_volume(name, None)),
            "storageclasses" => drop(storage.set_class(name, None)),
            "csinodes" => drop(storage.set_limits(name, None)),
            "csidrivers" => {
                storage.set_driver(name, None);
            }
            "csistoragecapacities" => drop(storage.set_capacity((namespace, name.to_owned()), None)),
            _ => {
                storage.set_attachment(name, None);
                return self.storage_changed(&Change::AttachmentGone, now);
            }
        }
        self.cluster.turn_world();
    }

    fn storage_changed(&mut self, change: &Change, now: Timestamp) {
        self.cluster.turn_world();
        self.bind_those_prepared();
        self.wake(change, now);
    }
}

fn kind_of(resource: &str) -> &'static str {
    match resource {
        "replicasets" => "ReplicaSet",
        "statefulsets" => "StatefulSet",
        _ => "ReplicationController",
    }
}

fn sorted(labels: &[(String, String)]) -> Labels {
    let mut labels = labels.to_vec();
    labels.sort();
    labels
}
