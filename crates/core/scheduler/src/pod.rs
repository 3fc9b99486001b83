//! A pod as scheduling sees it: taken out of the object once, when it arrives.

use std::sync::Arc;

use coracle_meta::selector::LabelSelector;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Affinity, NodeSelector, Pod, PodAffinityTerm, PodSpec, PreferredSchedulingTerm, Toleration,
    TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as SelectorText;

use crate::resources::{Resources, assumed_use, requests};

/// Identifies a pod in queues and snapshots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodKey {
    pub namespace: String,
    pub name: String,
}

#[derive(Debug)]
pub struct PodInfo {
    pub key: PodKey,
    pub uid: String,
    pub labels: Vec<(String, String)>,
    pub priority: i32,
    pub created: Option<Timestamp>,
    pub requests: Resources,
    pub assumed: Resources,
    pub host_ports: Vec<HostPort>,
    pub tolerations: Vec<Toleration>,
    pub node_selector: Vec<(String, String)>,
    pub node_affinity: Option<NodeSelector>,
    pub preferred_nodes: Vec<PreferredSchedulingTerm>,
    pub affinity: Vec<PodTerm>,
    pub anti_affinity: Vec<PodTerm>,
    pub preferred_affinity: Vec<(i64, PodTerm)>,
    pub preferred_anti_affinity: Vec<(i64, PodTerm)>,
    pub spread: Vec<Spread>,
    pub images: Vec<String>,
    pub gates: Vec<String>,
    pub scheduler_name: String,
    /// Set when bound.
    pub node_name: String,
    pub deleting: bool,
    /// Succeeded or Failed: uses nothing any more.
    pub finished: bool,
    pub never_preempts: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Empty for every address.
    pub ip: String,
    pub protocol: String,
    pub port: i32,
}

/// A term of pod affinity or anti-affinity, compiled.
#[derive(Clone, Debug)]
pub struct PodTerm {
    pub selector: LabelSelector,
    pub namespaces: Vec<String>,
    /// Namespaces by label; `None` means only those listed.
    pub namespace_selector: Option<LabelSelector>,
    pub topology_key: String,
}

/// A topology spread constraint, compiled.
#[derive(Clone, Debug)]
pub struct Spread {
    pub max_skew: i64,
    pub topology_key: String,
    pub required: bool,
    pub selector: LabelSelector,
    pub min_domains: i64,
    pub honor_affinity: bool,
    pub honor_taints: bool,
}

impl PodInfo {
    pub fn new(pod: &Pod) -> Arc<PodInfo> {
        let meta = &pod.metadata;
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let namespace = meta.namespace.clone().unwrap_or_default();
        let labels: Vec<_> = meta.labels.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        let affinity = spec.affinity.clone().unwrap_or_default();
        let terms = Terms { namespace: &namespace, labels: &labels };
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        Arc::new(PodInfo {
            priority: spec.priority.unwrap_or(0),
            created: meta.creation_timestamp.as_ref().map(|time| time.0),
            requests: requests(spec),
            assumed: assumed_use(spec),
            host_ports: host_ports(spec),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            node_selector: spec.node_selector.clone().unwrap_or_default().into_iter().collect(),
            affinity: terms.required(&affinity, Side::With),
            anti_affinity: terms.required(&affinity, Side::Apart),
            preferred_affinity: terms.preferred(&affinity, Side::With),
            preferred_anti_affinity: terms.preferred(&affinity, Side::Apart),
            node_affinity: affinity
                .node_affinity
                .as_ref()
                .and_then(|nodes| nodes.required_during_scheduling_ignored_during_execution.clone()),
            preferred_nodes: affinity
                .node_affinity
                .and_then(|nodes| nodes.preferred_during_scheduling_ignored_during_execution)
                .unwrap_or_default(),
            spread: spec.topology_spread_constraints.iter().flatten().map(|text| spread(text, &labels)).collect(),
            images: spec.containers.iter().filter_map(|container| container.image.clone()).collect(),
            gates: spec.scheduling_gates.iter().flatten().map(|gate| gate.name.clone()).collect(),
            scheduler_name: spec.scheduler_name.clone().unwrap_or_else(|| "default-scheduler".into()),
            node_name: spec.node_name.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            finished: matches!(phase, Some("Succeeded" | "Failed")),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            key: PodKey { namespace, name: meta.name.clone().unwrap_or_default() },
            uid: meta.uid.clone().unwrap_or_default(),
            labels,
        })
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|init| init.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let ip = port.host_ip.clone().filter(|ip| ip != "0.0.0.0").unwrap_or_default();
            Some(HostPort { ip, protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()), port: number })
        })
        .collect()
}

#[derive(Clone, Copy)]
enum Side {
    With,
    Apart,
}

struct Terms<'a> {
    namespace: &'a str,
    labels: &'a [(String, String)],
}

impl Terms<'_> {
    fn required(&self, affinity: &Affinity, side: Side) -> Vec<PodTerm> {
        let terms = match side {
            Side::With => affinity
                .pod_affinity
                .as_ref()
                .and_then(|with| with.required_during_scheduling_ignored_during_execution.as_ref()),
            Side::Apart => affinity
                .pod_anti_affinity
                .as_ref()
                .and_then(|apart| apart.required_during_scheduling_ignored_during_execution.as_ref()),
        };
        terms.into_iter().flatten().map(|term| self.term(term)).collect()
    }

    fn preferred(&self, affinity: &Affinity, side: Side) -> Vec<(i64, PodTerm)> {
        let terms: Option<&Vec<WeightedPodAffinityTerm>> = match side {
            Side::With => affinity
                .pod_affinity
                .as_ref()
                .and_then(|with| with.preferred_during_scheduling_ignored_during_execution.as_ref()),
            Side::Apart => affinity
                .pod_anti_affinity
                .as_ref()
                .and_then(|apart| apart.preferred_during_scheduling_ignored_during_execution.as_ref()),
        };
        let weighted = |term: &WeightedPodAffinityTerm| (i64::from(term.weight), self.term(&term.pod_affinity_term));
        terms.into_iter().flatten().map(weighted).collect()
    }

    fn term(&self, term: &PodAffinityTerm) -> PodTerm {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(self.namespace.to_owned());
        }
        let mut selector = term.label_selector.clone();
        let keys = term.match_label_keys.iter().flatten();
        add_own(&mut selector, self.labels, keys, "In");
        add_own(&mut selector, self.labels, term.mismatch_label_keys.iter().flatten(), "NotIn");
        PodTerm {
            selector: compile(selector.as_ref()),
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(|selector| compile(Some(selector))),
            topology_key: term.topology_key.clone(),
        }
    }
}

/// Extends a selector by the pod's own values of the named labels.
fn add_own<'k>(
    selector: &mut Option<SelectorText>,
    labels: &[(String, String)],
    keys: impl Iterator<Item = &'k String>,
    operator: &str,
) {
    for key in keys {
        let (Some(selector), Some((_, value))) = (selector.as_mut(), labels.iter().find(|(name, _)| name == key))
        else {
            continue;
        };
        selector.match_expressions.get_or_insert_default().push(
            k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.into(),
                values: Some(vec![value.clone()]),
            },
        );
    }
}

fn spread(text: &TopologySpreadConstraint, labels: &[(String, String)]) -> Spread {
    let mut selector = text.label_selector.clone();
    add_own(&mut selector, labels, text.match_label_keys.iter().flatten(), "In");
    Spread {
        max_skew: text.max_skew.into(),
        topology_key: text.topology_key.clone(),
        required: text.when_unsatisfiable != "ScheduleAnyway",
        selector: compile(selector.as_ref()),
        min_domains: text.min_domains.unwrap_or(1).into(),
        honor_affinity: text.node_affinity_policy.as_deref() != Some("Ignore"),
        honor_taints: text.node_taints_policy.as_deref() == Some("Honor"),
    }
}

/// A nil selector matches nothing, an empty one everything.
fn compile(text: Option<&SelectorText>) -> LabelSelector {
    let Some(text) = text else { return LabelSelector::nothing() };
    let labels = text.match_labels.iter().flatten().map(|(key, value)| (key.clone(), value.clone()));
    let expressions = text.match_expressions.iter().flatten().map(|expression| {
        (expression.key.clone(), expression.operator.clone(), expression.values.clone().unwrap_or_default())
    });
    LabelSelector::from_parts(labels, expressions).unwrap_or_else(|_| LabelSelector::nothing())
}
