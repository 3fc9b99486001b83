//! Watch: frames as changes happen, from a resource version on, with bookmarks and streaming lists. Source:
//! Kubernetes `apiserver/pkg/endpoints/handlers/watch.go`, KEP-3157.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use coracle_cache::{CacheEvent, EventKind, Gone, ResourceCache, WatchFrom, Watcher};
use coracle_client::BodyError;
use coracle_meta::{Object, Status};
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::time::Instant;

use super::read::{check_options, reach, version_of};
use super::select::Selector;
use crate::answer::{self, Response};
use crate::call::Call;
use crate::encode::frame::Frames;
use crate::encode::output::output;
use crate::server::Server;
use crate::store::{Target, store_failed};

const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Watches that name no end get one by chance between this and twice as long.
const SECONDS_MIN: u64 = 1800;

struct Stream {
    server: Arc<Server>,
    watcher: Watcher,
    cache: Arc<ResourceCache>,
    selector: Selector,
    frames: Frames,
    /// No table has named its columns yet.
    with_columns: bool,
    /// Bookmarks are wanted.
    bookmarks: bool,
    /// The first bookmark closes the initial list.
    initial: bool,
    ends: Instant,
    next_bookmark: Instant,
    is_over: bool,
}

pub async fn watch(server: &Arc<Server>, call: &Call, target: &Target) -> Result<Response, Status> {
    let selector = Selector::read(call, target.served)?;
    check_options(call)?;
    let cache = server.resource(target.served.kind).await?;
    let version = call.query.get("resourceVersion");
    let initial = call.query.get("sendInitialEvents").map(|_| call.query.flag("sendInitialEvents"));
    let number = |version: &str| version_of(version).map_err(|why| Status::new(500, "", why));
    let bookmarks = call.query.flag("allowWatchBookmarks");
    let from = match (initial, version) {
        (Some(true), None | Some("0")) | (None, None | Some("0")) => {
            cache.sync().await.map_err(store_failed)?;
            WatchFrom::Initial
        }
        (Some(true), Some(version)) => {
            reach(&cache, number(version)?).await?;
            WatchFrom::Initial
        }
        (Some(false), None | Some("0")) => WatchFrom::Now,
        (_, Some(version)) => WatchFrom::Revision(number(version)?),
    };
    let namespace = Some(target.namespace.as_str()).filter(|namespace| !namespace.is_empty());
    let output = output(call)?;
    let (frames, stream_type) = (Frames { served: target.served, output }, output.wire.stream_type());
    let watcher = match cache.watch_kept(from, namespace).await {
        Ok(watcher) => watcher,
        // The stream opens and says so, as clients expect it.
        Err(gone) => return Ok(answer::bytes(200, stream_type, frames.error(&gone_status(gone)))),
    };
    let seconds = match call.query.number("timeoutSeconds") {
        Some(seconds) if seconds > 0 => seconds as u64,
        _ => SECONDS_MIN + server.dice.below(SECONDS_MIN),
    };
    let now = Instant::now();
    let stream = Stream {
        server: server.clone(),
        watcher,
        cache,
        selector,
        frames,
        with_columns: true,
        bookmarks,
        initial: initial == Some(true) && from == WatchFrom::Initial,
        ends: now + Duration::from_secs(seconds),
        next_bookmark: now + BOOKMARK_EVERY,
        is_over: false,
    };
    server.metrics.watches.fetch_add(1, Ordering::Relaxed);
    let body = stream::unfold(stream, |mut stream| async move {
        let bytes = stream.next().await?;
        Some((Ok::<_, BodyError>(Frame::data(bytes)), stream))
    });
    let mut response = answer::bytes(200, stream_type, Bytes::new());
    *response.body_mut() = StreamBody::new(body).boxed_unsync();
    Ok(response)
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.server.metrics.watches.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stream {
    /// The next frames; `None` at the end of the watch.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.is_over {
                return None;
            }
            let deadline = self.ends.min(self.next_bookmark);
            let mut out = Vec::new();
            match tokio::time::timeout_at(deadline, self.watcher.next()).await {
                Ok(Ok(event)) => {
                    self.write(&event, &mut out);
                    // What is there already goes out at once.
                    match self.watcher.ready() {
                        Ok(events) => events.iter().for_each(|event| self.write(event, &mut out)),
                        Err(gone) => self.fail(gone, &mut out),
                    }
                }
                Ok(Err(gone)) => self.fail(gone, &mut out),
                Err(_) if Instant::now() >= self.ends => return None,
                Err(_) => {
                    self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                    if self.bookmarks
                        && let Some(bookmark) = self.watcher.bookmark()
                    {
                        self.write(&bookmark, &mut out);
                    }
                }
            }
            // A frame alone is handed on as it is shared; several make one write.
            match out.len() {
                0 => {}
                1 => return out.pop(),
                _ => return Some(out.concat().into()),
            }
        }
    }

    fn fail(&mut self, gone: Gone, out: &mut Vec<Bytes>) {
        out.push(self.frames.error(&gone_status(gone)));
        self.is_over = true;
    }

    fn write(&mut self, event: &CacheEvent, out: &mut Vec<Bytes>) {
        if event.kind == EventKind::Bookmark {
            self.bookmark(event, out);
            return;
        }
        let matched = event.previous.as_ref().is_some_and(|previous| self.selector.matches(previous));
        let matches = self.selector.matches(&event.object);
        // An object that leaves what is selected is gone to this watcher, one that enters it is new.
        let (word, object) = match (event.kind, matched, matches) {
            (EventKind::Deleted, _, true) => ("DELETED", &event.object),
            (EventKind::Added, _, true) | (EventKind::Modified, false, true) => ("ADDED", &event.object),
            (EventKind::Modified, true, true) => ("MODIFIED", &event.object),
            (EventKind::Modified, true, false) => {
                let Some(previous) = &event.previous else { return };
                let left = previous.at(event.revision);
                out.push(self.frame("DELETED", &left));
                return;
            }
            _ => return,
        };
        out.push(self.frame(word, object));
    }

    fn frame(&mut self, word: &'static str, object: &Object) -> Bytes {
        let with_columns = std::mem::take(&mut self.with_columns);
        self.frames.event(&self.server, word, object, (self.cache.watchers() > 1, with_columns))
    }

    fn bookmark(&mut self, event: &CacheEvent, out: &mut Vec<Bytes>) {
        let closes = std::mem::take(&mut self.initial);
        if !self.bookmarks {
            return;
        }
        let is_scheduled = self.next_bookmark > Instant::now() + BOOKMARK_EVERY - Duration::from_secs(1);
        if closes || is_scheduled {
            out.push(self.frames.bookmark(&self.server, event.revision, closes));
        }
    }
}

fn gone_status(gone: Gone) -> Status {
    Status::expired(gone.to_string())
}
