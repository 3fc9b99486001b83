//! `namespaces/finalize`: the one way a namespace loses the finalizers of its spec, and with the last of them itself.

use std::sync::Arc;

use coracle_kinds::rules::restore_at;
use coracle_meta::{Status, Value};

use crate::answer::Response;
use crate::call::Call;
use crate::decode;
use crate::server::Server;
use crate::store::{self, Target};
use crate::verbs::write::{show, stored};

pub async fn finalize(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    let wanted = stored(target, decode::object(call, target.served)?);
    let change = |old: &Value| {
        let mut kept = wanted.clone();
        restore_at(&mut kept, old, &["status"]);
        kept.set(&["spec", "finalizers"], wanted.list_at(&["spec", "finalizers"]).to_vec());
        if kept.list_at(&["spec", "finalizers"]).is_empty() {
            kept.remove(&["spec", "finalizers"]);
        }
        Ok(kept)
    };
    let written = store::update::update(server, call, target, &change).await?;
    show(server, call, target, &written)
}
