//! Sixth step: a body as an object of the kind its URL names, read strictly.

use std::sync::OnceLock;

use coracle_meta::{GroupVersionKind, Status, Value};
use coracle_schema::{
    Read, ReadError, Schema, TypeId, Unknown, parse_yaml, proto, read_json, read_proto, read_type_meta, read_value,
    read_yaml,
};

use crate::answer;
use crate::call::{Call, Served};

const OFFERS: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

const MANAGED_FIELDS: [&str; 2] = ["metadata", "managedFields"];

/// The encoding of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Media {
    Json,
    Yaml,
    Proto,
}

impl Media {
    /// What a body says of itself, before its type is known.
    fn type_meta(self, body: &[u8]) -> Result<(String, String), ReadError> {
        match self {
            Media::Json => read_type_meta(body),
            Media::Yaml => {
                let value = parse_yaml(body)?;
                Ok((value.str_at(&["apiVersion"]).to_owned(), value.str_at(&["kind"]).to_owned()))
            }
            Media::Proto => {
                let envelope = proto::open(body)?;
                Ok((envelope.api_version.to_owned(), envelope.kind.to_owned()))
            }
        }
    }

    fn read(self, id: TypeId, body: &[u8], unknown: Unknown) -> Result<Read, ReadError> {
        match self {
            Media::Json => read_json(Schema::builtin(), id, body, unknown),
            Media::Yaml => read_yaml(Schema::builtin(), id, body, unknown),
            Media::Proto => Ok(Read { value: read_proto(Schema::builtin(), id, body)?, warnings: Vec::new() }),
        }
    }
}

/// The type that a kind's objects have in a version.
pub fn type_of(api_version: &str, kind: &str) -> Option<TypeId> {
    Schema::builtin().kind(&GroupVersionKind::parse(api_version, kind)?)
}

/// The body as an object of this kind.
pub fn object(call: &Call, served: Served) -> Result<Value, Status> {
    named(call, &served.api_version(), served.kind.kind)
}

/// The body as an object of a kind named by its group, version and kind.
pub fn named(call: &Call, api_version: &str, kind: &str) -> Result<Value, Status> {
    let media = accept(call)?;
    let id = type_of(api_version, kind).ok_or_else(answer::not_found)?;
    let read = media.read(id, &call.body, unknown(call)?);
    // What cannot be read may be of another kind, and a message does not say in itself what it is.
    let said = match &read {
        Ok(read) if media != Media::Proto => {
            (read.value.str_at(&["apiVersion"]).to_owned(), read.value.str_at(&["kind"]).to_owned())
        }
        _ => media.type_meta(&call.body).map_err(|error| unrecognized(error, kind, &call.body))?,
    };
    check_type((&said.0, &said.1), (api_version, kind))?;
    let read = read.map_err(|error| refused(&error, api_version, kind))?;
    read.warnings.into_iter().for_each(|text| call.warn(text));
    let mut value = read.value;
    if media != Media::Proto && is_mentioned(&call.body, "managedFields") {
        let raw = match media {
            Media::Json => Value::sparse(&call.body, &[&MANAGED_FIELDS]).unwrap_or_default(),
            _ => parse_yaml(&call.body).unwrap_or_default(),
        };
        keep_reset(&raw, &mut value);
    }
    value.set(&["apiVersion"], api_version);
    value.set(&["kind"], kind);
    if !matches!(value.get("metadata"), Value::Map(_)) {
        value.set(&["metadata"], Value::map());
    }
    Ok(value)
}

/// Refuses a body that says it is something else than its URL names.
fn check_type(said: (&str, &str), (api_version, kind): (&str, &str)) -> Result<(), Status> {
    if let Some(why) = misfit(said, (api_version, kind)) {
        let version = match said.0 {
            "" => api_version.rsplit('/').next().unwrap_or_default(),
            version => version.rsplit('/').next().unwrap_or_default(),
        };
        let said = if said.1.is_empty() { kind } else { said.1 };
        return Err(Status::bad_request(format!("{said} in version {version:?} cannot be handled as a {kind}: {why}")));
    }
    if !said.0.is_empty() && said.0 != api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({api_version})",
            said.0
        )));
    }
    Ok(())
}

/// The refusal of a body that does not even say what it is.
fn unrecognized(error: ReadError, kind: &str, body: &[u8]) -> Status {
    let error = match error {
        ReadError::Syntax(error) => format!("couldn't get version/kind; json parse error: {error}"),
        error => error.to_string(),
    };
    let body = summary(body);
    Status::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {error} ({body})"))
}

/// Why what a body calls itself cannot become what is wanted, in Go's words; `None` where it can. What it leaves out
/// is taken as wanted.
fn misfit(said: (&str, &str), wanted: (&str, &str)) -> Option<String> {
    let version = if said.0.is_empty() { wanted.0 } else { said.0 };
    let kind = if said.1.is_empty() { wanted.1 } else { said.1 };
    if type_of(version, kind).is_none() {
        return Some(format!(
            "no kind {kind:?} is registered for version {version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        ));
    }
    if kind == wanted.1 {
        return None;
    }
    let bare = version.rsplit('/').next().unwrap_or_default();
    let group = wanted.0.split_once('/').map_or("core", |(group, _)| group.split('.').next().unwrap_or_default());
    Some(format!("converting ({bare}.{kind}) to ({group}.{}): unknown conversion", wanted.1))
}

/// The start of a body that could not be read.
fn summary(body: &[u8]) -> String {
    const BYTES_MAX: usize = 30;
    let start = &body[..body.len().min(BYTES_MAX)];
    let more = if body.len() > BYTES_MAX { " ..." } else { "" };
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(start)),
        Some(_) => start.iter().map(|byte| format!("{byte:02x}")).chain([more.to_owned()]).collect(),
    }
}

/// A tree that a patch made, brought into the form that a body would have had; the error says only what is wrong.
pub fn patched(call: &Call, value: &Value, api_version: &str, kind: &str) -> Result<Value, Status> {
    let id = type_of(api_version, kind).ok_or_else(answer::not_found)?;
    let said = (value.str_at(&["apiVersion"]), value.str_at(&["kind"]));
    if let Some(why) = misfit(said, (api_version, kind)) {
        return Err(Status::bad_request(why));
    }
    let read = read_value(Schema::builtin(), id, value, unknown(call)?)
        .map_err(|error| Status::bad_request(error.to_string()))?;
    read.warnings.into_iter().for_each(|text| call.warn(text));
    let mut object = read.value;
    keep_reset(value, &mut object);
    Ok(object)
}

/// Whether a name stands somewhere in a body; in doubt it does.
fn is_mentioned(body: &[u8], name: &str) -> bool {
    std::str::from_utf8(body).map_or(true, |text| text.contains(name))
}

/// An empty list of managedFields asks for them to be forgotten; everywhere else an empty list is none.
fn keep_reset(raw: &Value, object: &mut Value) {
    if raw.at(&MANAGED_FIELDS).as_list().is_some_and(<[Value]>::is_empty) {
        object.set(&MANAGED_FIELDS, Vec::new());
    }
}

/// A body of any JSON, or what is wrong with it in Go's words.
pub fn plain(body: &[u8]) -> Result<Value, String> {
    Value::from_json(body).map_err(|error| match read_type_meta(body) {
        Err(ReadError::Syntax(syntax)) => syntax.to_string(),
        _ => error.to_string(),
    })
}

fn accept(call: &Call) -> Result<Media, Status> {
    let media = call.header("content-type").split(';').next().unwrap_or_default().trim();
    match media {
        "" | "application/json" | "*/*" => Ok(Media::Json),
        "application/yaml" => Ok(Media::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Media::Proto),
        _ => Err(answer::unsupported_media_type(&OFFERS)),
    }
}

fn unknown(call: &Call) -> Result<Unknown, Status> {
    match call.query.get("fieldValidation") {
        None | Some("Warn") => Ok(Unknown::Warn),
        Some("Ignore") => Ok(Unknown::Ignore),
        Some("Strict") => Ok(Unknown::Strict),
        // Writes have refused it already, in `managed::check_options`.
        Some(other) => Err(Status::bad_request(format!("fieldValidation: Unsupported value: {other:?}"))),
    }
}

fn refused(error: &ReadError, api_version: &str, kind: &str) -> Status {
    let version = api_version.rsplit('/').next().unwrap_or_default();
    Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {error}"))
}

/// What every delete may carry; read with the same strictness as objects.
pub fn delete_options(call: &Call) -> Result<Value, Status> {
    static TYPE: OnceLock<Option<TypeId>> = OnceLock::new();
    if call.body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::map());
    }
    let media = accept(call)?;
    let id = TYPE.get_or_init(|| Schema::builtin().named("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"));
    match id {
        Some(id) => {
            let (_, kind) = media.type_meta(&call.body).map_err(|error| {
                Status::bad_request(format!("couldn't get version/kind; json parse error: {error}"))
            })?;
            if !matches!(kind.as_str(), "" | "DeleteOptions") {
                let scheme = "pkg/apis/meta/internalversion/scheme/register.go:27";
                let why = format!("no kind {kind:?} is registered for version \"v1\" in scheme {scheme:?}");
                return Err(Status::bad_request(why));
            }
            let read = media.read(*id, &call.body, Unknown::Ignore);
            read.map(|read| read.value).map_err(|error| refused(&error, "v1", "DeleteOptions"))
        }
        None => plain(&call.body).map_err(Status::bad_request),
    }
}
