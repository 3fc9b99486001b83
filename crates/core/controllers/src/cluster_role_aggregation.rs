//! ClusterRoles that are made of others: their rules are those of every role that the aggregation rule selects.

use coracle_meta::Resource;
use coracle_reconcile::{Controller, Key, Outcome, Plan, View, Watch};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::selector::Selector;
use crate::shape::Item;

const CLUSTER_ROLES: Resource = Resource::new("rbac.authorization.k8s.io", "clusterroles");

pub struct ClusterRoleAggregation;

impl Controller for ClusterRoleAggregation {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation-controller"
    }

    /// Any role may be part of any that aggregates.
    fn watches(&self) -> Vec<Watch> {
        vec![Watch {
            resource: CLUSTER_ROLES,
            keys: |view, _| {
                let roles = Item::all(view.list(&CLUSTER_ROLES, None)).into_iter();
                roles.filter(|role| !role.at("/aggregationRule").is_null()).map(|role| Key::of(&role.object)).collect()
            },
        }]
    }

    fn reconcile(&self, view: &dyn View, key: &Key, _last: &Outcome, _now: Timestamp) -> Plan {
        let role = Item::get(view, &CLUSTER_ROLES, key).filter(|role| !role.at("/aggregationRule").is_null());
        let Some(role) = role else { return Plan::default() };
        let all = view.list(&CLUSTER_ROLES, None);
        let mut rules: Vec<Value> = Vec::new();
        for selector in role.list("/aggregationRule/clusterRoleSelectors") {
            let selector = Selector::parse(selector);
            let parts = all.iter().filter(|part| part.meta.name != role.name() && selector.matches(&part.meta));
            for part in Item::all(parts.cloned().collect()) {
                for rule in part.list("/rules") {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
            }
        }
        let mut plan = Plan::default();
        if rules != role.list("/rules") {
            plan.writes.push(role.patch(&CLUSTER_ROLES, None, json!({"rules": rules})));
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_testkit::FakeView;

    #[test]
    fn rules_of_selected_roles_are_put_together_once() {
        let rule = |verb: &str| json!({"apiGroups": [""], "resources": ["pods"], "verbs": [verb]});
        let part =
            |name: &str, rules: Value| json!({"metadata": {"name": name, "labels": {"to": "all"}}, "rules": rules});
        let whole = json!({"metadata": {"name": "all"}, "rules": [rule("delete")],
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "all"}}]}});
        let view = FakeView::new()
            .with(CLUSTER_ROLES, whole)
            .with(CLUSTER_ROLES, part("b", json!([rule("get"), rule("list")])))
            .with(CLUSTER_ROLES, part("a", json!([rule("get")])));
        view.settle(&ClusterRoleAggregation, &Key::new("", "all"), Timestamp::UNIX_EPOCH);
        assert_eq!(view.json(&CLUSTER_ROLES, "", "all")["rules"], json!([rule("get"), rule("list")]));
    }
}
