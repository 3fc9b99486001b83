//! Claims to devices. None is allocated here: a pod waits until all it names are there, allocated and reserved for it by
//! somebody else, and goes where they can be used. Kube-scheduler keeps a pod whose claims are missing from being tried,
//! without a word; here it is refused in the same words.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::devices::usable_on;
use crate::framework::{Change, Filter, Kind, Nomination, Plugin, Point, PostFilter, PreFilter, Status};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::preemption::Attempt;
use crate::select::NodeSelector;
use crate::snapshot::Snapshot;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Args {
    #[serde(rename = "filterTimeout")]
    _filter_timeout: Option<String>,
}

pub struct DynamicResources;

impl DynamicResources {
    pub fn make(args: Option<&Value>) -> Result<Arc<dyn Plugin>, String> {
        super::read::<Args>(args)?;
        Ok(Arc::new(DynamicResources))
    }
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::PreFilter, Point::Filter, Point::PostFilter]
    }

    fn pre_filter(&self, pod: &PodInfo, cluster: &Snapshot) -> PreFilter {
        if pod.devices.is_empty() {
            return PreFilter::Skip;
        }
        match cluster.devices.nodes_for(&pod.devices, &pod.shape.namespace, &pod.key.name) {
            Ok(selectors) => PreFilter::Check(Box::new(Usable(selectors))),
            Err(reason) => PreFilter::Reject(Status::lasting(reason)),
        }
    }

    fn wakes(&self) -> &'static [Kind] {
        &[Kind::ResourceClaim, Kind::PodUpdated, Kind::NodeAdded, Kind::NodeUpdated]
    }

    fn hint(&self, pod: &PodInfo, change: &Change) -> bool {
        match change {
            Change::ResourceClaim { namespace, name, .. } => {
                *namespace == pod.shape.namespace && pod.devices.names(name)
            }
            Change::PodUpdated { old, new } => new.uid == pod.uid && old.devices != new.devices,
            Change::NodeUpdated { old, new } => old.labels != new.labels,
            _ => true,
        }
    }

    /// Where an earlier plugin refused every node for good, kube-scheduler has not looked at the pod's claims by now: it
    /// calls them not found, and does not try to make room.
    fn post_filter(&self, attempt: &mut Attempt<'_>) -> Option<PostFilter> {
        let by_another = |(plugin, status): &(&'static str, Status)| !status.resolvable && *plugin != self.name();
        let unseen = attempt.class.rejection().is_some_and(by_another);
        Some(match unseen {
            true => PostFilter::Stuck { message: "not found".into() },
            false => {
                let message = "no new claims to deallocate".into();
                PostFilter::Helpless { message, nomination: Nomination::Keep }
            }
        })
    }
}

struct Usable(Vec<NodeSelector>);

impl Filter for Usable {
    fn filter(&self, _at: usize, node: &NodeInfo) -> Option<Status> {
        (!usable_on(&self.0, node)).then(|| Status::lasting("resourceclaim not available on the node"))
    }
}
