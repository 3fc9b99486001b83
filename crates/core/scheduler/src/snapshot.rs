//! The cluster as scheduling sees it, kept up to date change by change. Nodes lie in one row and are known by their
//! place in it; a log tells which places changed, so that what was worked out about the others stays good.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use coracle_meta::selector::LabelSelector;

use crate::budgets::Budgets;
use crate::census::Census;
use crate::devices::Devices;
use crate::groups::Groups;
use crate::images::Images;
use crate::interests::{Interests, reduced};
use crate::node::{NodeFacts, NodeInfo};
use crate::nominations::Nominations;
use crate::pod::{PodInfo, PodKey, Shape};
use crate::select::Labels;
use crate::storage::Storage;
use crate::topology::{Domains, Topologies};
use crate::workloads::Workloads;

/// Changes remembered; who is further behind looks at every node again.
const LOG_MAX: usize = 1 << 16;

/// How far the log was read, and of which world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    world: u64,
    at: u64,
}

/// What changed since a mark.
pub enum Since<'a> {
    /// These places, some maybe more than once.
    Places(&'a [u32]),
    Everything,
}

#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    at: HashMap<Arc<str>, usize>,
    /// Places in the order in which nodes are looked at; empty while it is to be worked out.
    order: Vec<u32>,
    /// Grows whenever anything but a node's own state changes.
    world: u64,
    log: Vec<u32>,
    log_start: u64,
    /// Pods bound to nodes that the API does not know.
    strays: HashMap<Arc<str>, Vec<Arc<PodInfo>>>,
    /// Where each pod counts.
    placed: HashMap<PodKey, Arc<str>>,
    namespaces: BTreeMap<String, Labels>,
    pub workloads: Workloads,
    pub storage: Storage,
    pub budgets: Budgets,
    pub devices: Devices,
    pub nominations: Nominations,
    /// Placed pods per claim, by namespace and name.
    claims_in_use: HashMap<(String, String), usize>,
    pub images: Images,
    pub groups: Groups,
    topologies: Topologies,
    /// Labels of pods that terms and constraints name.
    interests: Interests,
    /// Places of nodes that have pods with terms about others.
    affine: BTreeSet<u32>,
    /// Of the pods on known nodes.
    census: Census,
    serials: u64,
}

impl Snapshot {
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub fn place(&self, name: &str) -> Option<usize> {
        self.at.get(name).copied()
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.place(name).map(|at| &self.nodes[at])
    }

    /// The domains of all places by a label.
    pub fn domains(&self, key: &str) -> Domains {
        self.topologies.domains(key, &self.nodes)
    }

    /// Grows whenever a node's domain may have changed.
    pub fn domains_version(&self) -> u64 {
        self.topologies.version
    }

    /// Keeps the domains of a label at hand.
    pub fn track_topology(&mut self, key: &str) {
        self.topologies.track(key, &self.nodes);
    }

    /// Keeps at hand what pods of this shape are judged by, and what others are judged by on their account.
    pub fn track(&mut self, shape: &Shape) {
        let mut named_anew = false;
        for term in shape.terms.all() {
            self.topologies.track(&term.topology_key, &self.nodes);
            named_anew |= self.interests.add(&term.selector);
        }
        for spread in &shape.spread {
            self.topologies.track(&spread.topology_key, &self.nodes);
            named_anew |= self.interests.add(&spread.selector);
        }
        if named_anew {
            self.turn_world();
        }
    }

    /// The shape as it matters here: without the labels that no selector names. `None` where all are named.
    pub fn reduced(&self, shape: &Shape) -> Option<Shape> {
        reduced(shape, |key| self.interests.names(key) || self.workloads.names(key))
    }

    /// Keeps room on a node for a pod, and on no other.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.track(&pod.shape);
        self.nominations.set(pod, node);
    }

    /// How many pods that a selector picks in a namespace there are at which places, each named once.
    pub fn matching(&self, namespace: &str, selector: &LabelSelector) -> HashMap<u32, i64> {
        let mut found = HashMap::new();
        self.census.count(namespace, selector, |serial, pods| {
            // Nodes lie in the row in the order in which they came.
            if let Ok(at) = self.nodes.binary_search_by_key(&serial, |node| node.serial) {
                *found.entry(at as u32).or_default() += i64::from(pods);
            }
        });
        found
    }

    /// Places of nodes that have pods with terms about others.
    pub fn affine(&self) -> impl Iterator<Item = usize> {
        self.affine.iter().map(|at| *at as usize)
    }

    pub fn has_affine(&self) -> bool {
        !self.affine.is_empty()
    }

    pub fn namespace_labels(&self, namespace: &str) -> &[(String, String)] {
        self.namespaces.get(namespace).map(Vec::as_slice).unwrap_or_default()
    }

    /// How many placed pods use a claim.
    pub fn users_of(&self, namespace: &str, claim: &str) -> usize {
        self.claims_in_use.get(&(namespace.to_owned(), claim.to_owned())).copied().unwrap_or(0)
    }

    /// Places in the order in which nodes are looked at: by turns from each zone, as kube-scheduler takes them.
    pub fn order(&mut self) -> Vec<u32> {
        if self.order.len() != self.nodes.len() {
            self.order = by_turns(&self.nodes);
        }
        std::mem::take(&mut self.order)
    }

    /// Gives back what `order` lent.
    pub fn keep_order(&mut self, order: Vec<u32>) {
        self.order = order;
    }

    pub fn mark(&self) -> Mark {
        Mark { world: self.world, at: self.log_start + self.log.len() as u64 }
    }

    pub fn since(&self, mark: Mark) -> Since<'_> {
        match mark.at.checked_sub(self.log_start) {
            Some(read) if mark.world == self.world => Since::Places(&self.log[read as usize..]),
            _ => Since::Everything,
        }
    }

    /// Something changed that no single node shows.
    pub fn turn_world(&mut self) {
        self.world += 1;
        self.log_start += self.log.len() as u64;
        self.log.clear();
    }

    /// Takes over what the object says, and leaves the pods. Returns what it said before.
    pub fn set_node(&mut self, facts: NodeFacts) -> Option<Arc<NodeFacts>> {
        if let Some(at) = self.place(&facts.name) {
            return Some(self.change_node(at, Arc::new(facts)));
        }
        let strays = self.strays.remove(facts.name.as_str()).unwrap_or_default();
        self.at.insert(facts.name.as_str().into(), self.nodes.len());
        self.serials += 1;
        let mut node = NodeInfo { serial: self.serials, facts: Arc::new(facts), ..NodeInfo::default() };
        for pod in strays {
            self.census.add(&pod, node.serial);
            node.add(pod);
        }
        self.images.set(node.serial, &[], &node.images);
        self.topologies.add(&node);
        self.nodes.push(node);
        self.note_affine(self.nodes.len() - 1);
        self.order.clear();
        self.turn_world();
        None
    }

    fn change_node(&mut self, at: usize, facts: Arc<NodeFacts>) -> Arc<NodeFacts> {
        let node = &mut self.nodes[at];
        let was = std::mem::replace(&mut node.facts, facts);
        if *was == *node.facts {
            return was;
        }
        self.images.set(node.serial, &was.images, &node.images);
        if was.zone() != node.zone() {
            self.order.clear();
        }
        if was.labels != node.labels && !self.topologies.change(at, &self.nodes) {
            self.turn_world();
        }
        self.changed(at);
        was
    }

    pub fn remove_node(&mut self, name: &str) -> Option<Arc<NodeFacts>> {
        let at = self.at.remove(name)?;
        let node = self.nodes.remove(at);
        self.at.values_mut().filter(|place| **place > at).for_each(|place| *place -= 1);
        self.images.set(node.serial, &node.images, &[]);
        node.pods.iter().for_each(|pod| self.census.remove(pod, node.serial));
        self.topologies.remove(at);
        let places = 0..self.nodes.len() as u32;
        self.affine = places.filter(|at| !self.nodes[*at as usize].affine.is_empty()).collect();
        if !node.pods.is_empty() {
            self.strays.insert(name.into(), node.pods);
        }
        self.order.clear();
        self.turn_world();
        Some(node.facts)
    }

    pub fn set_namespace(&mut self, name: &str, labels: Labels) {
        if self.namespaces.get(name) != Some(&labels) {
            self.namespaces.insert(name.to_owned(), labels);
            self.turn_world();
        }
    }

    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
        self.turn_world();
    }

    /// Counts a pod at `node`, and nowhere else.
    pub fn put(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.lift(&pod.key);
        let name = self.shared(node);
        self.placed.insert(pod.key.clone(), name.clone());
        self.track(&pod.shape);
        self.groups.place(&pod);
        for claim in &pod.claims {
            *self.claims_in_use.entry((pod.shape.namespace.clone(), claim.name.clone())).or_default() += 1;
        }
        match self.place(node) {
            Some(at) => {
                self.census.add(&pod, self.nodes[at].serial);
                self.nodes[at].add(pod);
                self.note_affine(at);
                self.changed(at);
            }
            None => self.strays.entry(name).or_default().push(pod),
        }
    }

    /// The name of a node, in the one place where it is kept.
    fn shared(&self, node: &str) -> Arc<str> {
        let known = self.at.get_key_value(node).map(|(name, _)| name);
        let known = known.or_else(|| self.strays.get_key_value(node).map(|(name, _)| name));
        known.cloned().unwrap_or_else(|| node.into())
    }

    /// Takes over a new version of a pod where it counts. A node whose pods ask the same as before has not changed.
    pub fn renew(&mut self, pod: Arc<PodInfo>) {
        let Some(name) = self.placed.get(&pod.key).cloned() else { return };
        if let Some(at) = self.place(&name)
            && let Some(held) = self.nodes[at].pods.iter_mut().find(|held| held.key == pod.key)
            && Arc::ptr_eq(&held.shape, &pod.shape)
            && held.deleting == pod.deleting
        {
            *held = pod;
            return;
        }
        self.put(pod, &name);
    }

    /// How many pods count anywhere.
    pub fn pods(&self) -> usize {
        self.placed.len()
    }

    /// Stops counting a pod.
    pub fn lift(&mut self, key: &PodKey) -> Option<Arc<PodInfo>> {
        let name = self.placed.remove(key)?;
        let pod = match self.place(&name) {
            Some(at) => {
                let pod = self.nodes[at].remove(key);
                pod.iter().for_each(|pod| self.census.remove(pod, self.nodes[at].serial));
                self.note_affine(at);
                self.changed(at);
                pod
            }
            None => self.remove_stray(&name, key),
        }?;
        self.groups.lift(&pod);
        for claim in &pod.claims {
            let name = (pod.shape.namespace.clone(), claim.name.clone());
            if let Some(users) = self.claims_in_use.get_mut(&name) {
                *users -= 1;
                if *users == 0 {
                    self.claims_in_use.remove(&name);
                }
            }
        }
        Some(pod)
    }

    /// Where a pod counts, if anywhere.
    pub fn place_of(&self, key: &PodKey) -> Option<&str> {
        self.placed.get(key).map(AsRef::as_ref)
    }

    /// A pod that counts, as it is known.
    pub fn placed(&self, key: &PodKey) -> Option<&Arc<PodInfo>> {
        let name = self.placed.get(key)?;
        let pods = self.node(name).map(|node| &node.pods).or_else(|| self.strays.get(name))?;
        pods.iter().find(|pod| pod.key == *key)
    }

    fn remove_stray(&mut self, node: &str, key: &PodKey) -> Option<Arc<PodInfo>> {
        let pods = self.strays.get_mut(node)?;
        let index = pods.iter().position(|pod| pod.key == *key)?;
        let pod = pods.swap_remove(index);
        if pods.is_empty() {
            self.strays.remove(node);
        }
        Some(pod)
    }

    fn note_affine(&mut self, at: usize) {
        match self.nodes[at].affine.is_empty() {
            true => self.affine.remove(&(at as u32)),
            false => self.affine.insert(at as u32),
        };
    }

    fn changed(&mut self, at: usize) {
        if self.log.len() >= LOG_MAX {
            self.log.drain(..LOG_MAX / 2);
            self.log_start += (LOG_MAX / 2) as u64;
        }
        self.log.push(at as u32);
    }
}

/// The first node of each zone, then the second of each, and so on.
fn by_turns(nodes: &[NodeInfo]) -> Vec<u32> {
    let mut zones: Vec<Vec<u32>> = Vec::new();
    let mut known: HashMap<(&str, &str), usize> = HashMap::new();
    for (at, node) in nodes.iter().enumerate() {
        let zone = *known.entry(node.zone()).or_insert_with(|| {
            zones.push(Vec::new());
            zones.len() - 1
        });
        zones[zone].push(at as u32);
    }
    let longest = zones.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(|turn| zones.iter().filter_map(move |zone| zone.get(turn).copied())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Shapes;

    fn node(name: &str, zone: &str) -> NodeFacts {
        let text = format!(r#"{{"metadata":{{"name":"{name}","labels":{{"topology.kubernetes.io/zone":"{zone}"}}}}}}"#);
        NodeFacts::read(text.as_bytes()).unwrap()
    }

    fn pod(name: &str) -> Arc<PodInfo> {
        let text = format!(
            r#"{{"metadata":{{"name":"{name}"}},"spec":{{"containers":[{{"resources":{{"requests":{{"cpu":"1"}}}}}}]}}}}"#
        );
        PodInfo::read(text.as_bytes(), &mut Shapes::default()).unwrap()
    }

    #[test]
    fn nodes_are_taken_by_turns_from_the_zones() {
        let mut snapshot = Snapshot::default();
        for (name, zone) in [("a", "x"), ("b", "x"), ("c", "x"), ("d", "y")] {
            snapshot.set_node(node(name, zone));
        }
        assert_eq!(snapshot.order(), [0, 3, 1, 2]);
    }

    #[test]
    fn the_log_tells_which_nodes_changed() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(node("a", ""));
        snapshot.set_node(node("b", ""));
        let mark = snapshot.mark();
        snapshot.put(pod("p"), "b");
        snapshot.set_node(node("a", ""));
        assert!(matches!(snapshot.since(mark), Since::Places([1])), "an unchanged node is no change");
        snapshot.remove_node("a");
        assert!(matches!(snapshot.since(mark), Since::Everything));
        assert_eq!(snapshot.nodes()[snapshot.place("b").unwrap()].requested.cpu_milli, 1000);
    }

    #[test]
    fn a_pod_bound_before_its_node_came_counts_when_it_does() {
        let mut snapshot = Snapshot::default();
        snapshot.put(pod("p"), "late");
        snapshot.set_node(node("late", ""));
        assert_eq!(snapshot.node("late").unwrap().pods.len(), 1);
        snapshot.remove_node("late");
        snapshot.set_node(node("late", ""));
        assert_eq!(snapshot.node("late").unwrap().requested.cpu_milli, 1000);
        snapshot.lift(&pod("p").key);
        assert_eq!(snapshot.node("late").unwrap().requested.cpu_milli, 0);
    }
}
