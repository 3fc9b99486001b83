//! Workloads: templates of pod groups, fixed once they are there.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use super::group;
use crate::column;
use crate::object_meta::IMMUTABLE;
use crate::rules::{Rules, same};

const TEMPLATES_MAX: usize = 8;

pub const RULES: Rules =
    Rules { drop_gated, validate, validate_update, columns: column::NAME_AND_AGE, ..Rules::STANDARD };

fn drop_gated(_: coracle_meta::Gates, workload: &mut Value, old: &Value) {
    let old = old.list_at(&["spec", "podGroupTemplates"]).to_vec();
    for (index, template) in workload.list_at_mut(&["spec", "podGroupTemplates"]).iter_mut().enumerate() {
        group::drop_gated(template, old.get(index).unwrap_or(&Value::Null));
    }
}

fn validate(workload: &Value, errors: &mut ErrorList) {
    let (spec, path) = (workload.get("spec"), Path::new("spec"));
    let (controller, of_controller) = (spec.get("controllerRef"), path.child("controllerRef"));
    if !controller.is_null() {
        let api_group = controller.str_at(&["apiGroup"]);
        if !api_group.is_empty() {
            errors.invalid_each(&of_controller.child("apiGroup"), api_group, names::dns1123_subdomain(api_group));
        }
        group::validate_name(controller, "kind", names::path_segment, &of_controller, errors);
        group::validate_name(controller, "name", names::path_segment, &of_controller, errors);
    }
    validate_templates(spec.list_at(&["podGroupTemplates"]), &path.child("podGroupTemplates"), errors);
}

fn validate_templates(templates: &[Value], path: &Path<'_>, errors: &mut ErrorList) {
    match templates.len() {
        0 => return errors.required(path, ""),
        1..=TEMPLATES_MAX => {}
        count => return errors.too_many(path, count, TEMPLATES_MAX),
    }
    for (index, template) in templates.iter().enumerate() {
        let name = template.str_at(&["name"]);
        if templates[..index].iter().any(|other| other.str_at(&["name"]) == name) {
            errors.duplicate(&path.index(index), template);
        }
    }
    for (index, template) in templates.iter().enumerate() {
        let path = path.index(index);
        group::validate_name(template, "name", names::dns1123_label, &path, errors);
        group::validate_policy(template.get("schedulingPolicy"), &path.child("schedulingPolicy"), errors);
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    for member in ["controllerRef", "podGroupTemplates"] {
        if !same(new.at(&["spec", member]), old.at(&["spec", member])) {
            errors.invalid(&Path::new("spec").child(member), Value::Null, IMMUTABLE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::tree;

    fn told(spec: &str) -> Vec<String> {
        let mut errors = ErrorList::default();
        validate(&tree(&format!(r#"{{"spec":{spec}}}"#)), &mut errors);
        errors.errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_bad_workload_is_told_as_upstream_does() {
        let template = |name: &str| format!(r#"{{"name":"{name}","schedulingPolicy":{{"gang":{{"minCount":2}}}}}}"#);
        let many = |count: usize| (0..count).map(|at| template(&format!("t{at}"))).collect::<Vec<_>>().join(",");
        assert!(told(&format!(r#"{{"podGroupTemplates":[{}]}}"#, many(8))).is_empty());
        let cases = [
            ("{}".to_owned(), vec!["spec.podGroupTemplates: Required value"]),
            (
                r#"{"podGroupTemplates":[{}]}"#.to_owned(),
                vec![
                    "spec.podGroupTemplates[0].name: Required value",
                    "spec.podGroupTemplates[0].schedulingPolicy: Invalid value: \"\": must specify one of: `basic`, \
                     `gang`",
                ],
            ),
            (
                format!(r#"{{"podGroupTemplates":[{}]}}"#, many(9)),
                vec!["spec.podGroupTemplates: Too many: 9: must have at most 8 items"],
            ),
            (
                format!(r#"{{"podGroupTemplates":[{}]}}"#, template("a.b")),
                vec!["spec.podGroupTemplates[0].name: Invalid value: \"a.b\": must not contain dots"],
            ),
            (
                format!(r#"{{"controllerRef":{{"kind":"a/b"}},"podGroupTemplates":[{}]}}"#, template("t")),
                vec![
                    "spec.controllerRef.kind: Invalid value: \"a/b\": may not contain '/'",
                    "spec.controllerRef.name: Required value",
                ],
            ),
        ];
        for (spec, expected) in cases {
            assert_eq!(told(&spec), expected, "{spec}");
        }
        let twice = told(&format!(r#"{{"podGroupTemplates":[{0},{0}]}}"#, template("t")));
        assert!(twice[0].starts_with("spec.podGroupTemplates[1]: Duplicate value: "), "{twice:?}");
    }

    #[test]
    fn templates_stay_and_members_of_other_gates_go() {
        let old = tree(r#"{"spec":{"podGroupTemplates":[{"name":"t","priority":3}]}}"#);
        let mut new = tree(r#"{"spec":{"podGroupTemplates":[{"name":"t","priority":3,"disruptionMode":"Pod"}]}}"#);
        drop_gated(coracle_meta::Gates::GANGS, &mut new, &old);
        assert_eq!(new, old);
        let mut errors = ErrorList::default();
        validate_update(&tree(r#"{"spec":{"podGroupTemplates":[{"name":"u"}]}}"#), &old, &mut errors);
        let told: Vec<String> = errors.errors.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["spec.podGroupTemplates: Invalid value: null: field is immutable"]);
    }
}
