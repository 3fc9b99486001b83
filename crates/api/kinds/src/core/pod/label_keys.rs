//! Label keys of affinity terms and spread constraints stand for the pod's own labels: when it is created, they are
//! written into the selectors beside them, which is all that a scheduler reads of those of affinity.

use coracle_meta::Value;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub fn merge(pod: &mut Value) {
    let labels = pod.at(&["metadata", "labels"]).clone();
    for constraint in pod.list_at_mut(&["spec", "topologySpreadConstraints"]) {
        add(constraint, &labels, ("matchLabelKeys", "In"));
    }
    for side in ["podAffinity", "podAntiAffinity"] {
        for term in pod.list_at_mut(&["spec", "affinity", side, REQUIRED]) {
            add_both(term, &labels);
        }
        for weighted in pod.list_at_mut(&["spec", "affinity", side, PREFERRED]) {
            if let Some(term) = weighted.at_mut(&["podAffinityTerm"]) {
                add_both(term, &labels);
            }
        }
    }
}

fn add_both(term: &mut Value, labels: &Value) {
    add(term, labels, ("matchLabelKeys", "In"));
    add(term, labels, ("mismatchLabelKeys", "NotIn"));
}

/// Without a selector nothing is selected, whatever the keys.
fn add(to: &mut Value, labels: &Value, (member, operator): (&str, &str)) {
    if to.get("labelSelector").as_map().is_none() {
        return;
    }
    let keys = to.list_at(&[member]).iter().filter_map(Value::as_str);
    let known = keys.filter_map(|key| Some((key, labels.get(key).as_str()?)));
    let added: Vec<Value> = known.map(|(key, value)| requirement(key, operator, value)).collect();
    if added.is_empty() {
        return;
    }
    let expressions = to.ensure(&["labelSelector", "matchExpressions"]);
    match expressions.as_list_mut() {
        Some(expressions) => expressions.extend(added),
        None => *expressions = added.into(),
    }
}

fn requirement(key: &str, operator: &str, value: &str) -> Value {
    let mut requirement = Value::map();
    requirement.set(&["key"], key);
    requirement.set(&["operator"], operator);
    requirement.set(&["values"], vec![Value::from(value)]);
    requirement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::tree;

    #[test]
    fn keys_become_requirements_where_there_is_a_selector_and_a_label() {
        let mut pod = tree(
            r#"{"metadata":{"labels":{"hash":"1","app":"a"}},"spec":{
                "topologySpreadConstraints":[
                  {"labelSelector":{"matchLabels":{"app":"a"}},"matchLabelKeys":["hash","absent"]},
                  {"matchLabelKeys":["hash"]}],
                "affinity":{
                  "podAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[
                    {"labelSelector":{"matchExpressions":[{"key":"app","operator":"Exists"}]},
                     "matchLabelKeys":["hash"],"mismatchLabelKeys":["app"]}]},
                  "podAntiAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[
                    {"weight":1,"podAffinityTerm":{"labelSelector":{},"mismatchLabelKeys":["hash"]}}]}}}}"#,
        );
        merge(&mut pod);
        let spread = pod.list_at(&["spec", "topologySpreadConstraints"]);
        let hash = tree(r#"{"key":"hash","operator":"In","values":["1"]}"#);
        assert_eq!(spread[0].list_at(&["labelSelector", "matchExpressions"]), std::slice::from_ref(&hash));
        assert!(spread[1].get("labelSelector").is_null());
        let required = &pod.list_at(&["spec", "affinity", "podAffinity", REQUIRED])[0];
        let exists = tree(r#"{"key":"app","operator":"Exists"}"#);
        let app = tree(r#"{"key":"app","operator":"NotIn","values":["a"]}"#);
        assert_eq!(required.list_at(&["labelSelector", "matchExpressions"]), [exists, hash, app]);
        let preferred = &pod.list_at(&["spec", "affinity", "podAntiAffinity", PREFERRED])[0];
        let not = tree(r#"{"key":"hash","operator":"NotIn","values":["1"]}"#);
        assert_eq!(preferred.list_at(&["podAffinityTerm", "labelSelector", "matchExpressions"]), [not]);
    }
}
