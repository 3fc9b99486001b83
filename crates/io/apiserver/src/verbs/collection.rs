//! Deleting what a list would show.

use std::sync::Arc;

use coracle_meta::Status;
use futures_util::{StreamExt, TryStreamExt};

use super::read;
use super::select::Selector;
use crate::answer::Response;
use crate::call::Call;
use crate::encode;
use crate::server::Server;
use crate::store::Target;
use crate::store::delete::{Wish, delete as delete_one};

/// Deletions under way at once: they share the store's syncs, and other writers keep their turns.
const UNDERWAY_MAX: usize = 128;

pub async fn delete(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    let wish = Wish::read(call)?;
    let selector = Selector::read(call, target.served)?;
    let cache = server.resource(target.served.kind).await?;
    let (items, meta) = read::select(call, target, &cache, &selector).await?;
    let deletions = items.iter().map(|item| {
        let one = Target { namespace: item.meta.namespace.clone(), name: item.meta.name.clone(), ..target.clone() };
        let wish = &wish;
        async move {
            match delete_one(server, call, &one, wish).await {
                Err(status) if !status.is_not_found() => Err(status),
                // Another was faster: it is as gone as it would have been.
                _ => Ok(()),
            }
        }
    });
    let deletions: Vec<_> = deletions.collect();
    futures_util::stream::iter(deletions).buffer_unordered(UNDERWAY_MAX).try_collect::<()>().await?;
    encode::list(server, call, target.served, &items, &meta)
}
