//! Get and list, from the watch cache, as fresh as the request asks. Source of the resource versions' meaning:
//! Kubernetes API concepts, "Resource versions".

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coracle_cache::{ListQuery, Page, ResourceCache};
use coracle_meta::{Object, Status, Value};

use super::select::Selector;
use crate::answer::Response;
use crate::call::Call;
use crate::encode::{self, ListMeta};
use crate::server::Server;
use crate::store::{Target, failed, store_failed};

/// How long a read waits for a revision that its cache has not seen yet.
const WAIT_MAX: Duration = Duration::from_secs(3);

pub async fn get(server: &Server, call: &Call, target: &Target) -> Result<Response, Status> {
    let cache = server.resource(target.served.kind).await?;
    let found = match call.query.get("resourceVersion") {
        None => cache.get_fresh(&target.namespace, &target.name).await.map_err(failed)?,
        Some("0") => cache.get(&target.namespace, &target.name),
        Some(version) => {
            reach(&cache, version_of(version)?).await?;
            cache.get(&target.namespace, &target.name)
        }
    };
    let object = found.ok_or_else(|| target.not_found())?;
    encode::object(server, call, target.served, 200, &object)
}

/// A resource version as a number.
pub fn version_of(text: &str) -> Result<u64, Status> {
    text.parse().map_err(|_| {
        Status::bad_request(format!("Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"))
    })
}

/// Waits until the cache has seen a revision.
pub async fn reach(cache: &ResourceCache, revision: u64) -> Result<(), Status> {
    if tokio::time::timeout(WAIT_MAX, cache.wait_until(revision)).await.is_ok() {
        return Ok(());
    }
    let newest = cache.sync().await.map_err(store_failed)?.unwrap_or_else(|| cache.revision());
    if newest >= revision {
        return Ok(());
    }
    Err(store_failed(coracle_cache::StoreError::Future { asked: revision, newest: cache.revision() }))
}

pub async fn list(server: &Server, call: &Call, target: &Target) -> Result<Response, Status> {
    let selector = Selector::read(call, target.served)?;
    let cache = server.resource(target.served.kind).await?;
    let (items, meta) = select(call, target, &cache, &selector).await?;
    encode::list(server, call, target.served, &items, &meta)
}

/// The objects of one page and what is told beside them.
pub async fn select(
    call: &Call,
    target: &Target,
    cache: &ResourceCache,
    selector: &Selector,
) -> Result<(Vec<Arc<Object>>, ListMeta), Status> {
    let limit = call.query.number("limit").unwrap_or_default().max(0) as usize;
    let mut place = Place::read(call, cache).await?;
    let mut items = Vec::new();
    loop {
        // What a selector drops is made up for from the next page.
        let page = place.page(target, cache, limit).await?;
        let revision = page.revision;
        place.at = Some(revision);
        for (index, object) in page.items.iter().enumerate() {
            if !selector.matches(object) {
                continue;
            }
            items.push(object.clone());
            let more = page.remaining > 0 || index + 1 < page.items.len();
            if limit > 0 && items.len() == limit && more {
                let after = coracle_cache::keys::path(&object.meta.namespace, &object.meta.name);
                let left = page.remaining + (page.items.len() - index - 1) as u64;
                let remaining = if selector.is_everything() { left } else { 0 };
                return Ok((items, ListMeta { revision, next: token(revision, &after), remaining }));
            }
        }
        match page.next {
            Some(next) => place.after = Some(next),
            None => return Ok((items, ListMeta { revision, next: String::new(), remaining: 0 })),
        }
    }
}

/// Where a list begins and as of when.
struct Place {
    at: Option<u64>,
    after: Option<String>,
    is_fresh: bool,
}

impl Place {
    async fn read(call: &Call, cache: &ResourceCache) -> Result<Place, Status> {
        let version = call.query.get("resourceVersion");
        let matching = call.query.get("resourceVersionMatch");
        if let Some(token) = call.query.get("continue") {
            if version.is_some_and(|version| version != "0") {
                return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
            }
            let (at, after) = read_token(token)
                .ok_or_else(|| Status::bad_request("continue key is not valid: illegal base64 data"))?;
            return Ok(Place { at: Some(at), after: Some(after), is_fresh: false });
        }
        let at = match (version, matching) {
            (None, Some(_)) => {
                return Err(invalid_options("resourceVersionMatch is forbidden unless resourceVersion is provided"));
            }
            (None, None) => return Ok(Place { at: None, after: None, is_fresh: true }),
            (Some("0"), Some("Exact")) => {
                return Err(invalid_options("resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\""));
            }
            (Some("0"), _) => None,
            (Some(version), Some("Exact")) => Some(version_of(version)?),
            (Some(version), None | Some("NotOlderThan")) => {
                reach(cache, version_of(version)?).await?;
                None
            }
            (Some(_), Some(other)) => {
                return Err(invalid_options(&format!("resourceVersionMatch: Unsupported value: {other:?}")));
            }
        };
        Ok(Place { at, after: None, is_fresh: false })
    }

    async fn page(&mut self, target: &Target, cache: &ResourceCache, limit: usize) -> Result<Page, Status> {
        let namespace = Some(target.namespace.as_str()).filter(|namespace| !namespace.is_empty());
        let query = ListQuery { namespace, after: self.after.as_deref(), limit };
        match (self.at, self.is_fresh) {
            (Some(at), _) => cache.list_at(at, query).await.map_err(failed),
            (None, true) => cache.list_fresh(query).await.map_err(failed),
            (None, false) => Ok(cache.list_page(query)),
        }
    }
}

pub fn invalid_options(why: &str) -> Status {
    Status::new(422, "Invalid", format!("ListOptions.meta.k8s.io \"\" is invalid: {why}"))
}

fn token(revision: u64, after: &str) -> String {
    let mut token = Value::map();
    token.set(&["v"], "meta.k8s.io/v1");
    token.set(&["rv"], revision as i64);
    token.set(&["start"], after);
    URL_SAFE_NO_PAD.encode(token.to_json())
}

fn read_token(token: &str) -> Option<(u64, String)> {
    let value = Value::from_json(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let revision = u64::try_from(value.int_at(&["rv"])?).ok()?;
    let start = value.str_at(&["start"]);
    (value.str_at(&["v"]) == "meta.k8s.io/v1" && !start.is_empty()).then(|| (revision, start.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens_round_trip_and_rubbish_is_refused() {
        assert_eq!(read_token(&token(7, "default/a")), Some((7, "default/a".into())));
        assert_eq!(read_token("rubbish"), None);
    }
}
