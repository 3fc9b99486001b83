//! PodCertificateRequests: a pod asks for a certificate of its own.

use coracle_meta::Value;

use crate::column::{Column, NAME, labels, string_or, text};
use crate::rules::Rules;

const COLUMNS: &[Column] = &[
    NAME,
    text("PodName", |object, _| string_or(object, &["spec", "podName"], "")),
    text("ServiceAccountName", |object, _| string_or(object, &["spec", "serviceAccountName"], "")),
    text("NodeName", |object, _| string_or(object, &["spec", "nodeName"], "")),
    text("SignerName", |object, _| string_or(object, &["spec", "signerName"], "")),
    text("State", |object, _| state(object)),
    text("UnverifiedUserAnnotations", |object, _| labels(object.at(&["spec", "unverifiedUserAnnotations"])).into()),
];

pub const RULES: Rules = Rules { selectable_fields, columns: COLUMNS, ..Rules::STANDARD };

fn state(object: &Value) -> Value {
    let kinds = object.list_at(&["status", "conditions"]).iter().map(|condition| condition.str_at(&["type"]));
    Value::string(kinds.rev().find(|kind| ["Issued", "Denied", "Failed"].contains(kind)).unwrap_or("Pending"))
}

fn selectable_fields(object: &Value) -> Vec<(&'static str, String)> {
    let text = |member: &str| object.str_at(&["spec", member]).to_owned();
    vec![
        ("spec.signerName", text("signerName")),
        ("spec.podName", text("podName")),
        ("spec.nodeName", text("nodeName")),
    ]
}
