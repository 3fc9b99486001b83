//! Which nodes a daemon pod belongs on: node name, selector and affinity, taints.

use serde_json::{Value, json};

use crate::shape::Item;
use crate::tolerations::tolerates;

/// Whether a node should get a pod, and whether one that is there may stay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    pub should_run: bool,
    pub may_stay: bool,
}

/// `spec` is a pod's, with the tolerations of daemons.
pub fn fit(spec: &Value, node: &Item) -> Fit {
    let wanted = spec["nodeName"].as_str().unwrap_or_default();
    if (!wanted.is_empty() && wanted != node.name()) || !matches(spec, node) {
        return Fit { should_run: false, may_stay: false };
    }
    let tolerations = spec["tolerations"].as_array().map(Vec::as_slice).unwrap_or_default();
    let bears = |effects: &[&str]| {
        let binding = |taint: &&Value| effects.iter().any(|effect| taint["effect"] == *effect);
        let mut taints = node.list("/spec/taints").iter().filter(binding);
        taints.all(|taint| tolerations.iter().any(|toleration| tolerates(toleration, taint)))
    };
    Fit { should_run: bears(&["NoExecute", "NoSchedule"]), may_stay: bears(&["NoExecute"]) }
}

fn matches(spec: &Value, node: &Item) -> bool {
    let mut labels = spec["nodeSelector"].as_object().into_iter().flatten();
    let terms =
        &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    labels.all(|(key, value)| node.meta().label(key) == value.as_str())
        && terms.as_array().is_none_or(|terms| terms.iter().any(|term| term_matches(term, node)))
}

/// An empty term matches nothing.
fn term_matches(term: &Value, node: &Item) -> bool {
    let list = |key: &str| term[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let (labels, fields) = (list("matchExpressions"), list("matchFields"));
    let key = |rule: &Value| rule["key"].as_str().unwrap_or_default().to_owned();
    (!labels.is_empty() || !fields.is_empty())
        && labels.iter().all(|rule| rule_matches(rule, node.meta().label(&key(rule))))
        && fields.iter().all(|rule| rule_matches(rule, (key(rule) == "metadata.name").then(|| node.name())))
}

fn rule_matches(rule: &Value, found: Option<&str>) -> bool {
    let values: Vec<&str> = rule["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let listed = found.is_some_and(|found| values.contains(&found));
    let compared = || Some((found?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match rule["operator"].as_str().unwrap_or_default() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => compared().is_some_and(|(found, bound)| found > bound),
        "Lt" => compared().is_some_and(|(found, bound)| found < bound),
        _ => false,
    }
}

/// The node a pod is on or made for; `None` where nothing tells.
pub fn target(pod: &Item) -> Option<&str> {
    let node = pod.text("/spec/nodeName");
    if !node.is_empty() {
        return Some(node);
    }
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let fields = pod.list(terms).iter().flat_map(|term| term["matchFields"].as_array().into_iter().flatten());
    let mut named = fields.filter(|rule| rule["key"] == "metadata.name" && rule["operator"] == "In");
    named.find_map(|rule| rule["values"].as_array().filter(|values| values.len() == 1)?[0].as_str())
}

/// Makes a pod for one node: every term of its required affinity is replaced by the node's name.
pub fn pin(spec: &mut Value, node: &str) {
    let rule = json!({"key": "metadata.name", "operator": "In", "values": [node]});
    spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
        json!({"nodeSelectorTerms": [{"matchFields": [rule]}]});
}

/// Daemons stay on nodes in trouble. A toleration of the same key, effect, operator and value is not added twice.
pub fn add_tolerations(spec: &mut Value) {
    const TAINTS: [(&str, &str); 7] = [
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
        ("node.kubernetes.io/network-unavailable", "NoSchedule"),
    ];
    let count = if spec["hostNetwork"] == true { TAINTS.len() } else { TAINTS.len() - 1 };
    if !spec["tolerations"].is_array() {
        spec["tolerations"] = json!([]);
    }
    let Some(list) = spec["tolerations"].as_array_mut() else { return };
    for (key, effect) in &TAINTS[..count] {
        let new = json!({"key": key, "operator": "Exists", "effect": effect});
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let same = |old: &&mut Value| {
            ["key", "operator", "effect", "value"].iter().all(|part| text(&old[*part]) == text(&new[*part]))
        };
        match list.iter_mut().find(same) {
            Some(old) => *old = new,
            None => list.push(new),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_meta::Object;

    #[test]
    fn taints_keep_new_pods_off_and_drive_old_ones_out_by_their_effect() {
        let node = |taints: Value| {
            let tree = json!({"metadata": {"name": "a", "labels": {"disk": "ssd"}}, "spec": {"taints": taints}});
            Item::of(Object::new(tree.to_string().into(), 1).unwrap().into())
        };
        let taint = |key: &str, effect: &str| node(json!([{"key": key, "effect": effect}]));
        let mut plain = json!({});
        add_tolerations(&mut plain);
        let cases = [
            (plain.clone(), node(json!([])), (true, true)),
            (plain.clone(), taint("own", "NoSchedule"), (false, true)),
            (plain.clone(), taint("own", "NoExecute"), (false, false)),
            (plain.clone(), taint("node.kubernetes.io/not-ready", "NoExecute"), (true, true)),
            (plain, taint("node.kubernetes.io/network-unavailable", "NoSchedule"), (false, true)),
            (json!({"nodeSelector": {"disk": "hdd"}}), node(json!([])), (false, false)),
            (json!({"nodeName": "b"}), node(json!([])), (false, false)),
        ];
        for (spec, node, (should_run, may_stay)) in cases {
            assert_eq!(fit(&spec, &node), Fit { should_run, may_stay }, "{spec}");
        }
        let mut pinned = json!({});
        pin(&mut pinned, "b");
        assert_eq!(fit(&pinned, &node(json!([]))), Fit { should_run: false, may_stay: false });
    }
}
