//! What is read of a pod: the few fields that its life on a hollow node depends on, straight from the JSON.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Longer is as good as for ever.
const DURATION_MAX: SignedDuration = SignedDuration::from_hours(100 * 365 * 24);

/// A pod as the API shows it. Also read from a bookmark's object, which has nothing but a version.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodFacts {
    pub metadata: Metadata,
    pub spec: Spec,
    pub status: Status,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub resource_version: String,
    pub generation: i64,
    pub deletion_timestamp: Option<Timestamp>,
    pub deletion_grace_period_seconds: i64,
    pub finalizers: Vec<IgnoredAny>,
    #[serde(rename = "annotations", deserialize_with = "orders")]
    pub orders: Orders,
}

/// What annotations tell a pod to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// How long its containers run before they end by themselves.
    pub run_for: Option<SignedDuration>,
    /// With what they end.
    pub exit_code: i32,
    /// How long they take to end once they are asked to.
    pub stop_after: SignedDuration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    pub node_name: String,
    pub host_network: bool,
    pub restart_policy: RestartPolicy,
    pub active_deadline_seconds: Option<i64>,
    pub init_containers: Vec<Container>,
    pub containers: Vec<Container>,
    pub ephemeral_containers: Vec<Container>,
    pub readiness_gates: Vec<Gate>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum RestartPolicy {
    #[default]
    Always,
    OnFailure,
    Never,
}

/// What a container's status repeats of its definition.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    pub name: String,
    pub image: String,
    /// `Always` makes a sidecar of an init container.
    pub restart_policy: Option<RestartPolicy>,
    pub resources: Option<Box<RawValue>>,
    pub volume_mounts: Vec<Mount>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Mount {
    pub name: String,
    pub mount_path: String,
    pub read_only: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Gate {
    pub condition_type: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    pub phase: Phase,
    pub observed_generation: i64,
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    pub start_time: Option<Timestamp>,
    pub conditions: Vec<Condition>,
    pub container_statuses: Vec<ContainerStatus>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Phase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
    #[serde(other)]
    Unknown,
}

impl Phase {
    pub fn is_over(self) -> bool {
        matches!(self, Phase::Succeeded | Phase::Failed)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Condition {
    #[serde(rename = "type")]
    pub name: String,
    pub status: String,
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ContainerStatus {
    pub restart_count: u32,
    pub state: State,
    pub last_state: State,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct State {
    pub running: Option<Span>,
    pub waiting: Option<IgnoredAny>,
    pub terminated: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Span {
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
}

/// Reads of all annotations only those that are meant for hollow nodes.
fn orders<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Orders, D::Error> {
    struct Annotations;

    impl<'de> Visitor<'de> for Annotations {
        type Value = Orders;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("annotations")
        }

        fn visit_unit<E>(self) -> Result<Orders, E> {
            Ok(Orders::default())
        }

        fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Orders, M::Error> {
            let mut orders = Orders::default();
            while let Some(key) = map.next_key::<String>()? {
                match key.strip_prefix("coracle.dev/") {
                    Some(order) => orders.take(order, &map.next_value::<String>()?),
                    None => drop(map.next_value::<IgnoredAny>()?),
                }
            }
            Ok(orders)
        }
    }

    deserializer.deserialize_any(Annotations)
}

impl Orders {
    /// What cannot be read is as if it were not there.
    fn take(&mut self, order: &str, value: &str) {
        match order {
            "run-for" => self.run_for = duration(value),
            "exit-code" => self.exit_code = value.parse().unwrap_or_default(),
            "stop-after" => self.stop_after = duration(value).unwrap_or_default(),
            _ => {}
        }
    }
}

/// `3s`, `1m30s`, `250ms`; a bare number counts seconds.
fn duration(text: &str) -> Option<SignedDuration> {
    let plain = text.parse::<u32>().ok().map(|seconds| SignedDuration::from_secs(seconds.into()));
    let duration: SignedDuration = plain.or_else(|| text.parse().ok())?;
    (!duration.is_negative()).then_some(duration.min(DURATION_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_from_among_all_annotations() {
        let json = r#"{"metadata": {"name": "p", "annotations": {"a": "{\"x\": 1}", "coracle.dev/run-for": "1m30s",
            "coracle.dev/exit-code": "3", "coracle.dev/stop-after": "250ms", "z": ""}}}"#;
        let facts: PodFacts = serde_json::from_str(json).unwrap();
        let expected = Orders {
            run_for: Some(SignedDuration::from_secs(90)),
            exit_code: 3,
            stop_after: SignedDuration::from_millis(250),
        };
        assert_eq!(facts.metadata.orders, expected);
    }

    #[test]
    fn durations_may_be_bare_seconds_and_never_negative() {
        let millis = |text| duration(text).map(|duration| duration.as_millis());
        assert_eq!(duration("999999999999999s"), Some(DURATION_MAX), "a moment that far away still has a date");
        let read = ["5", "3s", "0", "-1s", "soon", ""].map(millis);
        assert_eq!(read, [Some(5000), Some(3000), Some(0), None, None, None]);
    }
}
