//! Disks that cannot be shared keep pods apart on a node; a ReadWriteOncePod claim has one user in the whole cluster.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::framework::{Answer, Change, Difference, Kind, Plugin, Point, PreFilter, Status, Wide};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, Shape};
use crate::snapshot::Snapshot;

pub struct VolumeRestrictions;

/// As a lister words it.
pub fn not_found(kind: &str, name: &str) -> String {
    format!("{kind} \"{name}\" not found")
}

fn disks_conflict(shape: &Shape, other: &Shape) -> bool {
    shape.disks.iter().any(|disk| other.disks.iter().any(|held| disk.conflicts(held)))
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn pre_filter(&self, pod: &PodInfo, cluster: &Snapshot) -> PreFilter {
        let namespace = &pod.shape.namespace;
        let mut exclusive = BTreeSet::new();
        for claim in pod.claims.iter().filter(|claim| !claim.ephemeral) {
            let Some(facts) = cluster.storage.claim(namespace, &claim.name) else {
                return PreFilter::Reject(Status::lasting(not_found("persistentvolumeclaim", &claim.name)));
            };
            if facts.modes.iter().any(|mode| mode == "ReadWriteOncePod") {
                exclusive.insert(claim.name.clone());
            }
        }
        match pod.disks.is_empty() && exclusive.is_empty() {
            true => PreFilter::Skip,
            false => {
                let of_node = vec![0; cluster.nodes().len()];
                PreFilter::Wide(Box::new(Restricted { shape: pod.shape.clone(), exclusive, users: 0, of_node }))
            }
        }
    }

    fn wakes(&self) -> &'static [Kind] {
        &[Kind::PodGone, Kind::NodeAdded, Kind::Claim]
    }

    fn hint(&self, pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::NodeAdded(_) => true,
            Change::Claim { namespace, name, kind: Difference::Added } => {
                *namespace == pod.shape.namespace && pod.claims.iter().any(|claim| claim.name == *name)
            }
            Change::PodGone(gone) => {
                let shared = || pod.claims.iter().any(|claim| gone.claims.contains(claim));
                gone.shape.namespace == pod.shape.namespace && (disks_conflict(pod, gone) || shared())
            }
            _ => false,
        }
    }
}

const ANSWERS: [Answer; 2] = [
    Answer::new("node(s) had no available disk"),
    Answer::new(
        "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another \
         pod",
    ),
];

struct Restricted {
    shape: Arc<Shape>,
    /// Claims that only one pod may use.
    exclusive: BTreeSet<String>,
    /// Uses of them by placed pods, in all and by node.
    users: usize,
    of_node: Vec<usize>,
}

impl Wide for Restricted {
    fn answers(&self) -> &'static [Answer] {
        &ANSWERS
    }

    fn observe(&mut self, at: usize, node: &NodeInfo, _cluster: &Snapshot) {
        let own = node.pods.iter().filter(|pod| pod.shape.namespace == self.shape.namespace);
        let uses = own.flat_map(|pod| &pod.claims).filter(|claim| self.exclusive.contains(&claim.name)).count();
        self.users = self.users + uses - self.of_node[at];
        self.of_node[at] = uses;
    }

    fn filter(&self, _at: usize, node: &NodeInfo) -> Option<usize> {
        if node.pods.iter().any(|pod| disks_conflict(&self.shape, pod)) {
            return Some(0);
        }
        (self.users > 0).then_some(1)
    }
}
