//! Extenders: services beside the scheduler that have a say in where pods go. Here stands what a configuration says of
//! them, which pods they care for, what they are asked and what they may answer; `consult` holds the conversation.
//! Fields and rules: kubescheduler.config.k8s.io/v1 `Extender` and k8s.io/kube-scheduler/extender/v1.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use serde::Deserialize;

use crate::pod::PodInfo;
use crate::preemption::Candidate;
use crate::resources::is_extended;

/// By this name, as if it were a plugin, extenders that reject nodes appear among what rejected a pod.
pub const EXTENDER: &str = "Extender";
/// How long an extender may take where the configuration does not say.
const TIMEOUT: SignedDuration = SignedDuration::from_secs(5);

/// One extender, as the configuration has it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Extender {
    pub url_prefix: String,
    /// A verb is the last part of the URL; without one the extender has no say in the matter.
    pub filter_verb: String,
    pub preempt_verb: String,
    pub prioritize_verb: String,
    pub bind_verb: String,
    pub weight: i64,
    #[serde(rename = "enableHTTPS")]
    pub enable_https: bool,
    pub tls_config: Tls,
    #[serde(rename = "httpTimeout", deserialize_with = "duration")]
    pub timeout: SignedDuration,
    /// It knows the nodes: their names are enough.
    pub node_cache_capable: bool,
    pub managed_resources: Vec<Managed>,
    /// Pods are scheduled though it fails.
    pub ignorable: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Tls {
    pub insecure: bool,
    pub server_name: String,
    pub cert_file: String,
    pub key_file: String,
    pub ca_file: String,
    /// PEM in base64; goes before the file.
    pub cert_data: String,
    pub key_data: String,
    pub ca_data: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Managed {
    pub name: String,
    /// The scheduler itself does not look whether a node has it.
    pub ignored_by_scheduler: bool,
}

/// A duration as Go writes it; 0 stands for the default.
fn duration<'de, D: serde::Deserializer<'de>>(source: D) -> Result<SignedDuration, D::Error> {
    let text = String::deserialize(source)?;
    text.parse().map_err(|error| serde::de::Error::custom(format!("{text:?} is no duration: {error}")))
}

impl Extender {
    pub fn timeout(&self) -> SignedDuration {
        if self.timeout.is_zero() { TIMEOUT } else { self.timeout }
    }

    /// The URL at which a verb is called.
    pub fn url(&self, verb: &str) -> String {
        format!("{}/{verb}", self.url_prefix.trim_end_matches('/'))
    }

    /// Whether it has a say about the pod: about every pod, or about those that ask for what it manages.
    pub fn cares_for(&self, pod: &PodInfo) -> bool {
        self.managed_resources.is_empty()
            || self.managed_resources.iter().any(|managed| pod.requests.others.contains_key(&managed.name))
    }

    fn has_questions(&self) -> bool {
        [&self.filter_verb, &self.prioritize_verb, &self.preempt_verb].iter().any(|verb| !verb.is_empty())
    }
}

/// All extenders, in the order in which they are asked: those that may be ignored come last.
#[derive(Clone, Debug, Default)]
pub struct Extenders(Vec<Extender>);

impl Extenders {
    pub fn new(mut all: Vec<Extender>) -> Extenders {
        all.sort_by_key(|extender| extender.ignorable);
        Extenders(all)
    }

    pub fn all(&self) -> &[Extender] {
        &self.0
    }

    /// Whether some extender may have to be asked before the pod is placed.
    pub fn talk_about(&self, pod: &PodInfo) -> bool {
        self.0.iter().any(|extender| extender.has_questions() && extender.cares_for(pod))
    }

    /// The next one from `from` on that has a say about the pod and the verb.
    pub fn next(&self, from: usize, pod: &PodInfo, verb: fn(&Extender) -> &str) -> Option<usize> {
        let mut rest = self.0.iter().enumerate().skip(from);
        rest.find(|(_, extender)| !verb(extender).is_empty() && extender.cares_for(pod)).map(|(at, _)| at)
    }

    /// Resources that plugins leave to extenders.
    pub fn ignored_resources(&self) -> Vec<&str> {
        let managed = self.0.iter().flat_map(|extender| &extender.managed_resources);
        managed.filter(|managed| managed.ignored_by_scheduler).map(|managed| managed.name.as_str()).collect()
    }

    /// What a configuration of them breaks: where, and why.
    pub fn check(all: &[Extender]) -> Result<(), (String, String)> {
        let mut known = BTreeSet::new();
        for (at, extender) in all.iter().enumerate() {
            let wrong = |field: String, why: &str| Err((format!("extenders[{at}].{field}"), why.to_owned()));
            if !extender.prioritize_verb.is_empty() && extender.weight <= 0 {
                return wrong("weight".into(), "must have a positive weight applied to it");
            }
            for (place, managed) in extender.managed_resources.iter().enumerate() {
                let field = format!("managedResources[{place}].name");
                if !is_extended(&managed.name) {
                    return wrong(field, "is an invalid extended resource name");
                }
                if !known.insert(&managed.name) {
                    return wrong(field, "duplicate extender managed resource name");
                }
            }
            let tls = &extender.tls_config;
            if tls.insecure && !(tls.ca_file.is_empty() && tls.ca_data.is_empty()) {
                let why = "specifying a root certificates file with the insecure flag is not allowed";
                return wrong("tlsConfig".into(), why);
            }
        }
        let binders = all.iter().filter(|extender| !extender.bind_verb.is_empty()).count();
        if binders > 1 {
            let why = format!("found {binders} extenders implementing bind: only one extender can implement bind");
            return Err(("extenders".into(), why));
        }
        Ok(())
    }
}

/// What extenders are asked about a pod. An extender is named by its place among `Extenders::all`.
#[derive(Clone, Debug)]
pub enum Question {
    /// Which of the nodes can take the pod?
    Filter { extender: usize, nodes: Vec<String> },
    /// How good is each node? All of these extenders are asked at once.
    Prioritize { extenders: Vec<usize>, nodes: Vec<String> },
    /// From which of the nodes may these pods go?
    Preempt { extender: usize, candidates: Vec<Candidate> },
}

/// What they answered, or why they did not.
#[derive(Clone, Debug)]
pub enum Answer {
    Filter(Result<Filtered, String>),
    /// By host, of each extender that was asked.
    Prioritize(Vec<Result<Vec<(String, i64)>, String>>),
    /// By node.
    Preempt(Result<BTreeMap<String, Victims>, String>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    pub kept: Vec<String>,
    /// Why a node was rejected.
    pub failed: BTreeMap<String, String>,
    /// The same, where preemption would not help.
    pub unresolvable: BTreeMap<String, String>,
}

/// Pods that may go from a node, by their UIDs, the most important first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Victims {
    pub uids: Vec<String>,
    pub broken_budgets: i64,
}
