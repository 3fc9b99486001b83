//! Claims to devices (resource.k8s.io ResourceClaim): which of them a pod names, and what scheduling has to know of each.
//! Devices are not allocated here; whatever needs that is said to be missing, so that no pod starts without what it asks
//! for.

use std::collections::HashMap;

use k8s_openapi::api::resource::v1::ResourceClaim;

use crate::node::NodeFacts;
use crate::select::NodeSelector;
use crate::text::{PodText, ResourceClaimText};

/// Namespace and name.
type Key = (String, String);

/// What a pod names. Whether it may use a claim depends on which pod it is, so pods with claims never share a shape.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodDevices {
    /// Empty where there are no claims.
    pod_uid: String,
    claims: Vec<Named>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Named {
    Claim(String),
    /// It was made for the pod from a template.
    OwnClaim(String),
    /// The controller has yet to make it from a template.
    Awaited,
    /// Its entry in the pod's spec, which names nothing that is known.
    Unsupported(String),
}

impl PodDevices {
    pub fn of(text: &PodText) -> PodDevices {
        let made = &text.status.resource_claim_statuses;
        let named = |entry: &ResourceClaimText| match (&entry.resource_claim_name, &entry.resource_claim_template_name)
        {
            (Some(name), _) => Some(Named::Claim(name.clone())),
            (None, Some(_)) => match made.iter().find(|made| made.name == entry.name) {
                // The controller found that no claim is needed where it tells no name.
                Some(made) => made.resource_claim_name.clone().map(Named::OwnClaim),
                None => Some(Named::Awaited),
            },
            (None, None) => Some(Named::Unsupported(entry.name.clone())),
        };
        let claims: Vec<Named> = text.spec.resource_claims.iter().filter_map(named).collect();
        let pod_uid = if claims.is_empty() { String::new() } else { text.metadata.uid.clone() };
        PodDevices { pod_uid, claims }
    }

    pub fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    pub fn names(&self, claim: &str) -> bool {
        self.claims.iter().any(|named| matches!(named, Named::Claim(name) | Named::OwnClaim(name) if name == claim))
    }
}

/// What is known of a claim.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceClaim {
    /// The uid of its controller.
    owner: Option<String>,
    deleting: bool,
    allocation: Option<Allocation>,
    /// The uids of those that may use it.
    reserved_for: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct Allocation {
    /// Where its devices can be used; everywhere where it does not say.
    nodes: Option<NodeSelector>,
}

impl DeviceClaim {
    pub fn new(object: &ResourceClaim) -> DeviceClaim {
        let status = object.status.as_ref();
        let mut owners = object.metadata.owner_references.iter().flatten();
        DeviceClaim {
            owner: owners.find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone()),
            deleting: object.metadata.deletion_timestamp.is_some(),
            allocation: status
                .and_then(|status| status.allocation.as_ref())
                .map(|allocation| Allocation { nodes: allocation.node_selector.as_ref().map(NodeSelector::new) }),
            reserved_for: status
                .and_then(|status| status.reserved_for.as_ref())
                .into_iter()
                .flatten()
                .map(|consumer| consumer.uid.clone())
                .collect(),
        }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Devices(HashMap<Key, DeviceClaim>);

impl Devices {
    /// Returns what was known before.
    pub fn set(&mut self, key: Key, claim: Option<DeviceClaim>) -> Option<DeviceClaim> {
        match claim {
            Some(claim) => self.0.insert(key, claim),
            None => self.0.remove(&key),
        }
    }

    /// Where the devices can be used that were allocated for a pod, by claim; or why it cannot be scheduled, in
    /// kube-scheduler's words as far as it has them.
    pub fn nodes_for(&self, wanted: &PodDevices, namespace: &str, pod: &str) -> Result<Vec<NodeSelector>, String> {
        let mut selectors = Vec::new();
        for named in &wanted.claims {
            let (name, is_own) = match named {
                Named::Claim(name) => (name, false),
                Named::OwnClaim(name) => (name, true),
                Named::Awaited => return Err(format!("pod \"{namespace}/{pod}\": ResourceClaim not created yet")),
                Named::Unsupported(entry) => {
                    let why = "none of the supported fields are set";
                    return Err(format!("pod \"{namespace}/{pod}\", spec.resourceClaim \"{entry}\": {why}"));
                }
            };
            let claim = self
                .0
                .get(&(namespace.to_owned(), name.clone()))
                .ok_or_else(|| format!("could not find ResourceClaim \"{namespace}/{name}\""))?;
            if claim.deleting {
                return Err(format!("resourceclaim \"{name}\" is being deleted"));
            }
            if is_own && claim.owner.as_ref() != Some(&wanted.pod_uid) {
                return Err(format!(
                    "ResourceClaim {namespace}/{name} was not created for Pod {namespace}/{pod} (Pod is not owner)"
                ));
            }
            let Some(allocation) = &claim.allocation else {
                return Err(format!(
                    "resourceclaim \"{name}\" is not allocated, and this scheduler cannot allocate devices yet"
                ));
            };
            if !claim.reserved_for.contains(&wanted.pod_uid) {
                return Err(format!(
                    "resourceclaim \"{name}\" is not reserved for the pod, and this scheduler cannot reserve devices yet"
                ));
            }
            selectors.extend(allocation.nodes.clone());
        }
        Ok(selectors)
    }
}

/// Whether the devices can all be used on the node.
pub fn usable_on(selectors: &[NodeSelector], node: &NodeFacts) -> bool {
    selectors.iter().all(|selector| selector.matches(&node.name, &node.labels))
}
