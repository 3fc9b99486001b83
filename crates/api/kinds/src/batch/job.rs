//! Jobs: pods that run to their end.

mod policies;

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, time};
use jiff::Timestamp;

use crate::column::{self, AGE, Column, NAME, joined, text};
use crate::object_meta::{immutable, not_negative};
use crate::rules::{Lifecycle, Rules};
use crate::shapes::{fill, pod_defaults, selector, template};

/// The label that ties pods to their job, old and new.
const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

const COLUMNS: &[Column] = &[
    NAME,
    text("Status", |job, _| Value::string(status(job))),
    text("Completions", |job, _| completions(job).into()),
    text("Duration", |job, now| duration(job, now).into()),
    AGE,
    text("Containers", |job, _| joined(job.list_at(&["spec", "template", "spec", "containers"]), "name").into()).wide(),
    text("Images", |job, _| joined(job.list_at(&["spec", "template", "spec", "containers"]), "image").into()).wide(),
    text("Selector", |job, _| column::selector(job.at(&["spec", "selector"])).into()).wide(),
];

pub const RULES: Rules = Rules {
    default,
    drop_gated: template::drop_gated,
    prepare_create,
    validate,
    validate_update,
    columns: COLUMNS,
    selectable_fields: |job| {
        vec![("status.successful", job.int_at(&["status", "succeeded"]).unwrap_or_default().to_string())]
    },
    lifecycle: Lifecycle::COUNTED,
    ..Rules::STANDARD
};

fn default(job: &mut Value, _: &str) {
    let labels = job.at(&["spec", "template", "metadata", "labels"]).clone();
    if !labels.is_null() {
        fill(job, &["metadata", "labels"], labels);
    }
    let spec = job.ensure(&["spec"]);
    if spec.get("completions").is_null() && spec.get("parallelism").is_null() {
        spec.set(&["completions"], 1);
    }
    spec.set_default(&["parallelism"], 1);
    let limit = if spec.get("backoffLimitPerIndex").is_null() { 6 } else { i32::MAX };
    spec.set_default(&["backoffLimit"], limit);
    spec.set_default(&["completionMode"], "NonIndexed");
    spec.set_default(&["suspend"], false);
    let replacement = if spec.get("podFailurePolicy").is_null() { "TerminatingOrFailed" } else { "Failed" };
    spec.set_default(&["podReplacementPolicy"], replacement);
    spec.set_default(&["manualSelector"], false);
    template_of(spec);
}

/// What jobs of cron jobs get as well.
pub fn template_of(spec: &mut Value) {
    for rule in spec.list_at_mut(&["podFailurePolicy", "rules"]) {
        for pattern in rule.list_at_mut(&["onPodConditions"]) {
            fill(pattern, &["status"], "True");
        }
    }
    pod_defaults::template(spec.ensure(&["template"]));
}

/// Unless told otherwise a job selects its pods by its own uid, and labels them with it.
fn prepare_create(job: &mut Value) {
    if job.bool_at(&["spec", "manualSelector"]) {
        return;
    }
    let name = job.str_at(&["metadata", "name"]).to_owned();
    let uid = job.str_at(&["metadata", "uid"]).to_owned();
    for (keys, value) in [(NAME_LABELS, &name), (UID_LABELS, &uid)] {
        for key in keys {
            job.set_default(&["spec", "template", "metadata", "labels", key], value.as_str());
        }
    }
    job.set_default(&["spec", "selector", "matchLabels", UID_LABELS[1]], uid);
}

fn validate(job: &Value, errors: &mut ErrorList) {
    let (spec, path) = (job.get("spec"), Path::new("spec"));
    validate_spec(spec, &path, errors);
    let picked = spec.get("selector");
    if picked.is_null() {
        errors.required(&path.child("selector"), "");
        return;
    }
    selector::validate(picked, &path.child("selector"), errors);
    let labels = spec.at(&["template", "metadata", "labels"]);
    let matches = coracle_meta::LabelSelector::from_value(picked)
        .is_ok_and(|picked| picked.matches_with(|key| labels.get(key).as_str()));
    if !matches {
        let detail = "`selector` does not match template `labels`";
        errors.invalid(&path.child("template.metadata.labels"), labels, detail);
    }
}

/// Everything but the selector: the part that cron jobs share.
pub fn validate_spec(spec: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    for member in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        not_negative(spec.get(member), &path.child(member), errors);
    }
    policies::validate_manager(spec.get("managedBy"), &path.child("managedBy"), errors);
    validate_mode(spec, path, errors);
    policies::validate(spec, path, errors);
    template::validate(spec.get("template"), &path.child("template"), errors);
    let policy_path = path.child("template.spec.restartPolicy");
    match spec.str_at(&["template", "spec", "restartPolicy"]) {
        "" | "Always" => errors.required(&policy_path, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if !spec.get("podFailurePolicy").is_null() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.invalid(&policy_path, "OnFailure", detail);
        }
        "OnFailure" | "Never" => {}
        other => errors.not_supported(&policy_path, other, &["OnFailure", "Never"]),
    }
}

fn validate_mode(spec: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let mode = spec.str_at(&["completionMode"]);
    match mode {
        "" | "NonIndexed" => {
            for member in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
                if !spec.get(member).is_null() {
                    errors.invalid(&path.child(member), spec.get(member), "requires indexed completion mode");
                }
            }
        }
        "Indexed" => {
            if spec.get("completions").is_null() {
                errors.required(&path.child("completions"), "when completion mode is Indexed");
            }
            let parallelism = spec.int_at(&["parallelism"]).unwrap_or_default();
            if parallelism > 100_000 {
                let detail = "must be less than or equal to 100000 when completion mode is Indexed";
                errors.invalid(&path.child("parallelism"), parallelism, detail);
            }
            policies::validate_bounds(spec, path, errors);
        }
        other => errors.not_supported(&path.child("completionMode"), other, &["NonIndexed", "Indexed"]),
    }
    if !spec.get("maxFailedIndexes").is_null() && spec.get("backoffLimitPerIndex").is_null() {
        errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let path = Path::new("spec");
    let fixed = |member: &str, errors: &mut ErrorList| {
        immutable(new.at(&["spec", member]), old.at(&["spec", member]), &path.child(member), errors);
    };
    let (completions, before) = (new.at(&["spec", "completions"]), old.at(&["spec", "completions"]));
    if new.str_at(&["spec", "completionMode"]) != "Indexed" {
        fixed("completions", errors);
    } else if !completions.is_null() && completions != before && completions != new.at(&["spec", "parallelism"]) {
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.invalid(&path.child("completions"), completions, detail);
    }
    fixed("selector", errors);
    validate_template_update(new, old, &path, errors);
    for member in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        fixed(member, errors);
    }
}

/// The template of a suspended job without pods may say where they may run, and what their containers take.
/// Source: Kubernetes' `validatePodTemplateUpdate`.
fn validate_template_update(new: &Value, old: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    const TEMPLATE: [&str; 2] = ["spec", "template"];
    let never_started = old.at(&["status", "startTime"]).is_null();
    let has_pods = old.int_at(&["status", "active"]).unwrap_or_default() > 0;
    let is_open = old.bool_at(&["spec", "suspend"]) && (never_started || is_true(old, "Suspended")) && !has_pods;
    let (template, before) = (new.at(&TEMPLATE), old.at(&TEMPLATE));
    if !is_open {
        return immutable(template, before, &path.child("template"), errors);
    }
    let mut allowed = before.clone();
    redirect(&mut allowed, template);
    for list in ["containers", "initContainers"] {
        let wanted = template.list_at(&["spec", list]);
        let held = allowed.list_at_mut(&["spec", list]);
        if held.len() != wanted.len() {
            continue;
        }
        for (held, wanted) in
            held.iter_mut().zip(wanted).filter(|(held, wanted)| held.get("name") == wanted.get("name"))
        {
            put(held, &["resources"], wanted.get("resources"));
        }
    }
    immutable(template.get("spec"), allowed.get("spec"), &path.child("template.spec"), errors);
}

/// Gives a template what another says of where its pods may run.
fn redirect(template: &mut Value, other: &Value) {
    const AFFINITY: [&str; 2] = ["spec", "affinity"];
    const NODES: [&str; 3] = ["spec", "affinity", "nodeAffinity"];
    for member in ["nodeSelector", "tolerations", "schedulingGates"] {
        put(template, &["spec", member], other.at(&["spec", member]));
    }
    if !other.at(&AFFINITY).is_null() {
        template.ensure(&AFFINITY);
        put(template, &NODES, other.at(&NODES));
    } else if !template.at(&AFFINITY).is_null() {
        template.remove(&NODES);
        if template.at(&AFFINITY).is_empty() {
            template.remove(&AFFINITY);
        }
    }
}

fn put(target: &mut Value, path: &[&str], value: &Value) {
    match value {
        Value::Null => drop(target.remove(path)),
        value => target.set(path, value.clone()),
    }
}

fn is_true(job: &Value, kind: &str) -> bool {
    let mut conditions = job.list_at(&["status", "conditions"]).iter();
    conditions.find(|one| one.str_at(&["type"]) == kind).is_some_and(|one| one.str_at(&["status"]) == "True")
}

fn status(job: &Value) -> &'static str {
    let is_true = |kind: &str| is_true(job, kind);
    let is_deleting = !job.at(&["metadata", "deletionTimestamp"]).is_null();
    match () {
        () if is_true("Complete") => "Complete",
        () if is_true("Failed") => "Failed",
        () if is_deleting => "Terminating",
        () if is_true("Suspended") => "Suspended",
        () if is_true("FailureTarget") => "FailureTarget",
        () if is_true("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn completions(job: &Value) -> String {
    let done = job.int_at(&["status", "succeeded"]).unwrap_or_default();
    match (job.int_at(&["spec", "completions"]), job.int_at(&["spec", "parallelism"]).unwrap_or_default()) {
        (Some(wanted), _) => format!("{done}/{wanted}"),
        (None, parallel @ 2..) => format!("{done}/1 of {parallel}"),
        (None, _) => format!("{done}/1"),
    }
}

fn duration(job: &Value, now: Timestamp) -> String {
    let at = |member: &str| time::parse(job.str_at(&["status", member]));
    match at("startTime") {
        Some(start) => time::human_duration(at("completionTime").unwrap_or(now).as_second() - start.as_second()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shapes::tree;

    #[test]
    fn a_job_selects_its_pods_by_its_uid() {
        let mut job = tree(
            r#"{"metadata":{"name":"j","uid":"u"},"spec":{"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"x"}]}}}}"#,
        );
        default(&mut job, "v1");
        prepare_create(&mut job);
        assert_eq!(job.str_at(&["spec", "selector", "matchLabels", "batch.kubernetes.io/controller-uid"]), "u");
        let mut errors = ErrorList::default();
        validate(&job, &mut errors);
        assert!(errors.is_empty(), "{errors}");
    }

    /// A suspended job with an affinity to nodes and one to pods, and what an update makes of it.
    fn told(status: &str, change: impl Fn(&mut Value)) -> String {
        let spec = r#"{"suspend":true,"parallelism":2,"template":{"metadata":{"labels":{"a":"b"}},"spec":{
            "restartPolicy":"Never","affinity":{"nodeAffinity":{"x":1},"podAffinity":{"y":1}},
            "containers":[{"name":"c","image":"i","resources":{"requests":{"cpu":"1"}}}]}}}"#;
        let old = tree(&format!(r#"{{"spec":{spec},"status":{status}}}"#));
        let mut new = old.clone();
        change(&mut new);
        let mut errors = ErrorList::default();
        validate_update(&new, &old, &mut errors);
        errors.to_string()
    }

    type Change = fn(&mut Value);
    const TEMPLATE: [&str; 3] = ["spec", "template", "spec"];

    fn set(job: &mut Value, member: &str, value: &str) {
        job.ensure(&TEMPLATE).set(&[member], tree(value));
    }

    const OPEN: [Change; 6] = [
        |job| set(job, "nodeSelector", r#"{"zone":"a"}"#),
        |job| set(job, "tolerations", r#"[{"key":"k"}]"#),
        |job| set(job, "affinity", r#"{"nodeAffinity":{"x":2},"podAffinity":{"y":1}}"#),
        |job| set(job, "affinity", r#"{"podAffinity":{"y":1}}"#),
        |job| job.set(&["spec", "template", "metadata", "labels"], tree(r#"{"c":"d"}"#)),
        |job| set(job, "containers", r#"[{"name":"c","image":"i","resources":{"limits":{"cpu":"2"}}}]"#),
    ];
    const CLOSED: [Change; 4] = [
        |job| set(job, "affinity", r#"{"nodeAffinity":{"x":1},"podAffinity":{"y":2}}"#),
        |job| drop(job.remove(&["spec", "template", "spec", "affinity"])),
        |job| set(job, "containers", r#"[{"name":"c","image":"j","resources":{"requests":{"cpu":"1"}}}]"#),
        |job| set(job, "containers", r#"[{"name":"d","image":"i","resources":{"limits":{"cpu":"2"}}}]"#),
    ];

    #[test]
    fn a_suspended_job_without_pods_may_be_sent_elsewhere_and_take_other_resources() {
        let suspended = r#"{"startTime":"t","conditions":[{"type":"Suspended","status":"True"}]}"#;
        for status in ["{}", suspended] {
            for (at, change) in OPEN.into_iter().enumerate() {
                assert_eq!(told(status, change), "[]", "{status} {at}");
            }
            for (at, change) in CLOSED.into_iter().enumerate() {
                let told = told(status, change);
                assert!(
                    told.starts_with("spec.template.spec: Invalid value") && told.contains("immutable"),
                    "{at} {told}"
                );
            }
        }
        let pods = r#"{"startTime":"t","active":1,"conditions":[{"type":"Suspended","status":"True"}]}"#;
        for status in [r#"{"startTime":"t"}"#, pods] {
            for (at, change) in OPEN.into_iter().chain(CLOSED).enumerate() {
                assert!(told(status, change).starts_with("spec.template: Invalid value"), "{status} {at}");
            }
        }
    }

    #[test]
    fn completions_of_an_indexed_job_go_with_its_parallelism() {
        let update = |completions: i64, parallelism: i64| {
            let job = |completions: i64, parallelism: i64| {
                tree(&format!(
                    r#"{{"spec":{{"completionMode":"Indexed","completions":{completions},"parallelism":{parallelism}}}}}"#
                ))
            };
            let mut errors = ErrorList::default();
            validate_update(&job(completions, parallelism), &job(2, 2), &mut errors);
            errors.to_string()
        };
        assert_eq!((update(3, 3), update(2, 1)), ("[]".to_owned(), "[]".to_owned()));
        let words = "spec.completions: Invalid value: 3: can only be modified in tandem with spec.parallelism";
        assert_eq!(update(3, 2), words);
    }
}
