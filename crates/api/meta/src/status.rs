//! What a failed request answers: `meta/v1 Status`, with the codes, reasons and wording that clients match on.
//! Source of the wording: Kubernetes `apimachinery/pkg/api/errors`.

use serde::{Deserialize, Serialize};

use crate::Resource;
use crate::field::{ErrorList, FieldError, quote};

/// A `Status` of kind failure. Its JSON is the body of the answer (`kind` and `apiVersion` are added by the encoder).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(rename_all = "camelCase")]
pub struct Status {
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Details>>,
    #[serde(default)]
    pub code: u16,
    /// Where a list that expired may go on, told as `metadata.continue`.
    #[serde(skip)]
    pub next: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

impl Status {
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Status {
        Status { message: message.into(), reason: reason.into(), details: None, code, next: String::new() }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Status {
        self.details = Some(Box::new(Details {
            name: name.into(),
            group: resource.group.to_string(),
            kind: resource.plural.to_string(),
            ..Details::default()
        }));
        self
    }

    pub fn not_found(resource: &Resource, name: &str) -> Status {
        Status::new(404, "NotFound", format!("{resource} \"{name}\" not found")).about(resource, name)
    }

    pub fn already_exists(resource: &Resource, name: &str) -> Status {
        Status::new(409, "AlreadyExists", format!("{resource} \"{name}\" already exists")).about(resource, name)
    }

    pub fn conflict(resource: &Resource, name: &str, why: &str) -> Status {
        let message = format!("Operation cannot be fulfilled on {resource} \"{name}\": {why}");
        Status::new(409, "Conflict", message).about(resource, name)
    }

    /// The conflict of a write that named an older resource version.
    pub fn modified(resource: &Resource, name: &str) -> Status {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Status::conflict(resource, name, why)
    }

    pub fn forbidden(resource: &Resource, name: &str, why: &str) -> Status {
        let message = match (resource.plural.as_ref(), name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{resource} is forbidden: {why}"),
            _ => format!("{resource} \"{name}\" is forbidden: {why}"),
        };
        Status::new(403, "Forbidden", message).about(resource, name)
    }

    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(400, "BadRequest", message)
    }

    /// An object that breaks the rules of its kind.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &ErrorList) -> Status {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let what = format!("{qualified} {} is invalid", quote(name));
        let message = if errors.is_empty() { what } else { format!("{what}: {errors}") };
        let cause = |error: &FieldError| Cause {
            reason: error.kind.reason().into(),
            message: error.body(),
            field: error.field.clone(),
        };
        let mut status = Status::new(422, "Invalid", message);
        status.details = Some(Box::new(Details {
            name: name.into(),
            group: group.into(),
            kind: kind.into(),
            causes: errors.errors.iter().map(cause).collect(),
            ..Details::default()
        }));
        status
    }

    pub fn unauthorized() -> Status {
        Status::new(401, "Unauthorized", "Unauthorized")
    }

    pub fn internal(why: impl std::fmt::Display) -> Status {
        let mut status = Status::new(500, "InternalError", format!("Internal error occurred: {why}"));
        let cause = Cause { message: why.to_string(), ..Cause::default() };
        status.details = Some(Box::new(Details { causes: vec![cause], ..Details::default() }));
        status
    }

    /// A resource version that is no longer kept.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::new(410, "Expired", message)
    }

    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }

    pub fn is_conflict(&self) -> bool {
        self.reason == "Conflict"
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason == "AlreadyExists"
    }
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Path;

    #[test]
    fn an_invalid_object_is_told_with_its_causes() {
        let mut errors = ErrorList::default();
        errors.invalid(&Path::new("spec.replicas"), -1i64, "must be greater than or equal to 0");
        let status = Status::invalid("apps", "Deployment", "x", &errors);
        assert_eq!(
            status.message,
            "Deployment.apps \"x\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        let cause = &status.details.unwrap().causes[0];
        assert_eq!(cause.reason, "FieldValueInvalid");
        assert_eq!(cause.message, "Invalid value: -1: must be greater than or equal to 0");
    }
}
