//! The table of kinds, one line each, in the order discovery lists groups and kinds. A kind with rules of its own has
//! a file of its name in its group's folder; the others have none.

use std::collections::HashMap;
use std::sync::OnceLock;

use coracle_meta::{Gate, Resource};

#[rustfmt::skip]
use crate::{
    admissionregistration, apiextensions, apiregistration, apps, autoscaling, batch, certificates, coordination, core,
    discovery, events, flowcontrol, internal, metrics, networking, node, policy, rbac, resource, scheduling, storage,
    storagemigration,
};
use crate::kind::Scope::{Cluster, Namespaced};
use crate::kind::{Kind, Subresource, Version};

const V1: &[Version] = &[Version::on("v1")];
const V1_BETA: &[Version] = &[Version::on("v1"), Version::off("v1beta1")];
const V1_BETA_ALPHA: &[Version] = &[Version::on("v1"), Version::off("v1beta1"), Version::off("v1alpha1")];
const BETA: &[Version] = &[Version::off("v1beta1")];
const BETA_ON: &[Version] = &[Version::on("v1beta1")];
const BETA_ALPHA: &[Version] = &[Version::off("v1beta1"), Version::off("v1alpha1")];
const BETA_ALPHA2: &[Version] = &[Version::off("v1beta1"), Version::off("v1alpha2")];
const ALPHA: &[Version] = &[Version::off("v1alpha1")];
const ALPHA2: &[Version] = &[Version::off("v1alpha2")];
const ALPHA3: &[Version] = &[Version::off("v1alpha3")];
const SCALER: &[Version] = &[Version::on("v2"), Version::on("v1")];
const DEVICES: &[Version] = &[Version::on("v1"), Version::off("v1beta2"), Version::off("v1beta1")];
const TAINTS: &[Version] = &[Version::off("v1beta2"), Version::off("v1alpha3")];

const CREATE: &[&str] = &["create"];
const READ: &[&str] = &["get", "list"];
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

    kind("apiregistration.k8s.io", "APIService", "apiservices", V1).category(REGISTRATION).under("apiregistration.k8s.io/apiservices").parts(STATUS).rules(apiregistration::apiservice::RULES),

    namespaced("apps", "ControllerRevision", "controllerrevisions", V1).rules(apps::controllerrevision::RULES),
    namespaced("apps", "DaemonSet", "daemonsets", V1).short(&["ds"]).category(ALL).parts(STATUS).rules(apps::daemonset::RULES),
    namespaced("apps", "Deployment", "deployments", V1).short(&["deploy"]).category(ALL).parts(STATUS_AND_SCALE).rules(apps::deployment::RULES),
    namespaced("apps", "ReplicaSet", "replicasets", V1).short(&["rs"]).category(ALL).parts(STATUS_AND_SCALE).rules(apps::replicaset::RULES),
    namespaced("apps", "StatefulSet", "statefulsets", V1).short(&["sts"]).category(ALL).parts(STATUS_AND_SCALE).rules(apps::statefulset::RULES),

    namespaced("events.k8s.io", "Event", "events", V1).short(&["ev"]).stored_as("", "v1").rules(events::event::RULES),

    kind("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", V1).not_kept(CREATE),
    kind("authentication.k8s.io", "TokenReview", "tokenreviews", V1).not_kept(CREATE),

    namespaced("authorization.k8s.io", "LocalSubjectAccessReview", "localsubjectaccessreviews", V1).not_kept(CREATE),
    kind("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", V1).not_kept(CREATE),
    kind("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews", V1).not_kept(CREATE),
    kind("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews", V1).not_kept(CREATE),

    namespaced("autoscaling", "HorizontalPodAutoscaler", "horizontalpodautoscalers", SCALER).short(&["hpa"]).category(ALL).parts(STATUS).rules(autoscaling::horizontalpodautoscaler::RULES),

    namespaced("batch", "CronJob", "cronjobs", V1).short(&["cj"]).category(ALL).parts(STATUS).rules(batch::cronjob::RULES),
    namespaced("batch", "Job", "jobs", V1).category(ALL).parts(STATUS).rules(batch::job::RULES),

    kind("certificates.k8s.io", "CertificateSigningRequest", "certificatesigningrequests", V1).short(&["csr"]).parts(&[Subresource::edit("approval"), Subresource::STATUS]).rules(certificates::certificatesigningrequest::RULES),
    kind("certificates.k8s.io", "ClusterTrustBundle", "clustertrustbundles", BETA_ALPHA).rules(certificates::clustertrustbundle::RULES),
    namespaced("certificates.k8s.io", "PodCertificateRequest", "podcertificaterequests", BETA).parts(STATUS).rules(certificates::podcertificaterequest::RULES),

    kind("networking.k8s.io", "IngressClass", "ingressclasses", V1).rules(networking::ingressclass::RULES),
    namespaced("networking.k8s.io", "Ingress", "ingresses", V1).short(&["ing"]).under("ingress").parts(STATUS).rules(networking::ingress::RULES),
    kind("networking.k8s.io", "IPAddress", "ipaddresses", V1_BETA).short(&["ip"]).rules(networking::ipaddress::RULES),
    namespaced("networking.k8s.io", "NetworkPolicy", "networkpolicies", V1).short(&["netpol"]).rules(networking::networkpolicy::RULES),
    kind("networking.k8s.io", "ServiceCIDR", "servicecidrs", V1_BETA).parts(STATUS).rules(networking::servicecidr::RULES),

    namespaced("policy", "PodDisruptionBudget", "poddisruptionbudgets", V1).short(&["pdb"]).parts(STATUS).rules(policy::poddisruptionbudget::RULES),

    kind("rbac.authorization.k8s.io", "ClusterRoleBinding", "clusterrolebindings", V1).rules(rbac::clusterrolebinding::RULES),
    kind("rbac.authorization.k8s.io", "ClusterRole", "clusterroles", V1).rules(rbac::clusterrole::RULES),
    namespaced("rbac.authorization.k8s.io", "RoleBinding", "rolebindings", V1).rules(rbac::rolebinding::RULES),
    namespaced("rbac.authorization.k8s.io", "Role", "roles", V1).rules(rbac::role::RULES),

    kind("storage.k8s.io", "CSIDriver", "csidrivers", V1).rules(storage::csidriver::RULES),
    kind("storage.k8s.io", "CSINode", "csinodes", V1).rules(storage::csinode::RULES),
    namespaced("storage.k8s.io", "CSIStorageCapacity", "csistoragecapacities", V1).rules(storage::csistoragecapacity::RULES),
    kind("storage.k8s.io", "StorageClass", "storageclasses", V1).short(&["sc"]).rules(storage::storageclass::RULES),
    kind("storage.k8s.io", "VolumeAttachment", "volumeattachments", V1).parts(STATUS).rules(storage::volumeattachment::RULES),
    kind("storage.k8s.io", "VolumeAttributesClass", "volumeattributesclasses", V1_BETA).short(&["vac"]).rules(storage::volumeattributesclass::RULES),

    kind("admissionregistration.k8s.io", "MutatingAdmissionPolicy", "mutatingadmissionpolicies", V1_BETA_ALPHA).category(REGISTRATION).stored_as("admissionregistration.k8s.io", "v1beta1").rules(admissionregistration::mutatingadmissionpolicy::RULES),
    kind("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings", V1_BETA_ALPHA).category(REGISTRATION).stored_as("admissionregistration.k8s.io", "v1beta1").rules(admissionregistration::mutatingadmissionpolicybinding::RULES),
    kind("admissionregistration.k8s.io", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", V1).category(REGISTRATION).rules(admissionregistration::mutatingwebhookconfiguration::RULES),
    kind("admissionregistration.k8s.io", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", V1).category(REGISTRATION).parts(STATUS).rules(admissionregistration::validatingadmissionpolicy::RULES),
    kind("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings", V1).category(REGISTRATION).rules(admissionregistration::validatingadmissionpolicybinding::RULES),
    kind("admissionregistration.k8s.io", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", V1).category(REGISTRATION).rules(admissionregistration::validatingwebhookconfiguration::RULES),

    kind("apiextensions.k8s.io", "CustomResourceDefinition", "customresourcedefinitions", V1).short(&["crd", "crds"]).category(REGISTRATION).under("apiextensions.k8s.io/customresourcedefinitions").parts(STATUS).rules(apiextensions::customresourcedefinition::RULES),

    kind("scheduling.k8s.io", "PriorityClass", "priorityclasses", V1).short(&["pc"]).rules(scheduling::priorityclass::RULES),
    namespaced("scheduling.k8s.io", "PodGroup", "podgroups", ALPHA2).parts(STATUS).gated(Gate::GenericWorkload).rules(scheduling::podgroup::RULES),
    namespaced("scheduling.k8s.io", "Workload", "workloads", ALPHA2).gated(Gate::GenericWorkload).rules(scheduling::workload::RULES),

    namespaced("coordination.k8s.io", "Lease", "leases", V1).rules(coordination::lease::RULES),
    namespaced("coordination.k8s.io", "LeaseCandidate", "leasecandidates", BETA_ALPHA2).rules(coordination::leasecandidate::RULES),

    kind("node.k8s.io", "RuntimeClass", "runtimeclasses", V1).rules(node::runtimeclass::RULES),

    namespaced("discovery.k8s.io", "EndpointSlice", "endpointslices", V1).rules(discovery::endpointslice::RULES),

    kind("resource.k8s.io", "DeviceClass", "deviceclasses", DEVICES).rules(resource::deviceclass::RULES),
    kind("resource.k8s.io", "DeviceTaintRule", "devicetaintrules", TAINTS).stored_as("resource.k8s.io", "v1alpha3").parts(STATUS).rules(resource::devicetaintrule::RULES),
    namespaced("resource.k8s.io", "ResourceClaim", "resourceclaims", DEVICES).parts(STATUS).rules(resource::resourceclaim::RULES),
    namespaced("resource.k8s.io", "ResourceClaimTemplate", "resourceclaimtemplates", DEVICES).rules(resource::resourceclaimtemplate::RULES),
    kind("resource.k8s.io", "ResourcePoolStatusRequest", "resourcepoolstatusrequests", ALPHA3).parts(STATUS).rules(resource::resourcepoolstatusrequest::RULES),
    kind("resource.k8s.io", "ResourceSlice", "resourceslices", DEVICES).rules(resource::resourceslice::RULES),

    kind("flowcontrol.apiserver.k8s.io", "FlowSchema", "flowschemas", V1).parts(STATUS).rules(flowcontrol::flowschema::RULES),
    kind("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration", "prioritylevelconfigurations", V1).parts(STATUS).rules(flowcontrol::prioritylevelconfiguration::RULES),

    kind("internal.apiserver.k8s.io", "StorageVersion", "storageversions", ALPHA).parts(STATUS).rules(internal::storageversion::RULES),

    kind("storagemigration.k8s.io", "StorageVersionMigration", "storageversionmigrations", BETA).parts(STATUS).rules(storagemigration::storageversionmigration::RULES),

    kind("metrics.k8s.io", "NodeMetrics", "nodes", BETA_ON).not_kept(READ).rules(metrics::nodemetrics::RULES),
    namespaced("metrics.k8s.io", "PodMetrics", "pods", BETA_ON).not_kept(READ).rules(metrics::podmetrics::RULES),
];

/// Every kind, in the order of discovery.
pub fn table() -> &'static [Kind] {
    KINDS
}

/// The kind of a resource.
pub fn find(resource: &Resource) -> Option<&'static Kind> {
    find_named(&resource.group, &resource.plural)
}

/// The same, by group and plural.
pub fn find_named(group: &str, plural: &str) -> Option<&'static Kind> {
    static BY_RESOURCE: OnceLock<HashMap<(&str, &str), &Kind>> = OnceLock::new();
    let index = BY_RESOURCE.get_or_init(|| KINDS.iter().map(|kind| ((kind.group, kind.plural), kind)).collect());
    index.get(&(group, plural)).copied()
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

    use coracle_meta::{ErrorList, Value};

    use super::*;

    /// Of a version: the resources that discovery of a real server lists, generated from its discovery documents.
    const SERVED: &str = include_str!("served.txt");
    /// Served elsewhere by a server of its own behind the first.
    const ADDED: &str = "metrics.k8s.io";

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
        let ours: BTreeSet<String> = KINDS.iter().filter(|kind| kind.group != ADDED).flat_map(lines).collect();
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

    /// A module's folder and file for a kind.
    fn file(kind: &Kind) -> String {
        let folder = match kind.group {
            "" => "core",
            group => group.split('.').next().unwrap(),
        };
        format!("{folder}/{}", kind.singular())
    }

    #[test]
    fn every_file_of_a_kind_has_its_line_in_the_table() {
        let source = include_str!("table.rs");
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for kind in KINDS {
            let file = file(kind);
            let line = format!(".rules({}::RULES)", file.replace('/', "::"));
            let exists = root.join(&file).with_extension("rs").exists();
            assert_eq!(exists, source.contains(&line), "{file}");
        }
    }

    fn specimen(kind: &Kind) -> Value {
        let container =
            r#"{"name":"c","image":"i","ports":[{"containerPort":1}],"livenessProbe":{"httpGet":{"port":1}}}"#;
        let template = format!(r#"{{"metadata":{{"labels":{{"a":"b"}}}},"spec":{{"containers":[{container}]}}}}"#);
        let spec = match kind.kind {
            "Pod" => format!(r#"{{"containers":[{container}],"volumes":[{{"name":"v"}}],"hostNetwork":true}}"#),
            "CronJob" => format!(r#"{{"jobTemplate":{{"spec":{{"template":{template}}}}}}}"#),
            _ => {
                format!(r#"{{"template":{template},"limited":{{"limitResponse":{{"queuing":{{}}}}}},"behavior":{{}}}}"#)
            }
        };
        let rest = r#""stringData":{"a":"b"},"webhooks":[{"rules":[{}]}],"ports":[{"port":1}],"roleRef":{},"subjects":[{"kind":"User"}]"#;
        Value::from_json(format!(r#"{{"metadata":{{"name":"n"}},"spec":{spec},{rest}}}"#).as_bytes()).unwrap()
    }

    #[test]
    fn defaults_applied_twice_change_nothing() {
        for kind in KINDS {
            for version in kind.versions {
                let mut once = specimen(kind);
                kind.default(&mut once, version.name);
                let mut twice = once.clone();
                kind.default(&mut twice, version.name);
                assert_eq!(once, twice, "{} {}", kind.kind, version.name);
            }
        }
    }

    #[test]
    fn every_kind_makes_a_row_of_an_empty_object() {
        for kind in KINDS {
            let cells = kind.cells(&Value::map(), jiff::Timestamp::UNIX_EPOCH);
            assert_eq!(cells.len(), kind.columns().len(), "{}", kind.kind);
            kind.validate(&Value::map(), &mut ErrorList::default());
            kind.selectable_fields(&Value::map());
        }
    }

    #[test]
    fn a_changed_spec_counts_as_a_generation_and_a_changed_status_does_not() {
        let kind = find(&Resource::new("apps", "deployments")).unwrap();
        let tree = |json: &str| Value::from_json(json.as_bytes()).unwrap();
        let old = tree(r#"{"metadata":{"generation":3},"spec":{"replicas":1},"status":{"replicas":1}}"#);
        let mut new = tree(r#"{"metadata":{},"spec":{"replicas":2},"status":{"replicas":9}}"#);
        kind.prepare_update(&mut new, &old);
        assert_eq!(new, tree(r#"{"metadata":{"generation":4},"spec":{"replicas":2},"status":{"replicas":1}}"#));
        let mut new = tree(r#"{"metadata":{},"spec":{"replicas":2},"status":{"replicas":9}}"#);
        kind.prepare_status_update(&mut new, &old);
        assert_eq!(new, tree(r#"{"metadata":{"generation":3},"spec":{"replicas":1},"status":{"replicas":9}}"#));
    }
}
