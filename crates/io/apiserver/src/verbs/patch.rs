//! Patch: an object changed by a description of the change, in the version of the URL.

use std::borrow::Cow;
use std::sync::Arc;

use coracle_merge::{JsonPatchError, StrategicPatchError, go_text, json_patch, merge_patch, strategic_merge_patch};
use coracle_meta::{ErrorList, Path, Status, Value};
use coracle_schema::{Schema, parse_yaml};

use super::write::{show, stored};
use crate::answer::{self, Response};
use crate::authorise::authorise;
use crate::call::Call;
use crate::decode;
use crate::managed;
use crate::request::RequestInfo;
use crate::server::Server;
use crate::store::{self, Target, Written};

const OFFERS: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    managed::APPLY,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Json,
    Merge,
    Strategic,
    Apply,
}

pub async fn patch(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    let patch = Patch::read(call)?;
    let change = |old: &Value| {
        let shown = in_served_version(target, old);
        let changed = patch.apply(server, call, &shown, &target.served.api_version(), target.served.kind.kind)?;
        Ok(stored(target, changed))
    };
    loop {
        let done = match store::update::update(server, call, target, &change).await {
            Err(status) if status.is_not_found() && patch.kind == Kind::Apply => {
                create(server, call, target, &patch).await
            }
            done => done,
        };
        match done {
            // Somebody else made it meanwhile: it is there to be changed now.
            Err(status) if status.is_already_exists() => {}
            done => return show(server, call, target, &done?),
        }
    }
}

/// Makes the object that a configuration describes where none stands.
async fn create(server: &Arc<Server>, call: &Call, target: &Target, patch: &Patch) -> Result<Written, Status> {
    let info = RequestInfo { verb: "create", ..call.info.clone() };
    authorise(server, &call.user, &info)?;
    let (version, kind) = (target.served.api_version(), target.served.kind.kind);
    let object = patch.apply(server, call, &Value::Null, &version, kind)?;
    let (name, url) = (object.str_at(&["metadata", "name"]), &target.name);
    if name != url {
        let why = format!("the name of the object ({name}) does not match the name on the URL ({url})");
        return Err(Status::bad_request(why));
    }
    let uid = object.str_at(&["metadata", "uid"]);
    if !uid.is_empty() {
        let why = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
        return Err(Status::conflict(&target.resource(), url, &why));
    }
    store::create::create(server, call, target, object).await
}

pub fn in_served_version<'a>(target: &Target, old: &'a Value) -> Cow<'a, Value> {
    if target.served.is_storage_form() {
        return Cow::Borrowed(old);
    }
    let kind = target.served.kind;
    let mut shown = kind.convert(old.clone(), &kind.storage_api_version(), &target.served.api_version());
    kind.default(&mut shown, target.served.version);
    Cow::Owned(shown)
}

pub struct Patch {
    kind: Kind,
    body: Value,
}

impl Patch {
    pub fn read(call: &Call) -> Result<Patch, Status> {
        let media = call.header("content-type").split(';').next().unwrap_or_default().trim().to_owned();
        let kind = match media.as_str() {
            "application/json-patch+json" => Kind::Json,
            "application/merge-patch+json" => Kind::Merge,
            "application/strategic-merge-patch+json" => Kind::Strategic,
            managed::APPLY => Kind::Apply,
            _ => return Err(unsupported()),
        };
        managed::check_options(call)?;
        let body = match kind {
            Kind::Apply => {
                parse_yaml(&call.body).map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))?
            }
            _ => document(kind, &call.body)?,
        };
        Ok(Patch { kind, body })
    }

    /// The configuration of an apply, for parts whose object is not the one that it is applied to.
    pub fn config(&self) -> Option<&Value> {
        (self.kind == Kind::Apply).then_some(&self.body)
    }

    /// The patched object, read as strictly as a body.
    pub fn apply(
        &self,
        server: &Server,
        call: &Call,
        object: &Value,
        api_version: &str,
        kind: &str,
    ) -> Result<Value, Status> {
        let changed = self.applied(server, call, object, (api_version, kind))?;
        let Some(touched) = self.touched() else {
            let read = decode::patched(call, &changed, api_version, kind);
            return read.map_err(|error| unreadable(&self.shown(&changed), error));
        };
        read_touched(call, changed, &touched, (api_version, kind)).map_err(|error| {
            let changed = self.applied(server, call, object, (api_version, kind));
            unreadable(&self.shown(&changed.unwrap_or_default()), error)
        })
    }

    /// The object as the patch makes it, not read yet.
    fn applied(
        &self,
        server: &Server,
        call: &Call,
        object: &Value,
        (api_version, kind): (&str, &str),
    ) -> Result<Value, Status> {
        let mut changed = object.clone();
        match self.kind {
            Kind::Apply => {
                let info = &call.info;
                let served = server.groups.find(&info.group, &info.version, &info.resource);
                // Parts of another kind than the whole are not applied to.
                let served = served.filter(|served| served.kind.kind == kind && served.api_version() == api_version);
                let served = served.ok_or_else(|| answer::unsupported_media_type(&OFFERS[..3]))?;
                changed = managed::apply(server, call, served, object, &self.body)?;
            }
            Kind::Merge => merge_patch(&mut changed, &self.body),
            Kind::Json => json_patch(&mut changed, &self.body).map_err(|error| unfit(&error))?,
            Kind::Strategic => {
                let id =
                    decode::type_of(api_version, kind).ok_or_else(|| answer::unsupported_media_type(&OFFERS[..2]))?;
                strategic_merge_patch(Schema::builtin(), id, &mut changed, &self.body).map_err(refused)?;
            }
        }
        Ok(changed)
    }

    /// What a refusal shows of it.
    fn shown(&self, changed: &Value) -> String {
        match self.kind {
            Kind::Strategic => go_text(&self.body),
            _ => String::from_utf8_lossy(&changed.to_json()).into_owned(),
        }
    }

    /// The members at the top that a merge reaches; `None` where that is not told by the patch itself.
    fn touched(&self) -> Option<Vec<&str>> {
        let members = match self.kind {
            Kind::Merge | Kind::Strategic => self.body.as_map()?.keys(),
            Kind::Json | Kind::Apply => return None,
        };
        let members: Vec<&str> = members.collect();
        (!members.iter().any(|member| member.starts_with('$'))).then_some(members)
    }
}

/// Reads what a patch may have changed as strictly as a body; the rest has been read so before.
fn read_touched(
    call: &Call,
    mut changed: Value,
    touched: &[&str],
    (api_version, kind): (&str, &str),
) -> Result<Value, Status> {
    let mut part = Value::map();
    for member in ["apiVersion", "kind"] {
        part.set(&[member], changed.get(member).clone());
    }
    for member in touched {
        if let Some(value) = changed.remove(&[member]) {
            part.set(&[member], value);
        }
    }
    let mut read = decode::patched(call, &part, api_version, kind)?;
    for member in touched {
        if let Some(value) = read.remove(&[member]) {
            changed.set(&[member], value);
        }
    }
    Ok(changed)
}

/// A patch's document, told in Go's words where it is none.
fn document(kind: Kind, bytes: &[u8]) -> Result<Value, Status> {
    // A strategic merge patch is decoded without saying so.
    let prefix = if kind == Kind::Strategic { "" } else { "error decoding patch: " };
    let body = decode::plain(bytes).map_err(|why| Status::bad_request(format!("{prefix}{why}")))?;
    let wanted = match (kind, &body) {
        (Kind::Json, Value::List(_)) => return Ok(body),
        (Kind::Json, _) => "[]handlers.jsonPatchOp",
        (_, Value::Map(_)) => return Ok(body),
        _ => "map[string]interface {}",
    };
    let is = match &body {
        Value::Map(_) => "object",
        Value::List(_) => "array",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Null => return Ok(Value::map()),
        _ => "number",
    };
    Err(Status::bad_request(format!("{prefix}json: cannot unmarshal {is} into Go value of type {wanted}")))
}

/// What `apiserver/pkg/endpoints/handlers/patch.go` answers to a JSON patch that does not apply.
fn unfit(error: &JsonPatchError) -> Status {
    match error {
        JsonPatchError::Form => Status::bad_request(error.to_string()),
        JsonPatchError::TooMany(_) => Status::new(413, "RequestEntityTooLarge", error.to_string()),
        _ => rejected(),
    }
}

/// Kubernetes does not tell clients what of a patch did not apply.
fn rejected() -> Status {
    let mut status = Status::new(422, "Invalid", "the server rejected our request due to an error in our request");
    status.details = Some(Box::default());
    status
}

/// A media type that no kind of the table takes for a patch is refused before the patch is looked at.
fn unsupported() -> Status {
    let mut status = Status::new(415, "UnsupportedMediaType", "415: Unsupported Media Type");
    status.details = Some(Box::default());
    status
}

fn refused(error: StrategicPatchError) -> Status {
    match error {
        StrategicPatchError::Unfit(message) => Status::new(500, "", message),
        StrategicPatchError::ListOfLists => rejected(),
        _ => Status::bad_request(error.to_string()),
    }
}

/// A patch whose result is no object of its kind is shown whole.
fn unreadable(patch: &str, error: Status) -> Status {
    if !matches!(error.code, 400 | 422) {
        return error;
    }
    let mut errors = ErrorList::default();
    errors.invalid(&Path::new("patch"), patch, error.message);
    Status::invalid("", "", "", &errors)
}
