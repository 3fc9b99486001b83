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

/// Seconds until NoExecute taints evict: `None` for never, 0 for now. Of the tolerations of one taint the first counts.
pub fn eviction_seconds(tolerations: &[Value], taints: &[&Value]) -> Option<i64> {
    let mut shortest: Option<i64> = None;
    for taint in taints {
        let Some(used) = tolerations.iter().find(|toleration| tolerates(toleration, taint)) else { return Some(0) };
        if let Some(seconds) = used["tolerationSeconds"].as_i64() {
            shortest = Some(shortest.map_or(seconds, |known| known.min(seconds)).max(0));
        }
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
            (json!([{"operator": "Exists"}, {"operator": "Exists", "tolerationSeconds": 9}]), None),
            (json!([{"operator": "Exists", "tolerationSeconds": -9}]), Some(0)),
            (json!([{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}]), Some(300)),
            (json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]), Some(0)),
        ];
        for (tolerations, expected) in cases {
            assert_eq!(eviction_seconds(tolerations.as_array().unwrap(), &[&taint]), expected, "{tolerations}");
        }
    }
}
