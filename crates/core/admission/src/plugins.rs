//! The table of plugins. The order is upstream's: defaults come before what checks them, and quotas are charged last,
//! when nothing else can refuse. Source: Kubernetes `pkg/kubeapiserver/options/plugins.go`.

mod certificate_approval;
mod certificate_signing;
mod certificate_subject;
mod claim_resize;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod job_validation;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod pod_security;
mod podgroup_protection;
mod podgroup_workload_exists;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_object_in_use;
mod taint_nodes;

use crate::plugin::Plugin;

pub static PLUGINS: &[&dyn Plugin] = &[
    &namespace_lifecycle::NamespaceLifecycle,
    &limit_ranger::LimitRanger,
    &service_account::ServiceAccount,
    &node_restriction::NodeRestriction,
    &taint_nodes::TaintNodesByCondition,
    &pod_security::PodSecurity,
    &priority::Priority,
    &default_toleration_seconds::DefaultTolerationSeconds,
    &default_storage_class::DefaultStorageClass,
    &storage_object_in_use::StorageObjectInUseProtection,
    &podgroup_protection::PodGroupProtection,
    &claim_resize::PersistentVolumeClaimResize,
    &runtime_class::RuntimeClass,
    &certificate_approval::CertificateApproval,
    &certificate_signing::CertificateSigning,
    &certificate_subject::CertificateSubjectRestriction,
    &default_ingress_class::DefaultIngressClass,
    &podgroup_workload_exists::PodGroupWorkloadExists,
    &job_validation::JobValidation,
    &resource_quota::ResourceQuota,
];
