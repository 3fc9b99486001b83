//! CronJobs: jobs made by the clock.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value};

use super::job;
use crate::column::{self, AGE, Column, NAME, boolean, count, integer, joined, since, string_or, text};
use crate::object_meta::not_negative;
use crate::rules::{Lifecycle, Rules};
use crate::shapes::container::validate_choice;
use crate::shapes::{fill, template};

const COLUMNS: &[Column] = &[
    NAME,
    text("Schedule", |cron, _| string_or(cron, &["spec", "schedule"], "")),
    text("Timezone", |cron, _| string_or(cron, &["spec", "timeZone"], "<none>")),
    boolean("Suspend", |cron, _| match cron.at(&["spec", "suspend"]).as_bool() {
        Some(true) => Value::string("True"),
        Some(false) => Value::string("False"),
        None => Value::string("<unset>"),
    }),
    integer("Active", |cron, _| count(cron, &["status", "active"])),
    text("Last Schedule", |cron, now| match cron.at(&["status", "lastScheduleTime"]) {
        Value::Null => Value::string("<none>"),
        at => since(at, now).into(),
    }),
    AGE,
    text("Containers", |cron, _| joined(containers(cron), "name").into()).wide(),
    text("Images", |cron, _| joined(containers(cron), "image").into()).wide(),
    text("Selector", |cron, _| column::selector(cron.at(&["spec", "jobTemplate", "spec", "selector"])).into()).wide(),
];

pub const RULES: Rules = Rules {
    default,
    drop_gated: |gates, new, old| {
        template::drop_gated_at(gates, new, old, &["spec", "jobTemplate", "spec", "template"]);
    },
    validate,
    columns: COLUMNS,
    lifecycle: Lifecycle::COUNTED,
    ..Rules::STANDARD
};

fn containers(cron: &Value) -> &[Value] {
    cron.list_at(&["spec", "jobTemplate", "spec", "template", "spec", "containers"])
}

fn default(cron: &mut Value, _: &str) {
    let spec = cron.ensure(&["spec"]);
    fill(spec, &["concurrencyPolicy"], "Allow");
    spec.set_default(&["suspend"], false);
    spec.set_default(&["successfulJobsHistoryLimit"], 3);
    spec.set_default(&["failedJobsHistoryLimit"], 1);
    job::template_of(spec.ensure(&["jobTemplate", "spec"]));
}

fn validate(cron: &Value, errors: &mut ErrorList) {
    let (spec, path) = (cron.get("spec"), Path::new("spec"));
    let schedule = spec.str_at(&["schedule"]);
    if schedule.is_empty() {
        errors.required(&path.child("schedule"), "");
    } else if schedule.contains("TZ") {
        let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.invalid(&path.child("schedule"), schedule, detail);
    } else if !schedule.starts_with('@') && schedule.split_whitespace().count() != 5 {
        let found = schedule.split_whitespace().count();
        let detail = format!("expected exactly 5 fields, found {found}: [{schedule}]");
        errors.invalid(&path.child("schedule"), schedule, detail);
    }
    let zone = spec.get("timeZone");
    if let Some(name) = zone.as_str() {
        let zone_path = path.child("timeZone");
        if name.is_empty() {
            errors.invalid(&zone_path, name, "timeZone must be nil or non-empty string");
        } else if name.eq_ignore_ascii_case("local") {
            let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
            errors.invalid(&zone_path, name, detail);
        } else if jiff::tz::db().get(name).is_err() {
            errors.invalid(&zone_path, name, format!("unknown time zone {name}"));
        }
    }
    for member in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        not_negative(spec.get(member), &path.child(member), errors);
    }
    let policies = &["Allow", "Forbid", "Replace"];
    validate_choice(spec.get("concurrencyPolicy"), policies, &path.child("concurrencyPolicy"), errors);
    job::validate_spec(spec.at(&["jobTemplate", "spec"]), &path.child("jobTemplate.spec"), errors);
    if spec.bool_at(&["jobTemplate", "spec", "manualSelector"]) {
        let detail = "supported values: \"nil\", \"false\"";
        errors.invalid(&path.child("jobTemplate.spec.manualSelector"), true, detail);
    }
}
