//! What a pod asks of nodes and of other pods, compiled when the pod arrives: tolerations, node selectors, affinity
//! terms and spread constraints. Comparable and hashable, so that pods which ask the same share one shape.

use coracle_meta::selector::LabelSelector;
use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde::Deserialize;

/// Labels in the order of their keys.
pub type Labels = Vec<(String, String)>;

/// The value of a label.
pub fn label<'l>(labels: &'l [(String, String)], key: &str) -> Option<&'l str> {
    labels.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

impl Taint {
    /// Whether it keeps pods off the node by rule, not only by preference.
    pub fn forbids(&self) -> bool {
        self.effect == "NoSchedule" || self.effect == "NoExecute"
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct Toleration {
    pub key: String,
    pub operator: String,
    pub value: String,
    pub effect: String,
}

impl Toleration {
    fn tolerates(&self, taint: &Taint) -> bool {
        let same_value = match self.operator.as_str() {
            "Exists" => true,
            "Equal" | "" => self.value == taint.value,
            _ => false,
        };
        (self.effect.is_empty() || self.effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && same_value
    }
}

/// Whether any of the tolerations covers the taint. Kubernetes API, `v1.Toleration`.
pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| toleration.tolerates(taint))
}

/// Whether a taint of the node keeps the pod away by rule.
pub fn repelled(tolerations: &[Toleration], taints: &[Taint]) -> bool {
    taints.iter().any(|taint| taint.forbids() && !tolerates(tolerations, taint))
}

/// Alternatives; an empty one matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeSelector(pub Vec<NodeTerm>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeTerm {
    pub labels: Vec<NodeRequirement>,
    pub fields: Vec<NodeRequirement>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeRequirement {
    pub key: String,
    pub operator: String,
    pub values: Vec<String>,
}

impl NodeSelector {
    pub fn new(text: &api::NodeSelector) -> NodeSelector {
        NodeSelector(text.node_selector_terms.iter().map(NodeTerm::new).collect())
    }

    pub fn matches(&self, name: &str, labels: &[(String, String)]) -> bool {
        self.0.iter().any(|term| term.matches(name, labels))
    }
}

impl NodeTerm {
    pub fn new(text: &api::NodeSelectorTerm) -> NodeTerm {
        let compile = |requirements: &Option<Vec<api::NodeSelectorRequirement>>| {
            requirements.iter().flatten().map(NodeRequirement::new).collect()
        };
        NodeTerm { labels: compile(&text.match_expressions), fields: compile(&text.match_fields) }
    }

    pub fn matches(&self, name: &str, labels: &[(String, String)]) -> bool {
        let field = |key: &str| (key == "metadata.name").then_some(name);
        (!self.labels.is_empty() || !self.fields.is_empty())
            && self.labels.iter().all(|requirement| requirement.matches(label(labels, &requirement.key)))
            && self.fields.iter().all(|requirement| requirement.matches(field(&requirement.key)))
    }
}

impl NodeRequirement {
    fn new(text: &api::NodeSelectorRequirement) -> NodeRequirement {
        let values = text.values.clone().unwrap_or_default();
        NodeRequirement { key: text.key.clone(), operator: text.operator.clone(), values }
    }

    fn matches(&self, found: Option<&str>) -> bool {
        let listed = || found.is_some_and(|found| self.values.iter().any(|value| value == found));
        let compared = || Some((found?.parse::<i64>().ok()?, self.values.first()?.parse::<i64>().ok()?));
        match self.operator.as_str() {
            "In" => listed(),
            "NotIn" => !listed(),
            "Exists" => found.is_some(),
            "DoesNotExist" => found.is_none(),
            "Gt" => compared().is_some_and(|(found, bound)| found > bound),
            "Lt" => compared().is_some_and(|(found, bound)| found < bound),
            _ => false,
        }
    }
}

/// A term of pod affinity or anti-affinity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodTerm {
    pub selector: LabelSelector,
    pub namespaces: Vec<String>,
    /// Namespaces by label.
    pub namespace_selector: LabelSelector,
    pub topology_key: String,
}

impl PodTerm {
    /// Whether the term is about a pod with these labels, in a namespace of that name and those labels.
    pub fn matches(&self, labels: &[(String, String)], namespace: &str, namespace_labels: &[(String, String)]) -> bool {
        (self.namespaces.iter().any(|listed| listed == namespace) || self.namespace_selector.matches(namespace_labels))
            && self.selector.matches(labels)
    }
}

/// A topology spread constraint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spread {
    pub max_skew: i64,
    pub topology_key: String,
    pub required: bool,
    pub selector: LabelSelector,
    pub min_domains: i64,
    pub honor_affinity: bool,
    pub honor_taints: bool,
}

impl Spread {
    pub fn new(text: &api::TopologySpreadConstraint, own_labels: &[(String, String)]) -> Spread {
        let mut selector = text.label_selector.clone();
        add_own(&mut selector, own_labels, text.match_label_keys.iter().flatten(), "In");
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
}

/// The four lists of terms of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PodTerms {
    pub affinity: Vec<PodTerm>,
    pub anti_affinity: Vec<PodTerm>,
    pub preferred_affinity: Vec<(i64, PodTerm)>,
    pub preferred_anti_affinity: Vec<(i64, PodTerm)>,
}

impl PodTerms {
    pub fn new(affinity: &api::Affinity, namespace: &str, labels: &[(String, String)]) -> PodTerms {
        let term = |term: &api::PodAffinityTerm| compile_term(term, namespace, labels);
        let weighted = |text: &api::WeightedPodAffinityTerm| (i64::from(text.weight), term(&text.pod_affinity_term));
        let with = affinity.pod_affinity.clone().unwrap_or_default();
        let apart = affinity.pod_anti_affinity.clone().unwrap_or_default();
        PodTerms {
            affinity: with.required_during_scheduling_ignored_during_execution.iter().flatten().map(term).collect(),
            anti_affinity: apart
                .required_during_scheduling_ignored_during_execution
                .iter()
                .flatten()
                .map(term)
                .collect(),
            preferred_affinity: with
                .preferred_during_scheduling_ignored_during_execution
                .iter()
                .flatten()
                .map(weighted)
                .collect(),
            preferred_anti_affinity: apart
                .preferred_during_scheduling_ignored_during_execution
                .iter()
                .flatten()
                .map(weighted)
                .collect(),
        }
    }

    pub fn all(&self) -> impl Iterator<Item = &PodTerm> {
        let preferred = self.preferred_affinity.iter().chain(&self.preferred_anti_affinity).map(|(_, term)| term);
        self.affinity.iter().chain(&self.anti_affinity).chain(preferred)
    }

    pub fn is_empty(&self) -> bool {
        self.affinity.is_empty()
            && self.anti_affinity.is_empty()
            && self.preferred_affinity.is_empty()
            && self.preferred_anti_affinity.is_empty()
    }
}

fn compile_term(term: &api::PodAffinityTerm, namespace: &str, labels: &[(String, String)]) -> PodTerm {
    let mut namespaces = term.namespaces.clone().unwrap_or_default();
    if namespaces.is_empty() && term.namespace_selector.is_none() {
        namespaces.push(namespace.to_owned());
    }
    let mut selector = term.label_selector.clone();
    add_own(&mut selector, labels, term.match_label_keys.iter().flatten(), "In");
    add_own(&mut selector, labels, term.mismatch_label_keys.iter().flatten(), "NotIn");
    PodTerm {
        selector: compile(selector.as_ref()),
        namespaces,
        namespace_selector: compile(term.namespace_selector.as_ref()),
        topology_key: term.topology_key.clone(),
    }
}

/// Extends a selector by the pod's own values of the named labels.
fn add_own<'k>(
    selector: &mut Option<meta::LabelSelector>,
    labels: &[(String, String)],
    keys: impl Iterator<Item = &'k String>,
    operator: &str,
) {
    for key in keys {
        let (Some(selector), Some(value)) = (selector.as_mut(), label(labels, key)) else { continue };
        selector.match_expressions.get_or_insert_default().push(meta::LabelSelectorRequirement {
            key: key.clone(),
            operator: operator.into(),
            values: Some(vec![value.to_owned()]),
        });
    }
}

/// A nil selector matches nothing, an empty one everything.
pub fn compile(text: Option<&meta::LabelSelector>) -> LabelSelector {
    let Some(text) = text else { return LabelSelector::nothing() };
    let labels = text.match_labels.iter().flatten().map(|(key, value)| (key.clone(), value.clone()));
    let expressions = text.match_expressions.iter().flatten().map(|expression| {
        (expression.key.clone(), expression.operator.clone(), expression.values.clone().unwrap_or_default())
    });
    LabelSelector::from_parts(labels, expressions).unwrap_or_else(|_| LabelSelector::nothing())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
        Toleration { key: key.into(), operator: operator.into(), value: value.into(), effect: effect.into() }
    }

    #[test]
    fn a_toleration_covers_what_it_names() {
        let taint = Taint { key: "k".into(), value: "v".into(), effect: "NoSchedule".into() };
        let table = [
            (toleration("", "Exists", "", ""), true),
            (toleration("k", "Exists", "", "NoSchedule"), true),
            (toleration("k", "Exists", "", "NoExecute"), false),
            (toleration("k", "", "v", ""), true),
            (toleration("k", "Equal", "w", ""), false),
            (toleration("other", "Exists", "", ""), false),
        ];
        for (toleration, covers) in table {
            assert_eq!(toleration.tolerates(&taint), covers, "{toleration:?}");
        }
    }

    #[test]
    fn requirements_compare_as_upstream_does() {
        let requirement = |operator: &str, values: &[&str]| NodeRequirement {
            key: "k".into(),
            operator: operator.into(),
            values: values.iter().map(ToString::to_string).collect(),
        };
        let table = [
            ("In", vec!["a"], Some("a"), true),
            ("In", vec!["a"], None, false),
            ("NotIn", vec!["a"], None, true),
            ("Exists", vec![], Some(""), true),
            ("DoesNotExist", vec![], Some("a"), false),
            ("Gt", vec!["3"], Some("4"), true),
            ("Gt", vec!["3"], Some("x"), false),
            ("Lt", vec!["3"], Some("2"), true),
        ];
        for (operator, values, found, matches) in table {
            assert_eq!(requirement(operator, &values).matches(found), matches, "{operator} {values:?} {found:?}");
        }
    }
}
