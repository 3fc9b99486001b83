//! Pod failure policies and success policies: which rule a failed pod meets, and when enough indexes succeeded.

use serde_json::Value;

use super::indexes::Indexes;
use crate::shape::Item;

/// What a failure means by the policy.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// No rule, or a rule that says so: the failure counts towards the limits.
    Count,
    Ignore,
    FailIndex,
    /// The whole job fails, with this message.
    FailJob(String),
}

/// The verdict of the first rule that the failed pod meets.
pub fn judge(policy: &Value, pod: &Item) -> Verdict {
    for (at, rule) in policy["rules"].as_array().into_iter().flatten().enumerate() {
        let action = rule["action"].as_str().unwrap_or_default();
        let Some(met) = meets(rule, pod) else { continue };
        return match action {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "Count" => Verdict::Count,
            "FailJob" => Verdict::FailJob(format!("{met} matching FailJob rule at index {at}")),
            _ => continue,
        };
    }
    Verdict::Count
}

/// How a pod meets a rule, in words.
fn meets(rule: &Value, pod: &Item) -> Option<String> {
    let name = format!("{}/{}", pod.namespace(), pod.name());
    if !rule["onExitCodes"].is_null() {
        let lists = [pod.list("/status/containerStatuses"), pod.list("/status/initContainerStatuses")];
        let (container, code) =
            lists.into_iter().flatten().find_map(|status| exit_met(&rule["onExitCodes"], status))?;
        return Some(format!("Container {container} for pod {name} failed with exit code {code}"));
    }
    let patterns = rule["onPodConditions"].as_array()?;
    let met = pod.list("/status/conditions").iter().find(|condition| {
        let same = |pattern: &Value| pattern["type"] == condition["type"] && pattern["status"] == condition["status"];
        patterns.iter().any(same)
    })?;
    Some(format!("Pod {name} has condition {}", met["type"].as_str().unwrap_or_default()))
}

fn exit_met<'a>(requirement: &Value, status: &'a Value) -> Option<(&'a str, i64)> {
    let code = status["state"]["terminated"].get("exitCode")?.as_i64()?;
    let named = &requirement["containerName"];
    if code == 0 || (!named.is_null() && *named != status["name"]) {
        return None;
    }
    let listed = requirement["values"].as_array().is_some_and(|values| values.iter().any(|value| *value == code));
    let met = match requirement["operator"].as_str() {
        Some("In") => listed,
        Some("NotIn") => !listed,
        _ => false,
    };
    met.then(|| (status["name"].as_str().unwrap_or_default(), code))
}

/// The message of the first success rule that is met.
pub fn success(policy: &Value, completions: i64, succeeded: &Indexes) -> Option<String> {
    if succeeded.is_empty() {
        return None;
    }
    let met = |rule: &Value| {
        let count = rule["succeededCount"].as_i64();
        let Some(indexes) = rule["succeededIndexes"].as_str() else {
            return count.is_some_and(|count| succeeded.total() >= count);
        };
        let wanted = Indexes::parse(indexes, completions);
        let common = wanted.overlap(succeeded);
        !wanted.is_empty() && (common == wanted.total() || count.is_some_and(|count| common >= count))
    };
    let at = policy["rules"].as_array()?.iter().position(met)?;
    Some(format!("Matched rules at index {at}"))
}
