//! Get and list, from the watch cache, as fresh as the request asks. Source of the resource versions' meaning:
//! Kubernetes API concepts, "Resource versions".

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use coracle_cache::{CacheError, ListQuery, Page, ResourceCache, StoreError};
use coracle_meta::{ErrorList, Object, Path, Status, Value};

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
        Some("0") => cache.get_near(&target.namespace, &target.name).await.map_err(failed)?,
        Some(version) => {
            reach(&cache, version_of(version).map_err(|why| Status::new(500, "", why))?).await?;
            cache.get(&target.namespace, &target.name)
        }
    };
    let object = found.ok_or_else(|| target.not_found())?;
    encode::object(server, call, target.served, 200, &object)
}

/// A resource version as a number.
pub fn version_of(text: &str) -> Result<u64, String> {
    let why =
        || format!("resourceVersion: Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax");
    text.parse().map_err(|_| why())
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
    check_options(call)?;
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
    if let Some(at) = place.at.filter(|_| place.continues) {
        cache.check_kept(at).await.map_err(|error| place.lost(error))?;
    }
    let mut items = Vec::new();
    loop {
        // What a selector drops is made up for from the next page.
        let page = place.page(target, cache, limit).await.map_err(|error| place.lost(error))?;
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
                return Ok((items, ListMeta { revision, next: token(revision as i64, &after), remaining }));
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
    /// Whether a token of the client led here.
    continues: bool,
}

impl Place {
    async fn read(call: &Call, cache: &ResourceCache) -> Result<Place, Status> {
        let version = call.query.get("resourceVersion");
        let matching = call.query.get("resourceVersionMatch");
        if let Some(token) = call.query.get("continue") {
            if version.is_some_and(|version| version != "0") {
                return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
            }
            let (at, after) = read_token(token).map_err(|why| {
                Status::bad_request(format!("invalid continue token: continue key is not valid{why}"))
            })?;
            return Ok(Place { at, after: Some(after), is_fresh: at.is_none(), continues: true });
        }
        let number = |version: &str| {
            version_of(version).map_err(|why| Status::bad_request(format!("invalid resource version: {why}")))
        };
        let at = match (version, matching) {
            (None, _) => return Ok(Place { at: None, after: None, is_fresh: true, continues: false }),
            (Some("0"), _) => None,
            (Some(version), Some("Exact")) => Some(number(version)?),
            (Some(version), _) => {
                reach(cache, number(version)?).await?;
                None
            }
        };
        Ok(Place { at, after: None, is_fresh: false, continues: false })
    }

    /// What is told where history no longer reaches back so far: a client that pages may go on with what stands now.
    fn lost(&self, error: CacheError) -> Status {
        match (&error, &self.after) {
            (CacheError::Store(StoreError::Compacted { .. }), Some(after)) if self.continues => {
                Status { next: token(NEWEST, after), ..Status::expired(INCONSISTENT) }
            }
            (CacheError::Store(StoreError::Compacted { .. }), _) => {
                Status::expired("The resourceVersion for the provided list is too old.")
            }
            _ => failed(error),
        }
    }

    async fn page(&mut self, target: &Target, cache: &ResourceCache, limit: usize) -> Result<Page, CacheError> {
        let namespace = Some(target.namespace.as_str()).filter(|namespace| !namespace.is_empty());
        let query = ListQuery { namespace, after: self.after.as_deref(), limit };
        match (self.at, self.is_fresh) {
            (Some(at), _) => cache.list_at(at, query).await,
            (None, true) => cache.list_fresh(query).await,
            (None, false) => Ok(cache.list_page(query)),
        }
    }
}

/// Refuses options that contradict each other. Source: Kubernetes `apimachinery/pkg/apis/meta/internalversion/validation`.
pub fn check_options(call: &Call) -> Result<(), Status> {
    let watches = call.info.verb == "watch";
    let mut errors = ErrorList::default();
    let (matching, initial) = (Path::new("resourceVersionMatch"), Path::new("sendInitialEvents"));
    let version = call.query.get("resourceVersion");
    let given = call.query.get("resourceVersionMatch");
    let sends = call.query.get("sendInitialEvents").is_some();
    if watches && sends && given != Some("NotOlderThan") {
        errors.forbidden(&matching, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
    }
    if let Some(given) = given {
        let known: &[&str] = if watches { &["NotOlderThan"] } else { &["Exact", "NotOlderThan", ""] };
        if watches && !sends {
            errors.forbidden(
                &matching,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        if !watches && version.is_none() {
            errors.forbidden(&matching, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !watches && call.query.get("continue").is_some() {
            errors.forbidden(&matching, "resourceVersionMatch is forbidden when continue is provided");
        }
        if !known.contains(&given) {
            errors.not_supported(&matching, given, known);
        }
        if watches && call.query.get("continue").is_some() {
            errors.forbidden(&matching, "resourceVersionMatch is forbidden when continue is provided");
        }
        if !watches && given == "Exact" && version == Some("0") {
            errors.forbidden(&matching, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
    }
    if sends && !watches {
        errors.forbidden(&initial, "sendInitialEvents is forbidden for list");
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "ListOptions", "", &errors)) }
}

/// Refuses a parameter that is to be a number and is none, in Go's words.
pub fn check_numbers(call: &Call, keys: &[&str]) -> Result<(), Status> {
    for key in keys {
        if let Some(text) = call.query.get(key).filter(|text| text.parse::<i64>().is_err()) {
            return Err(Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")));
        }
    }
    Ok(())
}

/// The revision in a token that goes on with what stands now.
const NEWEST: i64 = -1;
const INCONSISTENT: &str = "The provided continue parameter is too old to display a consistent list result. You can start \
                            a new list without the continue parameter, or use the continue token in this response to \
                            retrieve the remainder of the results. Continuing with the provided token results in an \
                            inconsistent list - objects that were created, modified, or deleted between the time the \
                            first chunk was returned and now may show up in the list.";

fn token(revision: i64, after: &str) -> String {
    let mut token = Value::map();
    token.set(&["v"], "meta.k8s.io/v1");
    token.set(&["rv"], revision);
    token.set(&["start"], after);
    URL_SAFE_NO_PAD.encode(token.to_json())
}

/// The revision, none for the newest, and where to go on behind; or what is wrong, as a tail to a sentence.
fn read_token(token: &str) -> Result<(Option<u64>, String), String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|error| format!(": {error}"))?;
    let value = crate::decode::plain(&bytes).map_err(|error| format!(": {error}"))?;
    if value.str_at(&["v"]) != "meta.k8s.io/v1" {
        return Err(format!(": server does not recognize this encoded version {}", value.str_at(&["v"])));
    }
    let revision = value.int_at(&["rv"]).unwrap_or_default();
    if revision == 0 {
        return Err(": incorrect encoded start resourceVersion (version meta.k8s.io/v1)".into());
    }
    let start = value.str_at(&["start"]);
    if start.is_empty() {
        return Err(": encoded start key empty (version meta.k8s.io/v1)".into());
    }
    if start.trim_start_matches('/').split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(format!(": {start}"));
    }
    Ok((u64::try_from(revision).ok(), start.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens_round_trip_and_rubbish_is_refused() {
        assert_eq!(read_token(&token(7, "default/a")), Ok((Some(7), "default/a".into())));
        assert_eq!(read_token(&token(NEWEST, "default/a")), Ok((None, "default/a".into())));
        assert!(read_token("rubbish").is_err() && read_token(&token(7, "../secrets/a")).is_err());
    }

    #[test]
    fn a_client_that_pages_is_told_how_to_go_on_when_history_is_gone() {
        let lost = |continues, after: &str| {
            let place = Place { at: Some(3), after: Some(after.into()), is_fresh: false, continues };
            place.lost(CacheError::Store(StoreError::Compacted { asked: 3, oldest: 9 }))
        };
        let status = lost(true, "default/a");
        assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
        assert_eq!(read_token(&status.next), Ok((None, "default/a".into())));
        assert!(lost(false, "default/a").next.is_empty());
    }
}
