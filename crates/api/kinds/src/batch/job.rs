//! Jobs: pods that run to their end.

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
    validate_mode(spec, path, errors);
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
        }
        other => errors.not_supported(&path.child("completionMode"), other, &["NonIndexed", "Indexed"]),
    }
    if !spec.get("maxFailedIndexes").is_null() && spec.get("backoffLimitPerIndex").is_null() {
        errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
}

fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let path = Path::new("spec");
    let is_suspended = old.bool_at(&["spec", "suspend"]) && old.at(&["status", "startTime"]).is_null();
    for member in ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy"] {
        immutable(new.at(&["spec", member]), old.at(&["spec", member]), &path.child(member), errors);
    }
    if new.str_at(&["spec", "completionMode"]) != "Indexed" {
        let member = "completions";
        immutable(new.at(&["spec", member]), old.at(&["spec", member]), &path.child(member), errors);
    }
    if !is_suspended {
        let member = "template";
        immutable(new.at(&["spec", member]), old.at(&["spec", member]), &path.child(member), errors);
    }
}

fn status(job: &Value) -> &'static str {
    let is_true = |kind: &str| {
        let conditions = job.list_at(&["status", "conditions"]);
        conditions.iter().find(|one| one.str_at(&["type"]) == kind).is_some_and(|one| one.str_at(&["status"]) == "True")
    };
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
}
