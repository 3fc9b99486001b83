//! Deleting what a list would show.

use std::sync::Arc;

use coracle_meta::Status;

use super::read;
use super::select::Selector;
use crate::answer::Response;
use crate::call::Call;
use crate::encode;
use crate::server::Server;
use crate::store::Target;
use crate::store::delete::{Wish, delete as delete_one};

pub async fn delete(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    let wish = Wish::read(call)?;
    let selector = Selector::read(call, target.served)?;
    let cache = server.resource(target.served.kind).await?;
    let (items, meta) = read::select(call, target, &cache, &selector).await?;
    for item in &items {
        let one = Target { namespace: item.meta.namespace.clone(), name: item.meta.name.clone(), ..target.clone() };
        match delete_one(server, call, &one, &wish).await {
            Err(status) if !status.is_not_found() => return Err(status),
            // Another was faster: it is as gone as it would have been.
            _ => {}
        }
    }
    encode::list(server, call, target.served, &items, &meta)
}
