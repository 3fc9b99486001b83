//! The fields of Pods and Nodes that scheduling reads, as their JSON has them. Everything else is skipped unread: a pod
//! costs a fraction of what the whole type would.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;
use serde::{Deserialize, Deserializer};

use crate::resources::ResourceList;
use crate::select::{Taint, Toleration};

/// Takes null for nothing.
fn nullable<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodText {
    pub metadata: MetaText,
    pub spec: SpecText,
    pub status: StatusText,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MetaText {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    #[serde(deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    pub deletion_timestamp: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub owner_references: Vec<OwnerText>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OwnerText {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub controller: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SpecText {
    #[serde(deserialize_with = "nullable")]
    pub containers: Vec<ContainerText>,
    #[serde(deserialize_with = "nullable")]
    pub init_containers: Vec<ContainerText>,
    pub node_name: String,
    pub priority: i32,
    pub preemption_policy: String,
    pub scheduler_name: String,
    #[serde(deserialize_with = "nullable")]
    pub node_selector: BTreeMap<String, String>,
    pub affinity: Option<api::Affinity>,
    #[serde(deserialize_with = "nullable")]
    pub tolerations: Vec<Toleration>,
    #[serde(deserialize_with = "nullable")]
    pub topology_spread_constraints: Vec<api::TopologySpreadConstraint>,
    #[serde(deserialize_with = "nullable")]
    pub scheduling_gates: Vec<NameText>,
    #[serde(deserialize_with = "nullable")]
    pub overhead: ResourceList,
    #[serde(deserialize_with = "nullable")]
    pub resources: RequestsText,
    #[serde(deserialize_with = "nullable")]
    pub volumes: Vec<VolumeText>,
    #[serde(deserialize_with = "nullable")]
    pub resource_claims: Vec<ResourceClaimText>,
    pub host_network: bool,
    pub host_users: Option<bool>,
    pub scheduling_group: Option<GroupText>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GroupText {
    pub pod_group_name: Option<Box<str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct NameText {
    pub name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerText {
    pub name: String,
    pub image: String,
    pub restart_policy: String,
    #[serde(deserialize_with = "nullable")]
    pub restart_policy_rules: Vec<RuleText>,
    #[serde(deserialize_with = "nullable")]
    pub resources: RequestsText,
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<PortText>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RuleText {
    pub action: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RequestsText {
    #[serde(deserialize_with = "nullable")]
    pub requests: ResourceList,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortText {
    pub host_port: i32,
    #[serde(rename = "hostIP")]
    pub host_ip: String,
    pub protocol: String,
}

/// A volume, where its source matters to scheduling.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VolumeText {
    pub name: String,
    pub persistent_volume_claim: Option<ClaimText>,
    pub ephemeral: Option<serde::de::IgnoredAny>,
    pub image: Option<ImageVolumeText>,
    pub gce_persistent_disk: Option<api::GCEPersistentDiskVolumeSource>,
    pub aws_elastic_block_store: Option<api::AWSElasticBlockStoreVolumeSource>,
    pub iscsi: Option<api::ISCSIVolumeSource>,
    pub rbd: Option<api::RBDVolumeSource>,
}

/// In a pod's spec, or in its status once the claim of a template was made.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ResourceClaimText {
    pub name: String,
    pub resource_claim_name: Option<String>,
    pub resource_claim_template_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClaimText {
    pub claim_name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ImageVolumeText {
    pub reference: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StatusText {
    pub phase: String,
    pub nominated_node_name: String,
    pub start_time: Option<jiff::Timestamp>,
    #[serde(deserialize_with = "nullable")]
    pub conditions: Vec<ConditionText>,
    #[serde(deserialize_with = "nullable")]
    pub container_statuses: Vec<ContainerStatusText>,
    #[serde(deserialize_with = "nullable")]
    pub init_container_statuses: Vec<ContainerStatusText>,
    /// Of the pod as a whole.
    pub resources: Option<RequestsText>,
    #[serde(deserialize_with = "nullable")]
    pub allocated_resources: ResourceList,
    #[serde(deserialize_with = "nullable")]
    pub resource_claim_statuses: Vec<ResourceClaimText>,
}

impl StatusText {
    pub fn statuses(&self) -> impl Iterator<Item = &ContainerStatusText> {
        self.container_statuses.iter().chain(&self.init_container_statuses)
    }

    pub fn condition(&self, kind: &str) -> Option<&ConditionText> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }

    pub fn is_resize_infeasible(&self) -> bool {
        self.condition("PodResizePending").is_some_and(|condition| condition.reason == "Infeasible")
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConditionText {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    pub reason: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerStatusText {
    pub name: String,
    pub resources: Option<RequestsText>,
    #[serde(deserialize_with = "nullable")]
    pub allocated_resources: ResourceList,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeText {
    pub metadata: MetaText,
    pub spec: NodeSpecText,
    pub status: NodeStatusText,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeSpecText {
    pub unschedulable: bool,
    #[serde(deserialize_with = "nullable")]
    pub taints: Vec<Taint>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeStatusText {
    #[serde(deserialize_with = "nullable")]
    pub allocatable: ResourceList,
    #[serde(deserialize_with = "nullable")]
    pub images: Vec<ImageText>,
    #[serde(deserialize_with = "nullable")]
    pub declared_features: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ImageText {
    #[serde(deserialize_with = "nullable")]
    pub names: Vec<String>,
    pub size_bytes: i64,
}
