//! PodGroups: pods that are scheduled together, by a policy that stays as it is.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use super::group;
use crate::column::{AGE, Column, NAME, string_or, text};
use crate::object_meta::IMMUTABLE;
use crate::rules::{Rules, same};
use crate::shapes::conditions;

/// How a group is disrupted unless it says so, which it cannot without a gate that is not built.
const DISRUPTION: &str = "Pod";

const COLUMNS: &[Column] = &[
    NAME,
    text("Policy", |group, _| {
        Value::string(if group.at(&["spec", "schedulingPolicy", "gang"]).is_null() { "Basic" } else { "Gang" })
    }),
    text("Workload", |group, _| {
        string_or(group, &["spec", "podGroupTemplateRef", "workload", "workloadName"], "<none>")
    }),
    text("Status", |group, _| Value::string(status(group))),
    AGE,
];

pub const RULES: Rules = Rules {
    default: |group, _| group.set_default(&["spec", "disruptionMode"], DISRUPTION),
    drop_gated,
    prepare_status_update,
    validate,
    validate_update,
    validate_part_update: |_, new, _, errors| {
        conditions::validate(new.list_at(&["status", "conditions"]), &Path::new("status.conditions"), errors);
    },
    columns: COLUMNS,
    ..Rules::STANDARD
};

fn drop_gated(_: coracle_meta::Gates, podgroup: &mut Value, old: &Value) {
    group::drop_gated(podgroup.ensure(&["spec"]), old.get("spec"));
    podgroup.set_default(&["spec", "disruptionMode"], DISRUPTION);
}

/// The claims of a group belong to a gate that is not built.
fn prepare_status_update(new: &mut Value, old: &Value) {
    if old.list_at(&["spec", "resourceClaims"]).is_empty() {
        new.remove(&["status", "resourceClaimStatuses"]);
    }
}

fn validate(podgroup: &Value, errors: &mut ErrorList) {
    let (spec, path) = (podgroup.get("spec"), Path::new("spec"));
    let (reference, of_reference) = (spec.get("podGroupTemplateRef"), path.child("podGroupTemplateRef"));
    let workload = reference.get("workload");
    if !reference.is_null() && workload.is_null() {
        errors.invalid(&of_reference, "", "must specify one of: `workload`");
    } else if !workload.is_null() {
        let path = of_reference.child("workload");
        group::validate_name(workload, "workloadName", names::dns1123_subdomain, &path, errors);
        group::validate_name(workload, "podGroupTemplateName", names::dns1123_label, &path, errors);
    }
    group::validate_policy(spec.get("schedulingPolicy"), &path.child("schedulingPolicy"), errors);
}

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let (new, old, path) = (new.get("spec"), old.get("spec"), Path::new("spec"));
    for member in ["podGroupTemplateRef", "schedulingPolicy"] {
        if !same(new.get(member), old.get(member)) {
            errors.invalid(&path.child(member), Value::Null, IMMUTABLE);
        }
    }
    group::validate_gated(new, old, &path, errors);
}

fn status(group: &Value) -> &str {
    let conditions = group.list_at(&["status", "conditions"]);
    let find = |kind: &str| conditions.iter().find(|condition| condition.str_at(&["type"]) == kind);
    match (find("DisruptionTarget"), find("PodGroupScheduled")) {
        (Some(condition), _) => condition.str_at(&["reason"]),
        (None, Some(condition)) if condition.str_at(&["status"]) == "True" => "Scheduled",
        (None, Some(_)) => "Unschedulable",
        (None, None) => "Pending",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::tree;

    fn told(errors: &ErrorList) -> Vec<String> {
        errors.errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_bad_group_is_told_as_upstream_does() {
        let one_of = "spec.schedulingPolicy: Invalid value: \"\": must specify one of: `basic`, `gang`";
        let both =
            "spec.schedulingPolicy: Invalid value: \"{basic, gang}\": must specify exactly one of: `basic`, `gang`";
        let cases: [(&str, &[&str]); 7] = [
            (r#"{"schedulingPolicy":{"gang":{"minCount":2}}}"#, &[]),
            (r#"{"schedulingPolicy":{"basic":{}}}"#, &[]),
            ("{}", &[one_of]),
            (r#"{"schedulingPolicy":{"gang":{"minCount":1},"basic":{}}}"#, &[both]),
            (r#"{"schedulingPolicy":{"gang":{}}}"#, &["spec.schedulingPolicy.gang.minCount: Required value"]),
            (
                r#"{"schedulingPolicy":{"gang":{"minCount":-1}}}"#,
                &["spec.schedulingPolicy.gang.minCount: Invalid value: -1: must be greater than or equal to 1"],
            ),
            (
                r#"{"schedulingPolicy":{"basic":{}},"podGroupTemplateRef":{"workload":{"podGroupTemplateName":"a.b"}}}"#,
                &[
                    "spec.podGroupTemplateRef.workload.workloadName: Required value",
                    "spec.podGroupTemplateRef.workload.podGroupTemplateName: Invalid value: \"a.b\": must not contain \
                     dots",
                ],
            ),
        ];
        for (spec, expected) in cases {
            let mut errors = ErrorList::default();
            validate(&tree(&format!(r#"{{"spec":{spec}}}"#)), &mut errors);
            assert_eq!(told(&errors), expected, "{spec}");
        }
    }

    #[test]
    fn the_policy_stays_and_members_of_other_gates_go() {
        let policy = r#""schedulingPolicy":{"gang":{"minCount":2}}"#;
        let old = tree(&format!(r#"{{"spec":{{{policy},"disruptionMode":"Pod"}}}}"#));
        let mut new = tree(&format!(r#"{{"spec":{{{policy},"priority":7,"disruptionMode":"Foo"}}}}"#));
        drop_gated(coracle_meta::Gates::GANGS, &mut new, &Value::Null);
        assert_eq!(new, old);
        let cases = [
            (r#"{"schedulingPolicy":{"basic":{}}}"#, "spec.schedulingPolicy: Invalid value: null: field is immutable"),
            (
                r#"{"schedulingPolicy":{"gang":{"minCount":2}},"podGroupTemplateRef":{"workload":{}}}"#,
                "spec.podGroupTemplateRef: Invalid value: null: field is immutable",
            ),
            (
                r#"{"schedulingPolicy":{"gang":{"minCount":2}},"disruptionMode":"PodGroup"}"#,
                "spec.disruptionMode: Forbidden",
            ),
        ];
        for (spec, expected) in cases {
            let mut errors = ErrorList::default();
            validate_update(&tree(&format!(r#"{{"spec":{spec}}}"#)), &old, &mut errors);
            assert_eq!(told(&errors), [expected], "{spec}");
        }
    }

    #[test]
    fn a_bad_condition_is_told_as_upstream_does() {
        let status = r#"{"status":{"conditions":[
            {"type":"a","status":"X","observedGeneration":-1},
            {"type":"a","status":"True","reason":"a b","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}"#;
        let mut errors = ErrorList::default();
        (RULES.validate_part_update)("status", &tree(status), &Value::Null, &mut errors);
        let told = told(&errors);
        assert_eq!(
            told[..5],
            [
                "status.conditions[0].status: Unsupported value: \"X\": supported values: \"False\", \"True\", \
                 \"Unknown\"",
                "status.conditions[0].observedGeneration: Invalid value: -1: must be greater than or equal to zero",
                "status.conditions[0].lastTransitionTime: Required value",
                "status.conditions[0].reason: Required value",
                "status.conditions[1].type: Duplicate value: \"a\"",
            ]
        );
        assert!(
            told[5].starts_with("status.conditions[1].reason: Invalid value: \"a b\": a condition reason must start")
        );
    }
}
