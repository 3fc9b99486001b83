//! A pod as scheduling sees it: taken out of the object once, when it arrives. What decisions about nodes depend on is
//! its shape; pods of equal shape share one, and the work of deciding.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

use jiff::Timestamp;

use crate::devices::PodDevices;
use crate::resources::{Resources, assumed_ask, assumed_use, requests};
use crate::select::{Labels, NodeSelector, NodeTerm, PodTerms, Spread, Toleration};
use crate::snapshot::Snapshot;
use crate::text::{ContainerText, PodText, SpecText};
use crate::volumes::{Claim, Disk};

/// Identifies a pod, or a group of them, in queues and snapshots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

/// Everything by which a node can suit one pod and not another. What is bare of it lies apart, once for all that have it
/// in common: it is the same where it lies at the same place.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    pub bare: Arc<Bare>,
    pub labels: Labels,
    pub priority: i32,
    pub never_preempts: bool,
    pub terms: PodTerms,
    pub spread: Vec<Spread>,
    /// Kind and name of the workload that controls it.
    pub owner: Option<(String, String)>,
}

/// What a pod asks of a node by itself, whatever its labels, importance and owner are and whom it wants to be with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bare {
    pub namespace: String,
    pub requests: Resources,
    /// CPU and memory: what it is taken to use once placed, and what nodes are scored by while it waits.
    pub assumed: (i64, i64),
    pub assumed_ask: (i64, i64),
    pub host_ports: Vec<HostPort>,
    pub tolerations: Vec<Toleration>,
    pub node_selector: Labels,
    pub node_affinity: Option<NodeSelector>,
    pub preferred_nodes: Vec<(i64, NodeTerm)>,
    /// With tags, of containers and image volumes.
    pub images: Vec<String>,
    pub containers: usize,
    /// What a node must declare itself able to do.
    pub features: Vec<&'static str>,
    pub claims: Vec<Claim>,
    pub disks: Vec<Disk>,
    pub devices: PodDevices,
}

impl Deref for Shape {
    type Target = Bare;

    fn deref(&self) -> &Bare {
        &self.bare
    }
}

impl Shape {
    fn identity(&self) -> impl Hash + PartialEq + use<'_> {
        let Shape { bare, labels, priority, never_preempts, terms, spread, owner } = self;
        (Arc::as_ptr(bare), labels, priority, never_preempts, terms, spread, owner)
    }
}

impl PartialEq for Shape {
    fn eq(&self, other: &Shape) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Shape {}

impl Hash for Shape {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

/// There are as many as pods: what they have in common is shared, and what few have lies apart.
#[derive(Clone, Debug)]
pub struct PodInfo {
    pub key: PodKey,
    pub uid: Box<str>,
    pub shape: Arc<Shape>,
    pub started: Option<Timestamp>,
    pub scheduler_name: Arc<str>,
    /// Set when bound.
    pub node_name: Arc<str>,
    pub deleting: bool,
    /// It is being deleted to make room for another.
    pub preempted: bool,
    /// Succeeded or Failed: uses nothing any more.
    pub finished: bool,
    rare: Option<Box<Rare>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Rare {
    gates: Vec<String>,
    group: Option<Box<str>>,
    nominated: String,
}

impl Deref for PodInfo {
    type Target = Shape;

    fn deref(&self) -> &Shape {
        &self.shape
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Empty for every address.
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

impl HostPort {
    pub fn overlaps(&self, other: &HostPort) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || self.ip.is_empty() || other.ip.is_empty())
    }
}

/// The shapes in use, each kept once.
#[derive(Debug, Default)]
pub struct Shapes {
    known: HashSet<Arc<Shape>>,
    /// Made from those known, without what does not matter.
    derived: HashSet<Arc<Shape>>,
    bare: HashSet<Arc<Bare>>,
    /// When as many are known, those that no pod has any more are let go.
    sweep_at: usize,
    /// Of namespaces, schedulers and nodes.
    names: HashSet<Arc<str>>,
    sweep_names_at: usize,
}

impl Shapes {
    fn share(&mut self, text: &PodText) -> Arc<Shape> {
        if self.known.len() >= self.sweep_at {
            self.known.retain(|shape| Arc::strong_count(shape) > 1);
            self.derived.retain(|shape| Arc::strong_count(shape) > 1);
            self.bare.retain(|bare| Arc::strong_count(bare) > 1);
            self.sweep_at = (self.known.len() * 2).max(64);
        }
        let bare = once(&mut self.bare, bare(text));
        once(&mut self.known, shape(text, bare))
    }

    /// The same text as long as some pod has it.
    fn name(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.names.get(text) {
            return known.clone();
        }
        if self.names.len() >= self.sweep_names_at {
            self.names.retain(|name| Arc::strong_count(name) > 1);
            self.sweep_names_at = (self.names.len() * 2).max(64);
        }
        let name: Arc<str> = text.into();
        self.names.insert(name.clone());
        name
    }

    /// The shape without what does not matter in the cluster; pods that have it in common are decided about alike.
    pub fn reduced(&mut self, shape: &Arc<Shape>, cluster: &Snapshot) -> Arc<Shape> {
        match cluster.reduced(shape) {
            Some(reduced) => once(&mut self.derived, reduced),
            None => shape.clone(),
        }
    }
}

/// The one of a set that is equal, which this becomes if there is none.
fn once<T: Hash + Eq>(known: &mut HashSet<Arc<T>>, new: T) -> Arc<T> {
    if let Some(known) = known.get(&new) {
        return known.clone();
    }
    let new = Arc::new(new);
    known.insert(new.clone());
    new
}

impl PodInfo {
    pub fn new(text: PodText, shapes: &mut Shapes) -> Arc<PodInfo> {
        let shape = shapes.share(&text);
        let PodText { metadata, spec, status } = text;
        let scheduler_name = match spec.scheduler_name.as_str() {
            "" => "default-scheduler",
            name => name,
        };
        let disrupted = status.conditions.iter().find(|condition| condition.kind == "DisruptionTarget");
        let deleting = metadata.deletion_timestamp.is_some();
        let rare = Rare {
            gates: spec.scheduling_gates.into_iter().map(|gate| gate.name).collect(),
            group: spec.scheduling_group.and_then(|group| group.pod_group_name),
            nominated: status.nominated_node_name,
        };
        Arc::new(PodInfo {
            key: PodKey { namespace: shapes.name(&metadata.namespace), name: metadata.name.into() },
            uid: metadata.uid.into(),
            shape,
            started: status.start_time,
            scheduler_name: shapes.name(scheduler_name),
            node_name: shapes.name(&spec.node_name),
            deleting,
            preempted: deleting
                && disrupted.is_some_and(|found| found.status == "True" && found.reason == "PreemptionByScheduler"),
            finished: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
            rare: (rare != Rare::default()).then(|| Box::new(rare)),
        })
    }

    /// From the object's JSON; `None` where it is no pod at all.
    pub fn read(json: &[u8], shapes: &mut Shapes) -> Option<Arc<PodInfo>> {
        Some(PodInfo::new(serde_json::from_slice(json).ok()?, shapes))
    }

    /// A pod that counted on a node was placed, whether or not its last version says so.
    pub fn placed_somewhere(self: Arc<Self>) -> Arc<PodInfo> {
        if self.is_assigned() {
            return self;
        }
        Arc::new(PodInfo { node_name: "assumed".into(), ..PodInfo::clone(&self) })
    }

    /// What keeps it from being tried, by name.
    pub fn gates(&self) -> &[String] {
        self.rare.as_ref().map_or(&[], |rare| &rare.gates)
    }

    /// Where room is being made for it; empty where nowhere.
    pub fn nominated(&self) -> &str {
        self.rare.as_ref().map_or("", |rare| &rare.nominated)
    }

    /// The PodGroup it belongs to, by namespace and name.
    pub fn group_key(&self) -> Option<PodKey> {
        let name = self.rare.as_ref()?.group.as_deref()?;
        Some(PodKey { namespace: self.key.namespace.clone(), name: name.into() })
    }

    /// Whether it counts in the scoring or filtering of pods that do not name it.
    pub fn is_assigned(&self) -> bool {
        !self.node_name.is_empty() || !self.nominated().is_empty()
    }
}

fn shape(text: &PodText, bare: Arc<Bare>) -> Shape {
    let spec = &text.spec;
    let labels: Labels = text.metadata.labels.clone().into_iter().collect();
    let affinity = spec.affinity.clone().unwrap_or_default();
    let owner = text.metadata.owner_references.iter().find(|owner| owner.controller);
    Shape {
        priority: spec.priority,
        never_preempts: spec.preemption_policy == "Never",
        terms: PodTerms::new(&affinity, &text.metadata.namespace, &labels),
        spread: spec.topology_spread_constraints.iter().map(|text| Spread::new(text, &labels)).collect(),
        owner: owner.map(|owner| (owner.kind.clone(), owner.name.clone())),
        labels,
        bare,
    }
}

fn bare(text: &PodText) -> Bare {
    let spec = &text.spec;
    let nodes = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let preferred = nodes.and_then(|nodes| nodes.preferred_during_scheduling_ignored_during_execution.as_ref());
    Bare {
        namespace: text.metadata.namespace.clone(),
        requests: requests(spec, &text.status),
        assumed: assumed_use(spec, &text.status),
        assumed_ask: assumed_ask(spec),
        host_ports: host_ports(spec),
        tolerations: spec.tolerations.clone(),
        node_selector: spec.node_selector.clone().into_iter().collect(),
        node_affinity: nodes
            .and_then(|nodes| nodes.required_during_scheduling_ignored_during_execution.as_ref())
            .map(NodeSelector::new),
        preferred_nodes: preferred
            .into_iter()
            .flatten()
            .map(|term| (i64::from(term.weight), NodeTerm::new(&term.preference)))
            .collect(),
        images: images(spec),
        containers: spec.containers.len() + spec.init_containers.len(),
        features: features(spec),
        claims: Claim::of(spec, &text.metadata.name),
        disks: Disk::of(spec),
        devices: PodDevices::of(text),
    }
}

fn containers(spec: &SpecText) -> impl Iterator<Item = &ContainerText> {
    spec.init_containers.iter().chain(&spec.containers)
}

fn host_ports(spec: &SpecText) -> Vec<HostPort> {
    let lasting = |container: &&ContainerText| container.restart_policy == "Always";
    let sidecars = spec.init_containers.iter().filter(lasting);
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    ports
        .filter(|port| port.host_port > 0)
        .map(|port| HostPort {
            ip: if port.host_ip == "0.0.0.0" { String::new() } else { port.host_ip.clone() },
            protocol: if port.protocol.is_empty() { "TCP".into() } else { port.protocol.clone() },
            port: port.host_port,
        })
        .collect()
}

fn images(spec: &SpecText) -> Vec<String> {
    let of_volumes = spec.volumes.iter().filter_map(|volume| Some(volume.image.as_ref()?.reference.as_str()));
    containers(spec).map(|container| container.image.as_str()).chain(of_volumes).map(with_tag).collect()
}

/// An image without a tag is its `latest`.
fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') { image.to_owned() } else { format!("{image}:latest") }
}

/// What 1.36 infers from a pod's spec. Source: `k8s.io/component-helpers/nodedeclaredfeatures`.
fn features(spec: &SpecText) -> Vec<&'static str> {
    let restarts_all = |container: &ContainerText| {
        container.restart_policy_rules.iter().any(|rule| rule.action == "RestartAllContainers")
    };
    let mut features = Vec::new();
    if containers(spec).any(restarts_all) {
        features.push("RestartAllContainersOnContainerExits");
    }
    if spec.host_network && spec.host_users == Some(false) {
        features.push("UserNamespacesHostNetworkSupport");
    }
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str, shapes: &mut Shapes) -> Arc<PodInfo> {
        PodInfo::read(json.as_bytes(), shapes).unwrap()
    }

    #[test]
    fn pods_that_differ_only_in_name_share_their_shape() {
        let mut shapes = Shapes::default();
        let pod = |name: &str, cpu: &str| {
            format!(
                r#"{{"metadata":{{"name":"{name}","namespace":"n","labels":{{"a":"b"}}}},"spec":{{"nodeName":"x",
                   "volumes":[{{"name":"kube-api-access-{name}","projected":{{}}}}],
                   "containers":[{{"name":"c","image":"i","resources":{{"requests":{{"cpu":"{cpu}"}}}}}}]}}}}"#
            )
        };
        let first = read(&pod("one", "1"), &mut shapes);
        assert!(Arc::ptr_eq(&first.shape, &read(&pod("two", "1000m"), &mut shapes).shape));
        assert!(!Arc::ptr_eq(&first.shape, &read(&pod("one", "2"), &mut shapes).shape));
        let labelled = read(&pod("one", "1").replace(r#""a":"b""#, r#""a":"c""#), &mut shapes);
        assert!(!Arc::ptr_eq(&first.shape, &labelled.shape));
        assert!(Arc::ptr_eq(&first.bare, &labelled.bare), "of a node they ask the same");
    }

    #[test]
    fn a_pod_asks_for_what_its_spec_needs_of_a_node() {
        let mut shapes = Shapes::default();
        let pod = r#"{"spec":{"hostNetwork":true,"hostUsers":false,"containers":[
            {"image":"reg:5000/a","ports":[{"containerPort":1},{"hostPort":80,"hostIP":"0.0.0.0"}]}]}}"#;
        let pod = read(pod, &mut shapes);
        assert_eq!(pod.features, ["UserNamespacesHostNetworkSupport"]);
        assert_eq!(pod.images, ["reg:5000/a:latest"]);
        assert_eq!(pod.host_ports, [HostPort { ip: String::new(), protocol: "TCP".into(), port: 80 }]);
    }
}
