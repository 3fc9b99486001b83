//! Answers as HTTP carries them: JSON, `Status`, streams and bare text.

use bytes::Bytes;
use coracle_client::Body;
use coracle_meta::status::Details;
use coracle_meta::{Status, Value};
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body_util::{BodyExt, Full};
use serde::Serialize;

pub type Response = http::Response<Body>;

pub const JSON: &str = "application/json";

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub fn bytes(code: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = http::Response::new(full(body));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub fn json(code: u16, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => bytes(code, JSON, body),
        Err(error) => status(&Status::internal(error)),
    }
}

pub fn text(code: u16, body: impl Into<Bytes>) -> Response {
    let mut response = bytes(code, "text/plain; charset=utf-8", body);
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// A failure as clients read it.
pub fn status(status: &Status) -> Response {
    let mut response = bytes(status.code, JSON, status_json(status));
    let after = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    if after > 0 {
        response.headers_mut().insert("retry-after", HeaderValue::from(after));
    }
    response
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusObject<'a> {
    kind: &'static str,
    api_version: &'static str,
    metadata: Metadata<'a>,
    status: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a Details>,
    #[serde(skip_serializing_if = "is_zero")]
    code: u16,
}

#[derive(Serialize)]
struct Metadata<'a> {
    #[serde(rename = "continue", skip_serializing_if = "str::is_empty")]
    next: &'a str,
}

fn is_zero(code: &u16) -> bool {
    *code == 0
}

/// `Status` of a failure, or of a success where the code is below 400.
pub fn status_json(status: &Status) -> Vec<u8> {
    let object = StatusObject {
        kind: "Status",
        api_version: "v1",
        metadata: Metadata { next: &status.next },
        status: if status.code < 400 { "Success" } else { "Failure" },
        message: &status.message,
        reason: &status.reason,
        details: status.details.as_deref(),
        // A plain success says no code.
        code: if status.code == 200 { 0 } else { status.code },
    };
    serde_json::to_vec(&object).unwrap_or_default()
}

/// The same as a tree.
pub fn status_value(status: &Status) -> Value {
    Value::from_json(&status_json(status)).unwrap_or_default()
}

/// The success that a delete answers.
pub fn deleted(group: &str, kind: &str, name: &str, uid: &str) -> Status {
    let mut status = Status::new(200, "", "");
    status.details = Some(Box::new(Details {
        name: name.into(),
        group: group.into(),
        kind: kind.into(),
        uid: uid.into(),
        ..Details::default()
    }));
    status
}

pub fn not_found() -> Status {
    let mut status = Status::new(404, "NotFound", "the server could not find the requested resource");
    status.details = Some(Box::default());
    status
}

/// What a path answers that leads nowhere.
pub fn no_page() -> Response {
    text(404, "404 page not found\n")
}

pub fn method_not_allowed() -> Status {
    let mut status =
        Status::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
    status.details = Some(Box::default());
    status
}

/// None of the media types that the client takes is ours.
pub fn no_representation(offers: &[&str]) -> Status {
    let list = offers.join(", ");
    let mut status =
        Status::new(406, "NotAcceptable", format!("406: Not Acceptable\n\nAvailable representations: {list}"));
    status.details = Some(Box::default());
    status
}

/// A media type is ours, what is wanted in it is not.
pub fn not_acceptable(offers: &[&str]) -> Status {
    let list = offers.join(", ");
    Status::new(406, "NotAcceptable", format!("only the following media types are accepted: {list}"))
}

pub fn unsupported_media_type(offers: &[&str]) -> Status {
    let list = offers.join(", ");
    let message = format!("the body of the request was in an unknown format - accepted media types include: {list}");
    Status::new(415, "UnsupportedMediaType", message)
}

pub fn too_large(limit: usize) -> Status {
    Status::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit}"))
}
