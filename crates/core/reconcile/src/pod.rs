//! What nearly everybody asks of a pod, read once per version of it: indexes, and the decisions that look at every pod
//! of an owner or a node. Decoding all of a pod for each of them costs more than the decisions.

use std::borrow::Cow;
use std::sync::Arc;

use coracle_meta::Object;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// A pod as far as most readers care.
#[derive(Debug, Default, PartialEq)]
pub struct PodFacts {
    /// `spec.nodeName`, empty while it waits for one.
    pub node: Box<str>,
    /// `status.phase`, empty where there is none.
    pub phase: &'static str,
    /// When the condition `Ready` came to be `True`; `None` where it is not.
    pub ready: Option<Since>,
    /// Whether a volume stands for a claim, by name or of its own.
    pub has_claims: bool,
    /// Whether a volume brings its claim with it.
    pub has_ephemeral_claims: bool,
    /// Whether it asks for devices by `spec.resourceClaims`.
    pub has_device_claims: bool,
    /// The PodGroup that it belongs to.
    pub group: Option<Box<str>>,
}

/// The time of a transition, where it was told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Since(pub Option<Timestamp>);

const PHASES: [&str; 5] = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];

impl PodFacts {
    /// The pod's facts, made when the first reader asks. An object that is no pod has none of them.
    pub fn of(pod: &Object) -> Arc<PodFacts> {
        pod.kept(|pod| serde_json::from_slice::<Pod<'_>>(&pod.bytes).map(PodFacts::from).unwrap_or_default())
    }

    pub fn is_finished(&self) -> bool {
        matches!(self.phase, "Succeeded" | "Failed")
    }
}

#[derive(Deserialize)]
struct Pod<'a> {
    #[serde(borrow)]
    spec: Option<Spec<'a>>,
    #[serde(borrow)]
    status: Option<Status<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow)]
    node_name: Option<Cow<'a, str>>,
    volumes: Option<Vec<Volume>>,
    resource_claims: Option<Vec<IgnoredAny>>,
    scheduling_group: Option<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    pod_group_name: Option<Box<str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Volume {
    persistent_volume_claim: Option<IgnoredAny>,
    ephemeral: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Status<'a> {
    #[serde(borrow)]
    phase: Option<Cow<'a, str>>,
    #[serde(borrow)]
    conditions: Option<Vec<Condition<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition<'a> {
    #[serde(borrow)]
    r#type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow)]
    last_transition_time: Option<Cow<'a, str>>,
}

impl From<Pod<'_>> for PodFacts {
    fn from(pod: Pod<'_>) -> PodFacts {
        let mut facts = PodFacts::default();
        if let Some(spec) = pod.spec {
            let volumes = spec.volumes.unwrap_or_default();
            facts.node = spec.node_name.unwrap_or_default().into();
            facts.has_ephemeral_claims = volumes.iter().any(|volume| volume.ephemeral.is_some());
            facts.has_claims =
                facts.has_ephemeral_claims || volumes.iter().any(|volume| volume.persistent_volume_claim.is_some());
            facts.has_device_claims = spec.resource_claims.is_some_and(|claims| !claims.is_empty());
            facts.group = spec.scheduling_group.and_then(|group| group.pod_group_name);
        }
        if let Some(status) = pod.status {
            let phase = status.phase.unwrap_or_default();
            facts.phase = PHASES.into_iter().find(|known| **known == *phase).unwrap_or_default();
            facts.ready = status.conditions.iter().flatten().find_map(ready_since);
        }
        facts
    }
}

fn ready_since(condition: &Condition<'_>) -> Option<Since> {
    let says = |field: &Option<Cow<'_, str>>, wanted: &str| field.as_deref() == Some(wanted);
    let is_ready = says(&condition.r#type, "Ready") && says(&condition.status, "True");
    is_ready.then(|| Since(condition.last_transition_time.as_ref().and_then(|time| time.parse().ok())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(json: &str) -> Arc<PodFacts> {
        PodFacts::of(&Object::new(json.to_owned().into(), 1).unwrap())
    }

    #[test]
    fn a_running_pod_tells_its_node_and_since_when_it_is_ready() {
        let facts = facts(
            r#"{"metadata":{"name":"a"},"spec":{"nodeName":"x","volumes":[{"name":"v","ephemeral":{}}],"resourceClaims":[],
            "schedulingGroup":{"podGroupName":"g"}},"status":{"phase":"Running","conditions":[{"type":"Other","status":"True"},
            {"type":"Ready","status":"True","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}"#,
        );
        let since = "2026-01-01T00:00:00Z".parse().unwrap();
        let wanted = PodFacts {
            node: "x".into(),
            phase: "Running",
            ready: Some(Since(Some(since))),
            has_claims: true,
            has_ephemeral_claims: true,
            has_device_claims: false,
            group: Some("g".into()),
        };
        assert_eq!(*facts, wanted);
    }

    #[test]
    fn what_is_missing_or_null_is_nothing() {
        let none = r#"{"metadata":{"name":"a"},"spec":{"nodeName":null,"volumes":null},"status":{"conditions":null}}"#;
        assert_eq!(*facts(none), PodFacts::default());
        assert_eq!(*facts(r#"{"metadata":{"name":"a"},"spec":7}"#), PodFacts::default());
    }
}
