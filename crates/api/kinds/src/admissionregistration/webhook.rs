//! What webhooks of both configurations share.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, Value, names};

use crate::shapes::{selector, within};

const SECONDS_MAX: i64 = 30;

pub fn default(webhook: &mut Value) {
    webhook.set_default(&["failurePolicy"], "Fail");
    webhook.set_default(&["matchPolicy"], "Equivalent");
    webhook.set_default(&["namespaceSelector"], Value::map());
    webhook.set_default(&["objectSelector"], Value::map());
    webhook.set_default(&["timeoutSeconds"], 10);
    within(webhook, &["clientConfig", "service"], |service| service.set_default(&["port"], 443));
    for rule in webhook.list_at_mut(&["rules"]) {
        rule.set_default(&["scope"], "*");
    }
}

pub fn validate(configuration: &Value, errors: &mut ErrorList) {
    let list = Path::new("webhooks");
    let webhooks = configuration.list_at(&["webhooks"]);
    for (index, webhook) in webhooks.iter().enumerate() {
        let path = list.index(index);
        let name = webhook.str_at(&["name"]);
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if !names::dns1123_subdomain(name).is_empty() {
            errors.invalid(&path.child("name"), name, names::dns1123_subdomain(name).join(","));
        } else if name.split('.').count() < 3 {
            let detail = "should be a domain with at least three segments separated by dots";
            errors.invalid(&path.child("name"), name, detail);
        }
        if webhooks[..index].iter().any(|other| other.str_at(&["name"]) == name) {
            errors.duplicate(&path.child("name"), name);
        }
        validate_one(webhook, &path, errors);
    }
}

fn validate_one(webhook: &Value, path: &Path<'_>, errors: &mut ErrorList) {
    let seconds = webhook.int_at(&["timeoutSeconds"]).unwrap_or_default();
    if !(1..=SECONDS_MAX).contains(&seconds) {
        let detail = format!("the timeout value must be between 1 and {SECONDS_MAX} seconds");
        errors.invalid(&path.child("timeoutSeconds"), seconds, detail);
    }
    for member in ["namespaceSelector", "objectSelector"] {
        selector::validate(webhook.get(member), &path.child(member), errors);
    }
    let effects = webhook.get("sideEffects");
    if !["None", "NoneOnDryRun"].contains(&effects.as_str().unwrap_or_default()) {
        if effects.is_null() {
            errors.required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun");
        } else {
            errors.not_supported(&path.child("sideEffects"), effects, &["None", "NoneOnDryRun"]);
        }
    }
    if webhook.list_at(&["admissionReviewVersions"]).is_empty() {
        let detail = "must specify one of v1, v1beta1";
        errors.required(&path.child("admissionReviewVersions"), detail);
    }
    let config = webhook.get("clientConfig");
    match (config.get("url").is_null(), config.get("service").is_null()) {
        (true, true) | (false, false) => {
            errors.required(&path.child("clientConfig"), "exactly one of url or service is required");
        }
        _ => {}
    }
}
