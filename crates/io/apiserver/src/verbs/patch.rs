//! Patch: an object changed by a description of the change, in the version of the URL.

use std::sync::Arc;

use coracle_merge::{json_patch, merge_patch};
use coracle_meta::{Status, Value};

use super::write::{show, stored};
use crate::answer::{self, Response};
use crate::call::Call;
use crate::decode;
use crate::server::Server;
use crate::store::{self, Target};

const OFFERS: [&str; 2] = ["application/json-patch+json", "application/merge-patch+json"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Json,
    Merge,
}

pub async fn patch(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    let patch = Patch::read(call)?;
    let change = |old: &Value| {
        let shown = in_served_version(target, old);
        let changed = patch.apply(call, &shown, &target.served.api_version(), target.served.kind.kind)?;
        Ok(stored(target, &changed))
    };
    let written = store::update::update(server, call, target, &change).await?;
    show(server, call, target, &written)
}

pub fn in_served_version(target: &Target, old: &Value) -> Value {
    if target.served.is_storage_form() {
        return old.clone();
    }
    let kind = target.served.kind;
    let mut shown = kind.convert(old, &kind.storage_api_version(), &target.served.api_version());
    kind.default(&mut shown, target.served.version);
    shown
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
            _ => return Err(answer::unsupported_media_type(&OFFERS)),
        };
        Ok(Patch { kind, body: decode::plain(call)? })
    }

    /// The patched object, read as strictly as a body.
    pub fn apply(&self, call: &Call, object: &Value, api_version: &str, kind: &str) -> Result<Value, Status> {
        let mut changed = object.clone();
        match self.kind {
            Kind::Merge => merge_patch(&mut changed, &self.body),
            Kind::Json => json_patch(&mut changed, &self.body).map_err(|error| {
                Status::new(
                    422,
                    "Invalid",
                    format!("the server rejected our request due to an error in our request: {error}"),
                )
            })?,
        }
        decode::patched(call, &changed, api_version, kind)
    }
}
