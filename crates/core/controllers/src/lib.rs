//! Every built-in controller, one file each: what it watches and what it decides. Nothing here touches the world.

mod bootstrap_tokens;
mod certificate_request;
mod claim;
mod history;
#[cfg(test)]
mod interface;
mod node;
mod pods;
mod protection;
mod selector;
mod service;
mod shape;
mod subsets;
mod tolerations;

pub mod attach_detach;
pub mod bootstrap_signer;
pub mod cluster_role_aggregation;
pub mod cronjob;
pub mod csr_approving;
pub mod csr_cleaner;
pub mod csr_signing;
pub mod daemonset;
pub mod deployment;
pub mod device_taint_eviction;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod endpointslice_mirroring;
pub mod ephemeral_volume;
pub mod expander;
pub mod garbage;
pub mod hpa;
pub mod job;
pub mod legacy_token_cleaner;
pub mod namespace;
pub mod node_lifecycle;
pub mod pod_garbage;
pub mod podgroup_protection;
pub mod pv_binder;
pub mod pv_protection;
pub mod pvc_protection;
pub mod quota;
pub mod replicaset;
pub mod resource_claim;
pub mod root_ca;
pub mod service_cidr;
pub mod serviceaccount;
pub mod serviceaccount_token;
pub mod statefulset;
pub mod taint_eviction;
pub mod token_cleaner;
pub mod ttl;
pub mod ttl_after_finished;
pub mod vac_protection;

use std::time::Duration;

use coracle_meta::{Gate, Gates};
use coracle_reconcile::Controller;

/// What controllers need to know that no object tells them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// PEM of the authority that signs the API server's certificate, published in every namespace.
    pub root_ca: String,
    /// Whether this process has an authority to sign certificate requests with.
    pub can_sign: bool,
    /// Whether it has the key of service accounts' tokens.
    pub can_make_tokens: bool,
    /// How often autoscalers look, as upstream's `--horizontal-pod-autoscaler-sync-period`.
    pub autoscaler_period: Duration,
    /// Feature gates that are on.
    pub gates: Gates,
}

impl Default for Settings {
    fn default() -> Settings {
        let autoscaler_period = Duration::from_secs(15);
        let gates = Gates::default();
        Settings { root_ca: String::new(), can_sign: false, can_make_tokens: false, autoscaler_period, gates }
    }
}

/// The table of controllers. Their order means nothing: each runs on its own.
pub fn all(settings: &Settings) -> Vec<Box<dyn Controller>> {
    let mut all: Vec<Box<dyn Controller>> = vec![
        Box::new(deployment::Deployment),
        Box::new(replicaset::ReplicaSet),
        Box::new(replicaset::ReplicationController),
        Box::<daemonset::DaemonSet>::default(),
        Box::new(statefulset::StatefulSet),
        Box::new(job::Job),
        Box::new(cronjob::CronJob),
        Box::new(endpointslice::EndpointSlice),
        Box::new(endpointslice_mirroring::EndpointSliceMirroring),
        Box::new(endpoints::Endpoints),
        Box::new(namespace::Namespace),
        Box::new(serviceaccount::ServiceAccount),
        Box::new(cluster_role_aggregation::ClusterRoleAggregation),
        Box::new(root_ca::RootCaPublisher { certificate: settings.root_ca.clone() }),
        Box::new(node_lifecycle::NodeLifecycle::default()),
        Box::<taint_eviction::TaintEviction>::default(),
        Box::new(garbage::GarbageCollector),
        Box::<pod_garbage::PodGarbageCollector>::default(),
        Box::new(quota::ResourceQuota),
        Box::new(disruption::Disruption),
        Box::new(ttl_after_finished::TtlAfterFinished),
        Box::new(csr_approving::CsrApproving),
        Box::new(csr_cleaner::CsrCleaner),
        Box::new(pv_binder::PvBinder),
        Box::new(pv_protection::PvProtection),
        Box::new(pvc_protection::PvcProtection),
        Box::new(vac_protection::VacProtection),
        Box::new(service_cidr::ServiceCidr),
        Box::<expander::Expander>::default(),
        Box::<attach_detach::AttachDetach>::default(),
        Box::<device_taint_eviction::DeviceTaintEviction>::default(),
        Box::new(legacy_token_cleaner::LegacyTokenCleaner),
        Box::new(hpa::HorizontalPodAutoscaler::new(settings.autoscaler_period)),
        Box::new(resource_claim::ResourceClaim),
        Box::new(bootstrap_signer::BootstrapSigner),
        Box::new(token_cleaner::TokenCleaner),
        Box::<ttl::Ttl>::default(),
        Box::new(ephemeral_volume::EphemeralVolume),
    ];
    if settings.gates.has(Gate::GenericWorkload) {
        all.push(Box::new(podgroup_protection::PodGroupProtection));
    }
    if settings.can_sign {
        all.push(Box::new(csr_signing::CsrSigning));
    }
    if settings.can_make_tokens {
        all.push(Box::new(serviceaccount_token::ServiceAccountToken { root_ca: settings.root_ca.clone() }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_controller_has_a_name_of_its_own_that_operators_can_look_up() {
        let settings = Settings { can_sign: true, can_make_tokens: true, gates: Gates::GANGS, ..Settings::default() };
        let documented = include_str!("../../../../docs/controllers.md");
        let all = all(&settings);
        let names: BTreeSet<&str> = all.iter().map(|controller| controller.name()).collect();
        assert_eq!(names.len(), all.len());
        let missing: Vec<_> = names.iter().filter(|name| !documented.contains(&format!("`{name}`"))).collect();
        assert!(missing.is_empty(), "not in docs/controllers.md: {missing:?}");
    }
}
