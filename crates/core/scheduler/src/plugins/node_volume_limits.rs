//! A node attaches only as many volumes of a CSI driver as its CSINode allows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::framework::{Answer, Change, Difference, Kind, Plugin, Point, PreFilter, Wide};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, Shape};
use crate::snapshot::Snapshot;

pub struct NodeVolumeLimits;

/// A volume by driver and handle.
type Attached = (String, String);

/// The CSI volumes of a pod; those that are yet to be made go by their claim.
fn volumes(shape: &Shape, cluster: &Snapshot) -> Vec<Attached> {
    let storage = &cluster.storage;
    let volume = |claim: &crate::volumes::Claim| {
        let facts = storage.claim(&shape.namespace, &claim.name)?;
        match storage.volume(&facts.volume) {
            Some(volume) => volume.csi.clone(),
            None => {
                let class = storage.class(&facts.class)?;
                Some((class.provisioner.clone(), format!("{}/{}", shape.namespace, claim.name)))
            }
        }
    };
    shape.claims.iter().filter_map(volume).collect()
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter]
    }

    fn pre_filter(&self, pod: &PodInfo, cluster: &Snapshot) -> PreFilter {
        let wanted: BTreeSet<Attached> = volumes(&pod.shape, cluster).into_iter().collect();
        match wanted.is_empty() {
            true => PreFilter::Skip,
            false => PreFilter::Wide(Box::new(Limited {
                wanted,
                full: vec![false; cluster.nodes().len()],
                shape: pod.shape.clone(),
            })),
        }
    }

    fn wakes(&self) -> &'static [Kind] {
        &[Kind::CsiNode, Kind::PodGone, Kind::Claim, Kind::AttachmentGone]
    }

    fn hint(&self, pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::PodGone(gone) => gone.is_assigned() && !gone.claims.is_empty(),
            Change::Claim { namespace, name, kind: Difference::Added } => {
                *namespace == pod.shape.namespace && pod.claims.iter().any(|claim| claim.name == *name)
            }
            Change::Claim { .. } => false,
            _ => true,
        }
    }
}

struct Limited {
    wanted: BTreeSet<Attached>,
    /// By node: whether it cannot attach the pod's volumes too.
    full: Vec<bool>,
    shape: Arc<Shape>,
}

impl Limited {
    fn exceeds(&self, node: &NodeInfo, cluster: &Snapshot) -> bool {
        let Some(limits) = cluster.storage.limits_of(&node.name) else { return false };
        let mut attached: BTreeSet<Attached> = node.pods.iter().flat_map(|pod| volumes(&pod.shape, cluster)).collect();
        let new: Vec<&Attached> = self.wanted.iter().filter(|volume| !attached.contains(*volume)).collect();
        let mut more: BTreeMap<&str, i64> = BTreeMap::new();
        new.iter().for_each(|(driver, _)| *more.entry(driver.as_str()).or_default() += 1);
        for attachment in cluster.storage.attachments_at(&node.name) {
            let handle = cluster.storage.volume(&attachment.volume).and_then(|volume| volume.csi.clone());
            attached.extend(handle.map(|(_, handle)| (attachment.attacher.clone(), handle)));
        }
        more.into_iter().any(|(driver, more)| {
            let held = attached.iter().filter(|(of, _)| of == driver).count() as i64;
            limits.get(driver).copied().flatten().is_some_and(|limit| held + more > limit)
        })
    }
}

impl Wide for Limited {
    fn answers(&self) -> &'static [Answer] {
        const { &[Answer::new("node(s) exceed max volume count")] }
    }

    fn observe(&mut self, at: usize, node: &NodeInfo, cluster: &Snapshot) {
        self.full[at] = !self.shape.claims.is_empty() && self.exceeds(node, cluster);
    }

    fn filter(&self, at: usize, _node: &NodeInfo) -> Option<usize> {
        self.full[at].then_some(0)
    }
}
