//! The table of kinds, one line each, in the order discovery lists groups and kinds. A kind with rules of its own has
//! a file of its name in its group's folder; the others have none.

use std::collections::HashMap;
use std::sync::OnceLock;

use coracle_meta::Resource;

use crate::core;
use crate::kind::Scope::{Cluster, Namespaced};
use crate::kind::{Kind, Subresource, Version};

const V1: &[Version] = &[Version::on("v1")];
const V1_BETA: &[Version] = &[Version::on("v1"), Version::off("v1beta1")];
const V1_BETA_ALPHA: &[Version] = &[Version::on("v1"), Version::off("v1beta1"), Version::off("v1alpha1")];
const BETA: &[Version] = &[Version::off("v1beta1")];
const BETA_ALPHA: &[Version] = &[Version::off("v1beta1"), Version::off("v1alpha1")];
const BETA_ALPHA2: &[Version] = &[Version::off("v1beta1"), Version::off("v1alpha2")];
const ALPHA: &[Version] = &[Version::off("v1alpha1")];
const ALPHA2: &[Version] = &[Version::off("v1alpha2")];
const ALPHA3: &[Version] = &[Version::off("v1alpha3")];
const SCALER: &[Version] = &[Version::on("v2"), Version::on("v1")];
const DEVICES: &[Version] = &[Version::on("v1"), Version::off("v1beta2"), Version::off("v1beta1")];
const TAINTS: &[Version] = &[Version::off("v1beta2"), Version::off("v1alpha3")];

const CREATE: &[&str] = &["create"];
const CONNECT: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
const STATUS: &[Subresource] = &[Subresource::STATUS];
const STATUS_AND_SCALE: &[Subresource] = &[Subresource::SCALE, Subresource::STATUS];
const POD_PARTS: &[Subresource] = &[
    Subresource::of("attach", "PodAttachOptions", CONNECT),
    Subresource::of("binding", "Binding", CREATE),
    Subresource::edit("ephemeralcontainers"),
    Subresource::of("eviction", "Eviction", CREATE).in_group("policy", "v1"),
    Subresource::of("exec", "PodExecOptions", CONNECT),
    Subresource::of("log", "Pod", &["get"]),
    Subresource::of("portforward", "PodPortForwardOptions", CONNECT),
    Subresource::of("proxy", "PodProxyOptions", PROXY),
    Subresource::edit("resize"),
    Subresource::STATUS,
];
const TOKEN: &[Subresource] =
    &[Subresource::of("token", "TokenRequest", CREATE).in_group("authentication.k8s.io", "v1")];

const REGISTRATION: &[&str] = &["api-extensions"];
const ALL: &[&str] = &["all"];

const fn kind(group: &'static str, kind: &'static str, plural: &'static str, versions: &'static [Version]) -> Kind {
    Kind::new(group, kind, plural, Cluster, versions)
}

const fn namespaced(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    versions: &'static [Version],
) -> Kind {
    Kind::new(group, kind, plural, Namespaced, versions)
}

#[rustfmt::skip] // a line is a kind
static KINDS: &[Kind] = &[
    namespaced("", "Binding", "bindings", V1).not_kept(CREATE),
    kind("", "ComponentStatus", "componentstatuses", V1).not_kept(&["get", "list"]).short(&["cs"]).rules(core::componentstatus::RULES),
    namespaced("", "ConfigMap", "configmaps", V1).short(&["cm"]).rules(core::configmap::RULES),
    namespaced("", "Endpoints", "endpoints", V1).short(&["ep"]).under("services/endpoints").rules(core::endpoints::RULES),
    namespaced("", "Event", "events", V1).short(&["ev"]).rules(core::event::RULES),
    namespaced("", "LimitRange", "limitranges", V1).short(&["limits"]).rules(core::limitrange::RULES),
    kind("", "Namespace", "namespaces", V1).short(&["ns"]).without_collection_delete().parts(&[Subresource::of("finalize", "", &["update"]), Subresource::STATUS]).rules(core::namespace::RULES),
    kind("", "Node", "nodes", V1).short(&["no"]).under("minions").parts(&[Subresource::of("proxy", "NodeProxyOptions", PROXY), Subresource::STATUS]).rules(core::node::RULES),
    namespaced("", "PersistentVolumeClaim", "persistentvolumeclaims", V1).short(&["pvc"]).parts(STATUS).rules(core::persistentvolumeclaim::RULES),
    kind("", "PersistentVolume", "persistentvolumes", V1).short(&["pv"]).parts(STATUS).rules(core::persistentvolume::RULES),
    namespaced("", "Pod", "pods", V1).short(&["po"]).category(ALL).parts(POD_PARTS).rules(core::pod::RULES),
    namespaced("", "PodTemplate", "podtemplates", V1).rules(core::podtemplate::RULES),
    namespaced("", "ReplicationController", "replicationcontrollers", V1).short(&["rc"]).category(ALL).under("controllers").parts(STATUS_AND_SCALE).rules(core::replicationcontroller::RULES),
    namespaced("", "ResourceQuota", "resourcequotas", V1).short(&["quota"]).parts(STATUS).rules(core::resourcequota::RULES),
    namespaced("", "Secret", "secrets", V1).rules(core::secret::RULES),
    namespaced("", "ServiceAccount", "serviceaccounts", V1).short(&["sa"]).parts(TOKEN).rules(core::serviceaccount::RULES),
    namespaced("", "Service", "services", V1).short(&["svc"]).category(ALL).under("services/specs").parts(&[Subresource::of("proxy", "ServiceProxyOptions", PROXY), Subresource::STATUS]).rules(core::service::RULES),

    kind("apiregistration.k8s.io", "APIService", "apiservices", V1).category(REGISTRATION).under("apiregistration.k8s.io/apiservices").parts(STATUS),

    namespaced("apps", "ControllerRevision", "controllerrevisions", V1),
    namespaced("apps", "DaemonSet", "daemonsets", V1).short(&["ds"]).category(ALL).parts(STATUS),
    namespaced("apps", "Deployment", "deployments", V1).short(&["deploy"]).category(ALL).parts(STATUS_AND_SCALE),
    namespaced("apps", "ReplicaSet", "replicasets", V1).short(&["rs"]).category(ALL).parts(STATUS_AND_SCALE),
    namespaced("apps", "StatefulSet", "statefulsets", V1).short(&["sts"]).category(ALL).parts(STATUS_AND_SCALE),

    namespaced("events.k8s.io", "Event", "events", V1).short(&["ev"]).stored_as("", "v1"),

    kind("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", V1).not_kept(CREATE),
    kind("authentication.k8s.io", "TokenReview", "tokenreviews", V1).not_kept(CREATE),

    namespaced("authorization.k8s.io", "LocalSubjectAccessReview", "localsubjectaccessreviews", V1).not_kept(CREATE),
    kind("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", V1).not_kept(CREATE),
    kind("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews", V1).not_kept(CREATE),
    kind("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews", V1).not_kept(CREATE),

    namespaced("autoscaling", "HorizontalPodAutoscaler", "horizontalpodautoscalers", SCALER).short(&["hpa"]).category(ALL).parts(STATUS),

    namespaced("batch", "CronJob", "cronjobs", V1).short(&["cj"]).category(ALL).parts(STATUS),
    namespaced("batch", "Job", "jobs", V1).category(ALL).parts(STATUS),

    kind("certificates.k8s.io", "CertificateSigningRequest", "certificatesigningrequests", V1).short(&["csr"]).parts(&[Subresource::edit("approval"), Subresource::STATUS]),
    kind("certificates.k8s.io", "ClusterTrustBundle", "clustertrustbundles", BETA_ALPHA),
    namespaced("certificates.k8s.io", "PodCertificateRequest", "podcertificaterequests", BETA).parts(STATUS),

    kind("networking.k8s.io", "IngressClass", "ingressclasses", V1),
    namespaced("networking.k8s.io", "Ingress", "ingresses", V1).short(&["ing"]).under("ingress").parts(STATUS),
    kind("networking.k8s.io", "IPAddress", "ipaddresses", V1_BETA).short(&["ip"]),
    namespaced("networking.k8s.io", "NetworkPolicy", "networkpolicies", V1).short(&["netpol"]),
    kind("networking.k8s.io", "ServiceCIDR", "servicecidrs", V1_BETA).parts(STATUS),

    namespaced("policy", "PodDisruptionBudget", "poddisruptionbudgets", V1).short(&["pdb"]).parts(STATUS),

    kind("rbac.authorization.k8s.io", "ClusterRoleBinding", "clusterrolebindings", V1),
    kind("rbac.authorization.k8s.io", "ClusterRole", "clusterroles", V1),
    namespaced("rbac.authorization.k8s.io", "RoleBinding", "rolebindings", V1),
    namespaced("rbac.authorization.k8s.io", "Role", "roles", V1),

    kind("storage.k8s.io", "CSIDriver", "csidrivers", V1),
    kind("storage.k8s.io", "CSINode", "csinodes", V1),
    namespaced("storage.k8s.io", "CSIStorageCapacity", "csistoragecapacities", V1),
    kind("storage.k8s.io", "StorageClass", "storageclasses", V1).short(&["sc"]),
    kind("storage.k8s.io", "VolumeAttachment", "volumeattachments", V1).parts(STATUS),
    kind("storage.k8s.io", "VolumeAttributesClass", "volumeattributesclasses", V1_BETA).short(&["vac"]),

    kind("admissionregistration.k8s.io", "MutatingAdmissionPolicy", "mutatingadmissionpolicies", V1_BETA_ALPHA).category(REGISTRATION).stored_as("admissionregistration.k8s.io", "v1beta1"),
    kind("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", V1_BETA_ALPHA).category(REGISTRATION).stored_as("admissionregistration.k8s.io", "v1beta1"),
    kind("admissionregistration.k8s.io", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", V1).category(REGISTRATION),
    kind("admissionregistration.k8s.io", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", V1).category(REGISTRATION).parts(STATUS),
    kind("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", V1).category(REGISTRATION),
    kind("admissionregistration.k8s.io", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", V1).category(REGISTRATION),

    kind("apiextensions.k8s.io", "CustomResourceDefinition", "customresourcedefinitions", V1).short(&["crd", "crds"]).category(REGISTRATION).under("apiextensions.k8s.io/customresourcedefinitions").parts(STATUS),

    kind("scheduling.k8s.io", "PriorityClass", "priorityclasses", V1).short(&["pc"]),
    namespaced("scheduling.k8s.io", "PodGroup", "podgroups", ALPHA2).parts(STATUS),
    namespaced("scheduling.k8s.io", "Workload", "workloads", ALPHA2),

    namespaced("coordination.k8s.io", "Lease", "leases", V1),
    namespaced("coordination.k8s.io", "LeaseCandidate", "leasecandidates", BETA_ALPHA2),

    kind("node.k8s.io", "RuntimeClass", "runtimeclasses", V1),

    namespaced("discovery.k8s.io", "EndpointSlice", "endpointslices", V1),

    kind("resource.k8s.io", "DeviceClass", "deviceclasses", DEVICES),
    kind("resource.k8s.io", "DeviceTaintRule", "devicetaintrules", TAINTS).stored_as("resource.k8s.io", "v1alpha3").parts(STATUS),
    namespaced("resource.k8s.io", "ResourceClaim", "resourceclaims", DEVICES).parts(STATUS),
    namespaced("resource.k8s.io", "ResourceClaimTemplate", "resourceclaimtemplates", DEVICES),
    kind("resource.k8s.io", "ResourcePoolStatusRequest", "resourcepoolstatusrequests", ALPHA3).parts(STATUS),
    kind("resource.k8s.io", "ResourceSlice", "resourceslices", DEVICES),

    kind("flowcontrol.apiserver.k8s.io", "FlowSchema", "flowschemas", V1).parts(STATUS),
    kind("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration", "prioritylevelconfigurations", V1).parts(STATUS),

    kind("internal.apiserver.k8s.io", "StorageVersion", "storageversions", ALPHA).parts(STATUS),

    kind("storagemigration.k8s.io", "StorageVersionMigration", "storageversionmigrations", BETA).parts(STATUS),
];

/// Every kind, in the order of discovery.
pub fn table() -> &'static [Kind] {
    KINDS
}

/// The kind of a resource.
pub fn find(resource: &Resource) -> Option<&'static Kind> {
    static BY_RESOURCE: OnceLock<HashMap<(&str, &str), &Kind>> = OnceLock::new();
    let index = BY_RESOURCE.get_or_init(|| KINDS.iter().map(|kind| ((kind.group, kind.plural), kind)).collect());
    index.get(&(resource.group.as_ref(), resource.plural.as_ref())).copied()
}

/// The kind an object names, in a version it is or may be served in.
pub fn by_gvk(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    let is_meant = |known: &&Kind| {
        known.group == group
            && known.kind == kind
            && known.versions.iter().any(|known_version| known_version.name == version)
    };
    KINDS.iter().find(is_meant)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Of a version: the resources that discovery of a real server lists, generated from its discovery documents.
    const SERVED: &str = include_str!("served.txt");

    fn or_dash(words: &[&str]) -> String {
        if words.is_empty() { "-".into() } else { words.join(",") }
    }

    fn lines(kind: &Kind) -> Vec<String> {
        let group = if kind.group.is_empty() { "core" } else { kind.group };
        let scope = if kind.is_namespaced() { "N" } else { "C" };
        let mut lines = Vec::new();
        for version in kind.versions {
            let (short, category) = (or_dash(kind.short_names), or_dash(kind.categories));
            let head = format!("{group} {} {}", version.name, kind.plural);
            lines.push(format!("{head} {} {scope} {short} {category} {}", kind.kind, kind.verbs.join(",")));
            for part in kind.subresources {
                let part_kind = match (part.kind, part.group_version) {
                    ("", _) => kind.kind.to_owned(),
                    (part_kind, None) => part_kind.to_owned(),
                    (part_kind, Some((group, version))) => format!("{group}/{version}/{part_kind}"),
                };
                lines.push(format!("{head}/{} {part_kind} {scope} - - {}", part.name, part.verbs.join(",")));
            }
        }
        lines
    }

    #[test]
    fn the_table_is_what_a_real_server_serves() {
        let ours: BTreeSet<String> = KINDS.iter().flat_map(lines).collect();
        let theirs: BTreeSet<String> = SERVED.lines().map(str::to_owned).collect();
        let missing: Vec<_> = theirs.difference(&ours).collect();
        let surplus: Vec<_> = ours.difference(&theirs).collect();
        assert!(missing.is_empty() && surplus.is_empty(), "missing {missing:#?}\nsurplus {surplus:#?}");
    }

    #[test]
    fn keys_lie_where_kube_apiserver_puts_them() {
        let key =
            |group, plural, namespace, name| find(&Resource::new(group, plural)).unwrap().storage_key(namespace, name);
        assert_eq!(key("", "nodes", "", "a").unwrap(), "/registry/minions/a");
        assert_eq!(key("", "services", "x", "a").unwrap(), "/registry/services/specs/x/a");
        assert_eq!(key("", "endpoints", "x", "a").unwrap(), "/registry/services/endpoints/x/a");
        assert_eq!(key("networking.k8s.io", "ingresses", "x", "a").unwrap(), "/registry/ingress/x/a");
        assert_eq!(key("events.k8s.io", "events", "x", "a").unwrap(), "/registry/events/x/a");
        assert_eq!(key("authorization.k8s.io", "subjectaccessreviews", "", "a"), None);
    }

    #[test]
    fn a_kind_is_found_by_what_an_object_says() {
        assert_eq!(by_gvk("autoscaling", "v1", "HorizontalPodAutoscaler").unwrap().plural, "horizontalpodautoscalers");
        assert!(by_gvk("apps", "v1beta1", "Deployment").is_none());
    }
}
