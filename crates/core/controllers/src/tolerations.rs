//! Which taints a pod tolerates, and for how long.

use serde_json::Value;

/// Whether one toleration covers a taint.
pub fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let (effect, key) = (text(toleration, "effect"), text(toleration, "key"));
    if !effect.is_empty() && effect != text(taint, "effect") {
        return false;
    }
    if !key.is_empty() && key != text(taint, "key") {
        return false;
    }
    match toleration["operator"].as_str().unwrap_or_default() {
        "" | "Equal" => !key.is_empty() && text(toleration, "value") == text(taint, "value"),
        "Exists" => true,
        _ => false,
    }
}

/// Seconds until NoExecute taints evict: `None` for never, 0 for now.
pub fn eviction_seconds(tolerations: &[Value], taints: &[&Value]) -> Option<i64> {
    let mut shortest = None;
    for taint in taints {
        let used: Vec<&Value> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
        if used.is_empty() {
            return Some(0);
        }
        let bounded = used.iter().filter_map(|toleration| toleration["tolerationSeconds"].as_i64());
        shortest = shortest.into_iter().chain(bounded.map(|seconds| seconds.max(0))).min();
    }
    shortest
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_shortest_toleration_counts() {
        let taint = json!({"key": "a", "effect": "NoExecute"});
        let cases = [
            (json!([]), Some(0)),
            (json!([{"operator": "Exists"}]), None),
            (json!([{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]), Some(300)),
            (json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]), Some(0)),
        ];
        for (tolerations, expected) in cases {
            assert_eq!(eviction_seconds(tolerations.as_array().unwrap(), &[&taint]), expected, "{tolerations}");
        }
    }
}
