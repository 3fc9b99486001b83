//! A bound volume that carries zone or region labels is used only there.

use std::collections::BTreeSet;

use super::volume_restrictions::not_found;
use crate::framework::{Change, Filter, Kind, Plugin, Point, PreFilter, Status};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::select::label;
use crate::snapshot::Snapshot;

const LABELS: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];

pub struct VolumeZone;

/// Label, its present name, and the values that the volumes allow.
type Zones = Vec<(&'static str, &'static str, BTreeSet<String>)>;

fn zones(pod: &PodInfo, cluster: &Snapshot) -> Result<Zones, String> {
    let storage = &cluster.storage;
    let mut zones = Vec::new();
    for claim in pod.claims.iter().filter(|claim| !claim.ephemeral) {
        let facts = storage
            .claim(&pod.shape.namespace, &claim.name)
            .ok_or_else(|| not_found("persistentvolumeclaim", &claim.name))?;
        if facts.volume.is_empty() {
            if facts.class.is_empty() {
                return Err("PersistentVolumeClaim had no pv name and storageClass name".into());
            }
            let class =
                storage.class(&facts.class).ok_or_else(|| not_found("storageclass.storage.k8s.io", &facts.class))?;
            match class.waits {
                Some(true) => continue,
                Some(false) => return Err("PersistentVolume had no name".into()),
                None => return Err(format!("VolumeBindingMode not set for StorageClass \"{}\"", facts.class)),
            }
        }
        let volume = storage.volume(&facts.volume).ok_or_else(|| not_found("persistentvolume", &facts.volume))?;
        for (key, present) in LABELS {
            let Some(value) = label(&volume.labels, key) else { continue };
            zones.push((key, present, value.split("__").map(str::to_owned).collect()));
        }
    }
    Ok(zones)
}

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn pre_filter(&self, pod: &PodInfo, cluster: &Snapshot) -> PreFilter {
        match zones(pod, cluster) {
            Err(reason) => PreFilter::Reject(Status::lasting(reason)),
            Ok(zones) if zones.is_empty() => PreFilter::Skip,
            Ok(zones) => PreFilter::Check(Box::new(Zoned(zones))),
        }
    }

    fn wakes(&self) -> &'static [Kind] {
        &[Kind::Class, Kind::NodeAdded, Kind::NodeUpdated, Kind::Claim, Kind::Volume]
    }

    fn hint(&self, pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::NodeUpdated { old, new } => old.labels != new.labels,
            Change::Claim { namespace, name, .. } => {
                *namespace == pod.shape.namespace && pod.claims.iter().any(|claim| claim.name == *name)
            }
            _ => true,
        }
    }
}

struct Zoned(Zones);

impl Filter for Zoned {
    fn filter(&self, _at: usize, node: &NodeInfo) -> Option<Status> {
        if LABELS.iter().all(|(key, _)| node.label(key).is_none()) {
            return None;
        }
        let inside = |(key, present, values): &(&str, &str, BTreeSet<String>)| {
            node.label(key).or_else(|| node.label(present)).is_some_and(|value| values.contains(value))
        };
        (!self.0.iter().all(inside)).then(|| Status::lasting("node(s) had no available volume zone"))
    }
}
