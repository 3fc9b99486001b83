//! Extended resources, `example.com/dongle`: what somebody adds to a node's capacity pods may use, and what is taken
//! from it they may not. Source: Kubernetes `pkg/kubelet/nodestatus/setters.go`.

use serde_json::{Map, Value};

/// Names with a domain that is not Kubernetes' own.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// The members of a node's `status.allocatable` that have to change, with what they change to; none where all is right.
pub fn unsettled(status: &Value) -> Map<String, Value> {
    let (has, may_use) = (&status["capacity"], &status["allocatable"]);
    let extended = |part: &Value| {
        let members = part.as_object().into_iter().flatten().filter(|(name, _)| is_extended(name));
        members.map(|(name, amount)| (name.clone(), amount.clone())).collect::<Vec<_>>()
    };
    let added = extended(has).into_iter().filter(|(name, amount)| may_use[name.as_str()] != *amount);
    let gone = extended(may_use).into_iter().filter(|(name, _)| has[name.as_str()].is_null());
    added.chain(gone.map(|(name, _)| (name, Value::Null))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_pods_may_use_follows_what_the_node_has() {
        let status = json!({
            "capacity": {"cpu": "2", "example.com/new": "5", "example.com/more": "3", "example.com/same": "1"},
            "allocatable": {"cpu": "1", "example.com/more": "2", "example.com/same": "1", "example.com/gone": "7",
                "hugepages-2Mi": "0", "kubernetes.io/own": "1"},
        });
        let wanted = json!({"example.com/new": "5", "example.com/more": "3", "example.com/gone": null});
        assert_eq!(Value::Object(unsettled(&status)), wanted);
        assert!(unsettled(&json!({})).is_empty());
    }
}
