//! CertificateSigningRequests: asked, approved or denied, and signed.

use coracle_meta::field::Path;
use coracle_meta::{ErrorList, User, Value, names};

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

pub const RULES: Rules = Rules {
    validate,
    validate_part_update,
    selectable_fields,
    stamp_creator,
    prepare_update,
    name: any_name,
    columns: COLUMNS,
    ..Rules::STANDARD
};

const CONDITIONS: [&str; 2] = ["status", "conditions"];
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

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
    let usages: Vec<&str> = spec.list_at(&["usages"]).iter().filter_map(Value::as_str).collect();
    for (index, usage) in usages.iter().enumerate() {
        if !USAGES.contains(usage) {
            errors.not_supported(&path.child("usages").index(index), *usage, &USAGES);
        }
        if usages[..index].contains(usage) {
            errors.duplicate(&path.child("usages").index(index), *usage);
        }
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

/// Who asks is who wrote, never who the object says: signers and approvers go by it.
fn stamp_creator(object: &mut Value, user: &User) {
    for key in ["username", "uid", "groups", "extra"] {
        object.remove(&["spec", key]);
    }
    object.set(&["spec", "username"], user.name.as_str());
    if !user.uid.is_empty() {
        object.set(&["spec", "uid"], user.uid.as_str());
    }
    if !user.groups.is_empty() {
        object.set(&["spec", "groups"], user.groups.iter().map(Value::string).collect::<Vec<_>>());
    }
    for (key, values) in &user.extra {
        object.set(&["spec", "extra", key], values.iter().map(Value::string).collect::<Vec<_>>());
    }
}

/// Gives conditions the times that their writer left out; one that keeps its status keeps its transition.
pub fn stamp_conditions(new: &mut Value, old: &Value, now: &str) {
    let known = old.list_at(&CONDITIONS).to_vec();
    for condition in new.list_at_mut(&CONDITIONS) {
        if condition.str_at(&["lastUpdateTime"]).is_empty() {
            condition.set(&["lastUpdateTime"], now);
        }
        if condition.str_at(&["lastTransitionTime"]).is_empty() {
            let is_same = |was: &&Value| ["type", "status"].iter().all(|key| was.get(key) == condition.get(key));
            let was = known.iter().find(is_same).map(|was| was.str_at(&["lastTransitionTime"]));
            let at = was.filter(|at| !at.is_empty()).unwrap_or(now).to_owned();
            condition.set(&["lastTransitionTime"], at);
        }
    }
}

fn validate_part_update(part: &str, new: &Value, old: &Value, errors: &mut ErrorList) {
    let (status, old_conditions) = (Path::new("status"), old.list_at(&CONDITIONS));
    let path = status.child("conditions");
    let conditions = new.list_at(&CONDITIONS);
    validate_conditions(conditions, &path, errors);
    let of = |list: &[Value], kind: &str| -> Vec<Value> {
        list.iter().filter(|one| one.str_at(&["type"]) == kind).cloned().collect()
    };
    for kind in ["Approved", "Denied", "Failed"] {
        let (was, is) = (of(old_conditions, kind), of(conditions, kind));
        if is.len() < was.len() {
            errors.forbidden(&path, format!("updates may not remove a condition of type {kind:?}"));
        } else if part != "approval" && kind != "Failed" && is.len() > was.len() {
            errors.forbidden(&path, format!("updates may not add a condition of type {kind:?}"));
        } else if part != "approval" && kind != "Failed" && is != was {
            errors.forbidden(&path, format!("updates may not modify a condition of type {kind:?}"));
        }
    }
    let (was, is) = (old.str_at(&["status", "certificate"]), new.str_at(&["status", "certificate"]));
    if was != is && part != "status" {
        errors.forbidden(&status.child("certificate"), "updates may not set certificate content");
    } else if was != is && !was.is_empty() {
        errors.forbidden(&status.child("certificate"), "updates may not modify existing certificate content");
    }
}

fn validate_conditions(conditions: &[Value], path: &Path<'_>, errors: &mut ErrorList) {
    for (index, condition) in conditions.iter().enumerate() {
        let (kind, status) = (condition.str_at(&["type"]), condition.str_at(&["status"]));
        let at = path.index(index);
        let is_final = matches!(kind, "Approved" | "Denied" | "Failed");
        let allowed: &[&str] = if is_final { &["True"] } else { &["False", "True", "Unknown"] };
        if kind.is_empty() {
            errors.required(&at.child("type"), "");
        }
        match status {
            "" => errors.required(&at.child("status"), ""),
            status if !allowed.contains(&status) => errors.not_supported(&at.child("status"), status, allowed),
            _ => {}
        }
        let before = |wanted: &str| conditions[..index].iter().any(|one| one.str_at(&["type"]) == wanted);
        if (kind == "Approved" && before("Denied")) || (kind == "Denied" && before("Approved")) {
            errors.invalid(path, kind, "Approved and Denied conditions are mutually exclusive");
        }
        if before(kind) {
            errors.duplicate(&at.child("type"), kind);
        }
    }
}

/// What was asked for stays as it was asked.
fn prepare_update(new: &mut Value, old: &Value) {
    restore(new, old, "spec");
}

/// Names of requests are free, but for what URLs forbid.
fn any_name(name: &str) -> Vec<String> {
    names::path_segment(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Value {
        Value::from_json(json.as_bytes()).unwrap()
    }

    #[test]
    fn the_requestor_is_who_wrote() {
        let mut request = read(r#"{"spec":{"username":"root","extra":{"a":["b"]}}}"#);
        stamp_creator(&mut request, &User::new("jane", &["dev"]));
        assert_eq!(request.str_at(&["spec", "username"]), "jane");
        assert_eq!(request.list_at(&["spec", "groups"]).len(), 2);
        assert!(request.at(&["spec", "extra"]).is_null());
    }

    #[test]
    fn only_the_approval_approves() {
        let old = read(r#"{"metadata":{"name":"a"},"status":{}}"#);
        let new = read(r#"{"metadata":{"name":"a"},"status":{"conditions":[{"type":"Approved","status":"True"}]}}"#);
        let wrong = |part: &str, new: &Value| {
            let mut errors = ErrorList::default();
            validate_part_update(part, new, &old, &mut errors);
            !errors.is_empty()
        };
        assert!(!wrong("approval", &new) && wrong("status", &new));
        let both = read(
            r#"{"status":{"conditions":[{"type":"Approved","status":"True"},{"type":"Denied","status":"True"}]}}"#,
        );
        assert!(wrong("approval", &both));
    }

    #[test]
    fn a_condition_that_stays_keeps_its_transition() {
        let old = read(
            r#"{"status":{"conditions":[{"type":"Approved","status":"True","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}"#,
        );
        let mut new = read(r#"{"status":{"conditions":[{"type":"Approved","status":"True"}]}}"#);
        stamp_conditions(&mut new, &old, "2027-01-01T00:00:00Z");
        let condition = &new.list_at(&CONDITIONS)[0];
        assert_eq!(condition.str_at(&["lastTransitionTime"]), "2026-01-01T00:00:00Z");
        assert_eq!(condition.str_at(&["lastUpdateTime"]), "2027-01-01T00:00:00Z");
    }
}
