//! Create, update and delete of one object.

use std::sync::Arc;

use coracle_meta::{Status, Value};

use crate::answer::{self, Response};
use crate::call::Call;
use crate::managed;
use crate::server::Server;
use crate::store::delete::Wish;
use crate::store::{self, Deed, Target, Written};
use crate::{decode, encode};

pub async fn create(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    managed::check_options(call)?;
    let object = decode::object(call, target.served)?;
    let written = store::create::create(server, call, target, object).await?;
    show(server, call, target, &written)
}

pub async fn update(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    managed::check_options(call)?;
    let object = decode::object(call, target.served)?;
    if object.str_at(&["metadata", "name"]).is_empty() {
        let name = &target.name;
        return Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )));
    }
    let stored = stored(target, object);
    let written = store::update::update(server, call, target, &|_| Ok(stored.clone())).await?;
    show(server, call, target, &written)
}

pub async fn delete(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    let wish = Wish::read(call)?;
    let written = store::delete::delete(server, call, target, &wish).await?;
    if written.deed != Deed::Deleted {
        return show(server, call, target, &written);
    }
    let kind = target.served.kind;
    let done = answer::deleted(kind.group, kind.plural, &target.name, &written.object.meta.uid);
    Ok(encode::status(call, &done))
}

/// An object of the served version in the form it is stored in.
pub fn stored(target: &Target, mut object: Value) -> Value {
    let kind = target.served.kind;
    kind.default(&mut object, target.served.version);
    kind.convert(object, &target.served.api_version(), &kind.storage_api_version())
}

pub fn show(server: &Server, call: &Call, target: &Target, written: &Written) -> Result<Response, Status> {
    let code = if written.deed == Deed::Created { 201 } else { 200 };
    encode::object(server, call, target.served, code, &written.object)
}
