//! Finds and removes the nodes of a fleet with their leases.

use coracle_client::{Client, ClientError, DeleteOptions, ListOptions, Listed, ObjectPath};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;

use crate::HollowError;
use crate::fleet::LABEL;
use crate::keeper::{LEASE_NAMESPACE, LEASES, NODES};

const PAGE_MAX: u32 = 500;
/// Nodes that are being removed at a time.
const REMOVALS_MAX: usize = 32;

#[derive(Deserialize)]
struct Named {
    metadata: Name,
}

#[derive(Deserialize)]
struct Name {
    name: String,
}

/// The names of all nodes that carry the fleet's label.
pub async fn names(client: &Client, label: &str) -> Result<Vec<String>, HollowError> {
    let mut options =
        ListOptions { label_selector: format!("{LABEL}={label}"), limit: PAGE_MAX, ..ListOptions::default() };
    let mut names = Vec::new();
    loop {
        let page: Listed<Named> = client.list_by(&NODES, "", &options).await.map_err(HollowError::List)?;
        names.extend(page.items.into_iter().map(|node| node.metadata.name));
        if page.metadata.continue_token.is_empty() {
            return Ok(names);
        }
        options.continue_token = page.metadata.continue_token;
    }
}

/// Removes nodes and leases; what has gone already is well gone.
pub async fn remove_nodes(client: &Client, names: Vec<String>) -> Result<(), HollowError> {
    let removals = names.into_iter().map(|name| async move {
        for path in [ObjectPath::new(NODES, "", &name), ObjectPath::new(LEASES, LEASE_NAMESPACE, &name)] {
            match client.delete(&path, &DeleteOptions::default()).await {
                Err(ClientError::Status(status)) if status.is_not_found() => {}
                Err(source) => return Err(HollowError::Remove { name, source }),
                Ok(_) => {}
            }
        }
        Ok(())
    });
    stream::iter(removals).buffer_unordered(REMOVALS_MAX).try_collect().await
}
