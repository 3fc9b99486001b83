//! A pod goes where its volumes are, or where they can be found or made; what is chosen for it is set aside at once
//! and written before it is bound.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::SignedDuration;
use serde::Deserialize;
use serde_json::Value;

use super::volume_restrictions::not_found;
use crate::framework::{Change, Deed, Difference, Filter, Kind, Plugin, Point, PreFilter, Status};
use crate::node::{NodeFacts, NodeInfo};
use crate::pod::PodInfo;
use crate::queue::bounded;
use crate::select::label;
use crate::snapshot::Snapshot;
use crate::storage::{CapacityFacts, ClaimFacts, ClaimKey, ClassFacts, Storage, VolumeFacts};

const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Args {
    bind_timeout_seconds: i64,
    /// Scores by capacity, which 1.36 has behind a gate that is off.
    shape: Option<Vec<Value>>,
}

impl Default for Args {
    fn default() -> Args {
        Args { bind_timeout_seconds: 600, shape: None }
    }
}

pub struct VolumeBinding {
    /// How long volumes may take to be bound.
    wait_max: SignedDuration,
}

impl VolumeBinding {
    pub fn make(args: Option<&Value>) -> Result<Arc<dyn Plugin>, String> {
        let args: Args = super::read(args)?;
        if args.bind_timeout_seconds < 0 {
            return Err("bindTimeoutSeconds: must be greater than or equal to 0".into());
        }
        if args.shape.is_some() {
            return Err("shape: when StorageCapacityScoring is disabled".into());
        }
        Ok(Arc::new(VolumeBinding { wait_max: bounded(args.bind_timeout_seconds) }))
    }
}

/// A claim to be bound once its pod has a node.
#[derive(Clone)]
struct Open {
    key: ClaimKey,
    facts: ClaimFacts,
    class: ClassFacts,
    /// Volumes of the class that are free or promised to this claim.
    volumes: Vec<(String, VolumeFacts)>,
    node: Option<String>,
    heeds_capacity: bool,
}

/// What the pod's claims ask of a node.
struct Wanted {
    /// Volumes of bound claims; `None` for one that is gone.
    bound: Vec<Option<VolumeFacts>>,
    open: Vec<Open>,
    capacities: Vec<CapacityFacts>,
}

/// What would be done for the claims at a node.
#[derive(Default)]
struct Choice {
    found: Vec<(String, ClaimKey, String)>,
    made: Vec<ClaimKey>,
}

impl Wanted {
    fn of(pod: &PodInfo, storage: &Storage) -> Result<Wanted, String> {
        let mut wanted = Wanted { bound: Vec::new(), open: Vec::new(), capacities: Vec::new() };
        let mut immediate = false;
        for claim in &pod.claims {
            let key = (pod.shape.namespace.clone(), claim.name.clone());
            let facts = usable(pod, claim, storage)?;
            if facts.bound {
                wanted.bound.push(storage.volume(&facts.volume).cloned());
                continue;
            }
            let class = match facts.class.is_empty() {
                true => None,
                false => Some(
                    storage
                        .class(&facts.class)
                        .ok_or_else(|| not_found("storageclass.storage.k8s.io", &facts.class))?,
                ),
            };
            match class.filter(|class| class.waits == Some(true) && facts.volume.is_empty()) {
                Some(class) => wanted.open.push(Open::new(key, facts, class, storage)),
                None => immediate = true,
            }
        }
        if immediate {
            return Err("pod has unbound immediate PersistentVolumeClaims".into());
        }
        if wanted.open.iter().any(|open| open.heeds_capacity) {
            wanted.capacities = storage.capacities().cloned().collect();
        }
        // The smallest claim chooses first, so that it does not take the volume a larger one needs.
        wanted.open.sort_by_key(|open| open.facts.size);
        Ok(wanted)
    }

    /// What to do at the node, or every reason against it.
    fn at(&self, node: &NodeFacts) -> Result<Choice, Status> {
        let mut status = Status { reasons: Vec::new(), resolvable: false };
        let reachable = |volume: &VolumeFacts| volume.admits(node);
        let gone = self.bound.iter().any(Option::is_none);
        if !gone && !self.bound.iter().flatten().all(reachable) {
            status.reasons.push("node(s) didn't match PersistentVolume's node affinity".into());
        }
        let choice = self.choose(node).unwrap_or_else(|reason| {
            status.reasons.push(reason.into());
            Choice::default()
        });
        if gone {
            status.reasons.push("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)".into());
        }
        if status.reasons.is_empty() { Ok(choice) } else { Err(status) }
    }

    fn choose(&self, node: &NodeFacts) -> Result<Choice, &'static str> {
        const NONE: &str = "node(s) didn't find available persistent volumes to bind";
        let (mut choice, mut taken, mut make) = (Choice::default(), BTreeSet::new(), Vec::new());
        for open in &self.open {
            match &open.node {
                Some(chosen) if *chosen != node.name => return Err(NONE),
                Some(_) => make.push(open),
                None => match open.matching(node, &taken) {
                    Some(volume) => {
                        taken.insert(volume.to_owned());
                        choice.found.push((volume.to_owned(), open.key.clone(), open.facts.uid.clone()));
                    }
                    None => make.push(open),
                },
            }
        }
        for open in make {
            if open.class.provisioner.is_empty()
                || open.class.provisioner == NO_PROVISIONER
                || !open.class.allows(&node.labels)
            {
                return Err(NONE);
            }
            if open.heeds_capacity && !self.capacities.iter().any(|capacity| open.finds_room(capacity, node)) {
                return Err("node(s) did not have enough free storage");
            }
            choice.made.push(open.key.clone());
        }
        Ok(choice)
    }
}

/// The claim, if the pod may use it now.
fn usable<'s>(pod: &PodInfo, claim: &crate::volumes::Claim, storage: &'s Storage) -> Result<&'s ClaimFacts, String> {
    let (namespace, name) = (&pod.shape.namespace, &claim.name);
    let facts = storage.claim(namespace, name).ok_or_else(|| match claim.ephemeral {
        true => format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\""),
        false => not_found("persistentvolumeclaim", name),
    })?;
    if facts.lost {
        let volume = &facts.volume;
        return Err(format!("persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""));
    }
    if facts.deleting {
        return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
    }
    if claim.ephemeral && facts.owner_pod.as_deref() != Some(&pod.uid) {
        let pod = format!("{namespace}/{}", pod.key.name);
        return Err(format!("PVC {namespace}/{name} was not created for pod {pod} (pod is not owner)"));
    }
    Ok(facts)
}

impl VolumeFacts {
    fn admits(&self, node: &NodeFacts) -> bool {
        self.affinity.as_ref().is_none_or(|affinity| affinity.matches(&node.name, &node.labels))
    }
}

impl Open {
    fn new(key: ClaimKey, facts: &ClaimFacts, class: &ClassFacts, storage: &Storage) -> Open {
        let free = |(name, _): &(&String, &VolumeFacts)| storage.promised_to(name).is_none_or(|claim| *claim == key);
        let volumes = storage.volumes_of(&facts.class).filter(free);
        Open {
            volumes: volumes.map(|(name, volume)| (name.clone(), volume.clone())).collect(),
            node: storage.node_chosen_for(&key, facts).map(str::to_owned),
            heeds_capacity: storage.heeds_capacity(&class.provisioner) && facts.size > 0,
            facts: facts.clone(),
            class: class.clone(),
            key,
        }
    }

    /// The smallest volume that suits the claim at the node; one kept for the claim comes first.
    fn matching(&self, node: &NodeFacts, taken: &BTreeSet<String>) -> Option<&str> {
        let mut smallest: Option<(&str, i64)> = None;
        for (name, volume) in self.volumes.iter().filter(|(name, _)| !taken.contains(name)) {
            let kept = volume.claim.as_ref().map(|(namespace, name, uid)| {
                (namespace, name) == (&self.key.0, &self.key.1) && (uid.is_empty() || *uid == self.facts.uid)
            });
            if kept == Some(false)
                || volume.size < self.facts.size
                || volume.volume_mode != self.facts.volume_mode
                || volume.deleting
            {
                continue;
            }
            if kept == Some(true) {
                return volume.admits(node).then_some(name);
            }
            let suits = volume.available
                && self.facts.selector.as_ref().is_none_or(|selector| selector.matches(&volume.labels))
                && volume.admits(node)
                && self.facts.modes.iter().all(|mode| volume.modes.contains(mode));
            if suits && smallest.is_none_or(|(_, size)| volume.size < size) {
                smallest = Some((name, volume.size));
            }
        }
        smallest.map(|(name, _)| name)
    }

    fn finds_room(&self, capacity: &CapacityFacts, node: &NodeFacts) -> bool {
        capacity.class == self.facts.class
            && capacity.size_max.is_some_and(|most| most >= self.facts.size)
            && capacity.nodes.matches_with(|key| label(&node.labels, key))
    }
}

fn own_claims(pod: &PodInfo) -> impl Iterator<Item = ClaimKey> {
    pod.claims.iter().map(|claim| (pod.shape.namespace.clone(), claim.name.clone()))
}

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::Reserve, Point::PreBind, Point::PreScore, Point::Score]
    }

    fn pre_filter(&self, pod: &PodInfo, cluster: &Snapshot) -> PreFilter {
        if pod.claims.is_empty() {
            return PreFilter::Skip;
        }
        match Wanted::of(pod, &cluster.storage) {
            Ok(wanted) => PreFilter::Check(Box::new(wanted)),
            Err(reason) => PreFilter::Reject(Status::lasting(reason)),
        }
    }

    fn reserve(&self, pod: &PodInfo, node: &str, cluster: &mut Snapshot) -> Result<(), Status> {
        if pod.claims.is_empty() {
            return Ok(());
        }
        let facts = cluster.node(node).map(|node| node.facts.clone()).unwrap_or_default();
        let choice = Wanted::of(pod, &cluster.storage).map_err(Status::lasting)?.at(&facts)?;
        if !choice.found.is_empty() || !choice.made.is_empty() {
            choice.found.iter().for_each(|(volume, claim, _)| cluster.storage.promise(volume, claim.clone()));
            choice.made.into_iter().for_each(|claim| cluster.storage.choose(claim, node));
            cluster.turn_world();
        }
        Ok(())
    }

    fn unreserve(&self, pod: &PodInfo, cluster: &mut Snapshot) {
        if !pod.claims.is_empty() {
            own_claims(pod).for_each(|claim| cluster.storage.release(&claim));
            cluster.turn_world();
        }
    }

    fn pre_bind(&self, pod: &PodInfo, cluster: &Snapshot) -> Vec<Deed> {
        let mut deeds = Vec::new();
        for key in own_claims(pod) {
            let Some(facts) = cluster.storage.claim(&key.0, &key.1).filter(|facts| !facts.bound) else { continue };
            let (namespace, claim) = key.clone();
            if let Some((volume, _)) = cluster
                .storage
                .volumes_of(&facts.class)
                .find(|(name, _)| cluster.storage.promised_to(name) == Some(&key))
            {
                let (volume, claim_uid) = (volume.clone(), facts.uid.clone());
                deeds.push(Deed::PromiseVolume { volume, namespace, claim, claim_uid });
            } else if facts.selected_node.is_none()
                && let Some(node) = cluster.storage.node_chosen_for(&key, facts)
            {
                deeds.push(Deed::SelectNode { namespace, claim, node: node.to_owned() });
            }
        }
        deeds
    }

    fn is_bound(&self, pod: &PodInfo, cluster: &Snapshot) -> bool {
        own_claims(pod)
            .all(|(namespace, name)| cluster.storage.claim(&namespace, &name).is_some_and(|facts| facts.bound))
    }

    fn bound_within(&self) -> Option<SignedDuration> {
        Some(self.wait_max)
    }

    fn wakes(&self) -> &'static [Kind] {
        &[
            Kind::Class,
            Kind::Claim,
            Kind::Volume,
            Kind::NodeAdded,
            Kind::NodeUpdated,
            Kind::CsiNode,
            Kind::Driver,
            Kind::Capacity,
        ]
    }

    fn hint(&self, pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::NodeUpdated { old, new } => old.labels != new.labels,
            Change::Claim { namespace, name, .. } => {
                *namespace == pod.shape.namespace && pod.claims.iter().any(|claim| claim.name == *name)
            }
            Change::Driver(kind) => *kind == Difference::Updated,
            _ => true,
        }
    }
}

impl Filter for Wanted {
    fn filter(&self, _at: usize, node: &NodeInfo) -> Option<Status> {
        self.at(node).err()
    }
}
