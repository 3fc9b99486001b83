//! CertificateSigningRequests: asked, approved or denied, and signed.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use crate::column::{AGE, Column, NAME, string_or, text};
use crate::rules::Rules;
use crate::rules::restore;

const COLUMNS: &[Column] = &[
    NAME,
    AGE,
    text("SignerName", |object, _| string_or(object, &["spec", "signerName"], "<none>")),
    text("Requestor", |object, _| string_or(object, &["spec", "username"], "")),
    text("RequestedDuration", |object, _| duration(object).into()),
    text("Condition", |object, _| state(object).into()),
];

pub const RULES: Rules =
    Rules { validate, selectable_fields, prepare_update, name: any_name, columns: COLUMNS, ..Rules::STANDARD };

fn duration(object: &Value) -> String {
    match object.int_at(&["spec", "expirationSeconds"]) {
        Some(seconds) => coracle_meta::time::human_duration(seconds),
        None => "<none>".into(),
    }
}

fn state(object: &Value) -> String {
    let conditions = object.list_at(&["status", "conditions"]);
    let has = |kind: &str| conditions.iter().any(|condition| condition.str_at(&["type"]) == kind);
    let first = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (false, true) => "Approved",
        (false, false) => "Pending",
    };
    let failed = if has("Failed") { ",Failed" } else { "" };
    let issued = if object.str_at(&["status", "certificate"]).is_empty() { "" } else { ",Issued" };
    format!("{first}{failed}{issued}")
}

fn validate(object: &Value, errors: &mut ErrorList) {
    let (spec, path) = (object.get("spec"), Path::new("spec"));
    if spec.list_at(&["usages"]).is_empty() {
        errors.required(&path.child("usages"), "");
    }
    match spec.str_at(&["signerName"]) {
        "" => errors.required(&path.child("signerName"), ""),
        name if !name.contains('/') => {
            errors.invalid(
                &path.child("signerName"),
                name,
                "must be a fully qualified domain and path of the form 'example.com/signer-name'",
            );
        }
        _ => {}
    }
    if let Some(seconds) = spec.int_at(&["expirationSeconds"]).filter(|seconds| *seconds < 600) {
        errors.invalid(
            &path.child("expirationSeconds"),
            seconds,
            "may not specify a duration less than 600 seconds (10 minutes)",
        );
    }
}

fn selectable_fields(object: &Value) -> Vec<(&'static str, String)> {
    vec![("spec.signerName", object.str_at(&["spec", "signerName"]).to_owned())]
}

/// What was asked for stays as it was asked.
fn prepare_update(new: &mut Value, old: &Value) {
    restore(new, old, "spec");
}

/// Names of requests are free, but for what URLs forbid.
fn any_name(name: &str) -> Vec<String> {
    names::path_segment(name)
}
