//! Watching: a body of JSON lines becomes a stream of events with encoded objects.

use bytes::{Bytes, BytesMut};
use coracle_meta::object::ObjectError;
use coracle_meta::{Members, Object, Status, Value};
use futures_util::stream::{BoxStream, StreamExt, unfold};
use http::{Request, header};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::path::with_query;
use crate::verbs::transport;
use crate::{Body, Client, ClientError, ResourceRef};

/// The longest line of a watch; an object is at most about 3 MiB.
const LINE_BYTES_MAX: usize = 16 << 20;

#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    pub label_selector: String,
    pub field_selector: String,
    /// Changes after this one; empty starts with what is there.
    pub resource_version: String,
    /// Send what is there first and a marked bookmark after it (a streaming list).
    pub send_initial_events: bool,
    /// 0 leaves it to the server.
    pub timeout_seconds: u32,
}

/// Of encoded objects, or of what a caller reads of them.
#[derive(Debug)]
pub enum WatchEvent<T = Object> {
    Added(T),
    Modified(T),
    Deleted(T),
    /// Everything up to the revision was seen; `initial_end` says that the streaming list is complete.
    Bookmark {
        revision: u64,
        initial_end: bool,
    },
}

pub type WatchStream<T = Object> = BoxStream<'static, Result<WatchEvent<T>, ClientError>>;

/// Makes of an object's JSON what its watcher wants; the other text is the request's URI, for what an error says.
type Read<T> = fn(&str, &[u8]) -> Result<T, ClientError>;

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

impl Client {
    /// The stream ends when the server ends it. An error event (an expired revision) is the stream's last item.
    pub async fn watch(
        &self,
        resource: &ResourceRef,
        namespace: &str,
        options: &WatchOptions,
    ) -> Result<WatchStream, ClientError> {
        self.watch_by(resource, namespace, options, shown_object).await
    }

    /// As `watch`, and of each object only what `T` reads.
    pub async fn watch_as<T: DeserializeOwned + 'static>(
        &self,
        resource: &ResourceRef,
        namespace: &str,
        options: &WatchOptions,
    ) -> Result<WatchStream<T>, ClientError> {
        self.watch_by(resource, namespace, options, read_as).await
    }

    async fn watch_by<T: 'static>(
        &self,
        resource: &ResourceRef,
        namespace: &str,
        options: &WatchOptions,
        read: Read<T>,
    ) -> Result<WatchStream<T>, ClientError> {
        let initial = options.send_initial_events;
        let timeout = if options.timeout_seconds == 0 { String::new() } else { options.timeout_seconds.to_string() };
        let parameters = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("labelSelector", options.label_selector.as_str()),
            ("fieldSelector", &options.field_selector),
            ("resourceVersion", &options.resource_version),
            ("sendInitialEvents", if initial { "true" } else { "" }),
            ("resourceVersionMatch", if initial { "NotOlderThan" } else { "" }),
            ("timeoutSeconds", &timeout),
        ];
        let uri = with_query(resource.path(namespace), &parameters);
        let request = Request::get(&uri).header(header::ACCEPT, "application/json").body(Bytes::new());
        let answer = self.send(request.map_err(|source| transport(&uri, source.into()))?).await?;
        Ok(events(uri, answer.into_body(), read))
    }
}

struct Lines {
    uri: String,
    body: Option<Body>,
    buffer: BytesMut,
    searched: usize,
}

fn events<T: 'static>(uri: String, body: Body, read: Read<T>) -> WatchStream<T> {
    let lines = Lines { uri, body: Some(body), buffer: BytesMut::new(), searched: 0 };
    unfold(lines, move |mut lines| async move {
        let line = match lines.next().await? {
            Ok(line) => line,
            Err(error) => {
                lines.body = None;
                return Some((Err(error), lines));
            }
        };
        let event = parse(&lines.uri, &line, read);
        if event.is_err() {
            lines.body = None;
        }
        Some((event, lines))
    })
    .boxed()
}

impl Lines {
    /// The next line that is not empty; `None` when the body has ended.
    async fn next(&mut self) -> Option<Result<Bytes, ClientError>> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + at + 1).freeze();
                self.searched = 0;
                if !line.trim_ascii().is_empty() {
                    return Some(Ok(line));
                }
                continue;
            }
            self.searched = self.buffer.len();
            if self.searched > LINE_BYTES_MAX {
                return Some(Err(transport(&self.uri, "a line of the watch is too long".into())));
            }
            match self.body.as_mut()?.frame().await? {
                Ok(frame) => self.buffer.extend(frame.into_data().ok()),
                Err(source) => return Some(Err(transport(&self.uri, source))),
            }
        }
    }
}

fn parse<T>(uri: &str, line: &[u8], read: Read<T>) -> Result<WatchEvent<T>, ClientError> {
    let decode = |source: serde_json::Error| ClientError::Decode { uri: uri.into(), source: source.into() };
    let event: Line<'_> = serde_json::from_slice(line).map_err(decode)?;
    let raw = event.object.get();
    match event.kind {
        "ADDED" => Ok(WatchEvent::Added(read(uri, raw.as_bytes())?)),
        "MODIFIED" => Ok(WatchEvent::Modified(read(uri, raw.as_bytes())?)),
        "DELETED" => Ok(WatchEvent::Deleted(read(uri, raw.as_bytes())?)),
        "BOOKMARK" => {
            let object = Value::from_json(raw.as_bytes()).map_err(decode)?;
            let revision = object.str_at(&["metadata", "resourceVersion"]).parse().unwrap_or(0);
            let end = object.str_at(&["metadata", "annotations", "k8s.io/initial-events-end"]) == "true";
            Ok(WatchEvent::Bookmark { revision, initial_end: end })
        }
        "ERROR" => Err(ClientError::Status(serde_json::from_str::<Status>(raw).map_err(decode)?)),
        other => Err(ClientError::Decode { uri: uri.into(), source: format!("unknown watch event {other}").into() }),
    }
}

fn read_as<T: DeserializeOwned>(uri: &str, json: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(json).map_err(|source| ClientError::Decode { uri: uri.into(), source: source.into() })
}

/// An object as a server shows it, without its managed fields: no decision reads them.
pub(crate) fn shown_object(uri: &str, json: &[u8]) -> Result<Object, ClientError> {
    let shown = Members::read(json).map_err(Into::into).and_then(stored_object);
    shown.map_err(|source| ClientError::Decode { uri: uri.into(), source })
}

/// The same of its members.
pub(crate) fn stored_object(mut members: Members<'_>) -> Result<Object, crate::BodyError> {
    let metadata = match members.text("metadata") {
        "" => return Err(ObjectError::NoMetadata.into()),
        text => text,
    };
    let mut metadata = Members::read(metadata.as_bytes())?;
    let revision = metadata.remove("resourceVersion").trim_matches('"').parse().unwrap_or(0);
    metadata.remove("managedFields");
    members.set("metadata", metadata.to_json());
    Ok(Object::new(Bytes::from(members.to_json()), revision)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::StreamBody;

    fn body(chunks: &'static [&'static str]) -> Body {
        let frames = chunks.iter().map(|chunk| Ok(http_body::Frame::data(Bytes::from_static(chunk.as_bytes()))));
        Body::new(StreamBody::new(futures_util::stream::iter(frames)))
    }

    #[test]
    fn lines_may_be_cut_anywhere() {
        let chunks = &[
            "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"a\",\"resourceV",
            "ersion\":\"7\",\"managedFields\":[]}}}\n{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":",
            "{\"resourceVersion\":\"9\"}}}\n",
        ];
        let mut stream = events("/x".into(), body(chunks), shown_object);
        let next = futures_util::FutureExt::now_or_never(stream.next()).flatten();
        let Some(Ok(WatchEvent::Added(object))) = next else { panic!("{next:?}") };
        assert_eq!((object.revision, &object.bytes[..]), (7, &br#"{"metadata":{"name":"a"}}"#[..]));
        let next = futures_util::FutureExt::now_or_never(stream.next()).flatten();
        assert!(matches!(next, Some(Ok(WatchEvent::Bookmark { revision: 9, initial_end: false }))));
        assert!(matches!(futures_util::FutureExt::now_or_never(stream.next()), Some(None)));
    }

    #[test]
    fn an_error_event_ends_the_stream() {
        let line = "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410,\"reason\":\"Expired\"}}\nrest\n";
        let mut stream = events(
            "/x".into(),
            body(Box::leak(Box::new([&*Box::leak(line.to_owned().into_boxed_str())]))),
            shown_object,
        );
        let next = futures_util::FutureExt::now_or_never(stream.next()).flatten();
        assert!(matches!(next, Some(Err(ClientError::Status(status))) if status.code == 410));
    }
}
