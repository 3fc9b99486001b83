//! Claims, volumes, classes and drivers, as far as they bind pods to nodes; and what is set aside for pods that are
//! decided about while the API does not show it yet.

use std::collections::{BTreeMap, HashMap};

use coracle_meta::quantity::Quantity;
use coracle_meta::selector::LabelSelector;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::api::storage::v1 as storage;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::select::{Labels, NodeSelector, compile};

pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Namespace and name.
pub type ClaimKey = (String, String);

/// How many volumes a node attaches, by driver; `None` where a driver has no limit.
pub type Limits = BTreeMap<String, Option<i64>>;

#[derive(Clone, Debug, Default)]
pub struct Storage {
    claims: HashMap<ClaimKey, ClaimFacts>,
    volumes: BTreeMap<String, VolumeFacts>,
    classes: HashMap<String, ClassFacts>,
    /// By node.
    csi_nodes: HashMap<String, Limits>,
    /// Drivers, and whether their capacity is to be heeded.
    drivers: HashMap<String, bool>,
    capacities: BTreeMap<ClaimKey, CapacityFacts>,
    attachments: BTreeMap<String, AttachmentFacts>,
    /// Volumes promised to claims.
    promised: HashMap<String, ClaimKey>,
    /// Nodes chosen for claims whose volume is yet to be made.
    chosen: HashMap<ClaimKey, String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClaimFacts {
    pub uid: String,
    pub volume: String,
    pub class: String,
    pub size: i64,
    pub modes: Vec<String>,
    pub volume_mode: String,
    pub selector: Option<LabelSelector>,
    pub bound: bool,
    pub lost: bool,
    pub deleting: bool,
    pub selected_node: Option<String>,
    /// The pod that an ephemeral claim belongs to, by uid.
    pub owner_pod: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeFacts {
    pub uid: String,
    pub class: String,
    pub size: i64,
    pub modes: Vec<String>,
    pub volume_mode: String,
    pub labels: Labels,
    pub affinity: Option<NodeSelector>,
    /// Namespace, name and uid of the claim it is kept for.
    pub claim: Option<(String, String, String)>,
    pub available: bool,
    pub deleting: bool,
    /// Driver and handle.
    pub csi: Option<(String, String)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClassFacts {
    pub provisioner: String,
    /// Volumes are bound once a pod needs them; `None` where the class does not say.
    pub waits: Option<bool>,
    /// Alternatives of labels with their allowed values; empty allows every node.
    pub topologies: Vec<Vec<(String, Vec<String>)>>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct CapacityFacts {
    pub class: String,
    pub size_max: Option<i64>,
    pub nodes: LabelSelector,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AttachmentFacts {
    pub node: String,
    pub attacher: String,
    pub volume: String,
}

fn size(list: Option<&BTreeMap<String, Text>>) -> i64 {
    list.and_then(|list| list.get("storage")).map_or(0, units)
}

fn units(text: &Text) -> i64 {
    text.0.parse::<Quantity>().map_or(0, |quantity| quantity.units())
}

impl ClaimFacts {
    pub fn new(object: &api::PersistentVolumeClaim) -> ClaimFacts {
        let spec = object.spec.clone().unwrap_or_default();
        let annotations = object.metadata.annotations.clone().unwrap_or_default();
        let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
        let owners = object.metadata.owner_references.iter().flatten();
        let volume = spec.volume_name.unwrap_or_default();
        ClaimFacts {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            bound: !volume.is_empty() && annotations.contains_key(BIND_COMPLETED),
            volume,
            class: annotations.get(CLASS_ANNOTATION).cloned().or(spec.storage_class_name).unwrap_or_default(),
            size: size(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref())),
            modes: spec.access_modes.unwrap_or_default(),
            volume_mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".into()),
            selector: spec.selector.as_ref().map(|selector| compile(Some(selector))),
            lost: phase == Some("Lost"),
            deleting: object.metadata.deletion_timestamp.is_some(),
            selected_node: annotations.get(SELECTED_NODE).cloned(),
            owner_pod: owners
                .filter(|owner| owner.controller == Some(true) && owner.kind == "Pod")
                .map(|owner| owner.uid.clone())
                .next(),
        }
    }
}

impl VolumeFacts {
    pub fn new(object: &api::PersistentVolume) -> VolumeFacts {
        let spec = object.spec.clone().unwrap_or_default();
        let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
        let required = spec.node_affinity.and_then(|affinity| affinity.required);
        let annotations = object.metadata.annotations.clone().unwrap_or_default();
        VolumeFacts {
            uid: object.metadata.uid.clone().unwrap_or_default(),
            class: annotations.get(CLASS_ANNOTATION).cloned().or(spec.storage_class_name).unwrap_or_default(),
            size: size(spec.capacity.as_ref()),
            modes: spec.access_modes.unwrap_or_default(),
            volume_mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".into()),
            labels: object.metadata.labels.clone().unwrap_or_default().into_iter().collect(),
            affinity: required.as_ref().map(NodeSelector::new),
            claim: spec.claim_ref.map(|claim| {
                let text = Option::unwrap_or_default;
                (text(claim.namespace), text(claim.name), text(claim.uid))
            }),
            available: phase == Some("Available"),
            deleting: object.metadata.deletion_timestamp.is_some(),
            csi: spec.csi.map(|csi| (csi.driver, csi.volume_handle)),
        }
    }
}

impl ClassFacts {
    pub fn new(object: &storage::StorageClass) -> ClassFacts {
        let term = |term: &api::TopologySelectorTerm| {
            let labels = term.match_label_expressions.iter().flatten();
            labels.map(|label| (label.key.clone(), label.values.clone())).collect()
        };
        ClassFacts {
            provisioner: object.provisioner.clone(),
            waits: object.volume_binding_mode.as_ref().map(|mode| mode == "WaitForFirstConsumer"),
            topologies: object.allowed_topologies.iter().flatten().map(term).collect(),
        }
    }

    /// Whether volumes of the class may be made for a node with these labels.
    pub fn allows(&self, labels: &[(String, String)]) -> bool {
        let holds = |(key, values): &(String, Vec<String>)| {
            crate::select::label(labels, key).is_some_and(|value| values.iter().any(|listed| listed == value))
        };
        self.topologies.is_empty() || self.topologies.iter().any(|term| !term.is_empty() && term.iter().all(holds))
    }
}

impl CapacityFacts {
    pub fn new(object: &storage::CSIStorageCapacity) -> CapacityFacts {
        CapacityFacts {
            class: object.storage_class_name.clone(),
            size_max: object.maximum_volume_size.as_ref().or(object.capacity.as_ref()).map(units),
            nodes: compile(object.node_topology.as_ref()),
        }
    }
}

impl AttachmentFacts {
    pub fn new(object: &storage::VolumeAttachment) -> AttachmentFacts {
        AttachmentFacts {
            node: object.spec.node_name.clone(),
            attacher: object.spec.attacher.clone(),
            volume: object.spec.source.persistent_volume_name.clone().unwrap_or_default(),
        }
    }
}

/// Limits of attachable volumes that a CSINode declares.
pub fn limits(object: &storage::CSINode) -> Limits {
    let count = |driver: &storage::CSINodeDriver| driver.allocatable.as_ref().and_then(|most| most.count);
    object.spec.drivers.iter().map(|driver| (driver.name.clone(), count(driver).map(i64::from))).collect()
}

impl Storage {
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&ClaimFacts> {
        self.claims.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Returns what was known before. A claim that shows its node or volume needs no promise any more.
    pub fn set_claim(&mut self, key: ClaimKey, facts: Option<ClaimFacts>) -> Option<ClaimFacts> {
        let settled = facts.as_ref().is_none_or(|facts| facts.selected_node.is_some() || facts.bound);
        if settled {
            self.chosen.remove(&key);
        }
        if facts.as_ref().is_none_or(|facts| facts.bound) {
            self.promised.retain(|_, promised| *promised != key);
        }
        match facts {
            Some(facts) => self.claims.insert(key, facts),
            None => self.claims.remove(&key),
        }
    }

    pub fn volume(&self, name: &str) -> Option<&VolumeFacts> {
        self.volumes.get(name)
    }

    pub fn volumes_of(&self, class: &str) -> impl Iterator<Item = (&String, &VolumeFacts)> {
        self.volumes.iter().filter(move |(_, volume)| volume.class == class)
    }

    /// Returns what was known before, as all that set do.
    pub fn set_volume(&mut self, name: &str, facts: Option<VolumeFacts>) -> Option<VolumeFacts> {
        match facts {
            Some(facts) => self.volumes.insert(name.to_owned(), facts),
            None => self.volumes.remove(name),
        }
    }

    pub fn class(&self, name: &str) -> Option<&ClassFacts> {
        self.classes.get(name)
    }

    pub fn set_class(&mut self, name: &str, facts: Option<ClassFacts>) -> Option<ClassFacts> {
        match facts {
            Some(facts) => self.classes.insert(name.to_owned(), facts),
            None => self.classes.remove(name),
        }
    }

    pub fn limits_of(&self, node: &str) -> Option<&Limits> {
        self.csi_nodes.get(node)
    }

    pub fn set_limits(&mut self, node: &str, limits: Option<Limits>) -> Option<Limits> {
        match limits {
            Some(limits) => self.csi_nodes.insert(node.to_owned(), limits),
            None => self.csi_nodes.remove(node),
        }
    }

    /// Whether the driver tells how much room it has, and wants that heeded.
    pub fn heeds_capacity(&self, driver: &str) -> bool {
        self.drivers.get(driver).copied().unwrap_or(false)
    }

    pub fn set_driver(&mut self, name: &str, heeds_capacity: Option<bool>) -> Option<bool> {
        match heeds_capacity {
            Some(heeds) => self.drivers.insert(name.to_owned(), heeds),
            None => self.drivers.remove(name),
        }
    }

    pub fn capacities(&self) -> impl Iterator<Item = &CapacityFacts> {
        self.capacities.values()
    }

    pub fn set_capacity(&mut self, key: ClaimKey, facts: Option<CapacityFacts>) -> Option<CapacityFacts> {
        match facts {
            Some(facts) => self.capacities.insert(key, facts),
            None => self.capacities.remove(&key),
        }
    }

    pub fn attachments_at<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a AttachmentFacts> {
        self.attachments.values().filter(move |attachment| attachment.node == node)
    }

    pub fn set_attachment(&mut self, name: &str, facts: Option<AttachmentFacts>) -> Option<AttachmentFacts> {
        match facts {
            Some(facts) => self.attachments.insert(name.to_owned(), facts),
            None => self.attachments.remove(name),
        }
    }

    /// The claim a volume was promised to in this process.
    pub fn promised_to(&self, volume: &str) -> Option<&ClaimKey> {
        self.promised.get(volume)
    }

    pub fn promise(&mut self, volume: &str, claim: ClaimKey) {
        self.promised.insert(volume.to_owned(), claim);
    }

    /// The node for which a claim's volume is being made.
    pub fn node_chosen_for<'a>(&'a self, key: &ClaimKey, claim: &'a ClaimFacts) -> Option<&'a str> {
        claim.selected_node.as_deref().or_else(|| self.chosen.get(key).map(String::as_str))
    }

    pub fn choose(&mut self, claim: ClaimKey, node: &str) {
        self.chosen.insert(claim, node.to_owned());
    }

    /// Takes back what was set aside for a claim.
    pub fn release(&mut self, claim: &ClaimKey) {
        self.chosen.remove(claim);
        self.promised.retain(|_, promised| promised != claim);
    }
}
