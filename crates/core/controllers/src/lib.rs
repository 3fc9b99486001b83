//! Every built-in controller, one file each: what it watches and what it decides. Nothing here touches the world.

mod claim;
mod history;
mod pods;
mod selector;
mod service;
mod shape;
mod tolerations;

pub mod cluster_role_aggregation;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod garbage;
pub mod job;
pub mod namespace;
pub mod node_lifecycle;
pub mod pod_garbage;
pub mod quota;
pub mod replicaset;
pub mod root_ca;
pub mod serviceaccount;
pub mod statefulset;
pub mod taint_eviction;
pub mod ttl_after_finished;

use coracle_reconcile::Controller;

/// What controllers need to know that no object tells them.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// PEM of the authority that signs the API server's certificate, published in every namespace.
    pub root_ca: String,
}

/// The table of controllers. Their order means nothing: each runs on its own.
pub fn all(settings: &Settings) -> Vec<Box<dyn Controller>> {
    vec![
        Box::new(deployment::Deployment),
        Box::new(replicaset::ReplicaSet),
        Box::new(replicaset::ReplicationController),
        Box::<daemonset::DaemonSet>::default(),
        Box::new(statefulset::StatefulSet),
        Box::new(job::Job),
        Box::new(cronjob::CronJob),
        Box::new(endpointslice::EndpointSlice),
        Box::new(endpoints::Endpoints),
        Box::new(namespace::Namespace),
        Box::new(serviceaccount::ServiceAccount),
        Box::new(cluster_role_aggregation::ClusterRoleAggregation),
        Box::new(root_ca::RootCaPublisher { certificate: settings.root_ca.clone() }),
        Box::new(node_lifecycle::NodeLifecycle::default()),
        Box::new(taint_eviction::TaintEviction),
        Box::new(garbage::GarbageCollector),
        Box::new(pod_garbage::PodGarbageCollector),
        Box::new(quota::ResourceQuota),
        Box::new(disruption::Disruption),
        Box::new(ttl_after_finished::TtlAfterFinished),
    ]
}
