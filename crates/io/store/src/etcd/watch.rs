//! Watches on etcd: one gRPC stream each, so that one that stalls holds up no other.

use std::sync::Arc;

use bytes::Bytes;
use coracle_cache::store::{Revision, StoreError, StoreEvent, WatchBatch, WatchStream};
use coracle_proto::etcd as wire;
use coracle_proto::etcd::watch_client::WatchClient;
use futures_util::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use wire::event::EventType;
use wire::watch_request::RequestUnion;

use super::{MESSAGE_BYTES_MAX, failed, key_value, revision_of};

/// Requests on their way to etcd: the watch itself and questions for its progress, of which one is as good as many.
const REQUESTS_MAX: usize = 4;

pub struct Watches {
    client: WatchClient<Channel>,
    open: Arc<Mutex<Vec<mpsc::Sender<wire::WatchRequest>>>>,
}

impl Watches {
    pub fn new(channel: Channel) -> Watches {
        let client = WatchClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Watches { client, open: Arc::default() }
    }

    pub fn request_progress(&self) {
        let union = RequestUnion::ProgressRequest(wire::WatchProgressRequest {});
        let request = wire::WatchRequest { request_union: Some(union) };
        self.open.lock().retain(|watch| match watch.try_send(request.clone()) {
            Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
    }

    pub async fn open(&self, start: Bytes, end: Bytes, from: Revision) -> Result<WatchStream, StoreError> {
        let (requests, sent) = mpsc::channel(REQUESTS_MAX);
        let create = wire::WatchCreateRequest {
            key: start,
            range_end: end,
            // 0 would be "from now on".
            start_revision: from.max(1) as i64,
            progress_notify: true,
            prev_kv: true,
            ..Default::default()
        };
        let first = wire::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        requests.try_send(first).map_err(|_| StoreError::Closed)?;
        let answers = self.client.clone().watch(outgoing(sent)).await.map_err(failed)?.into_inner();
        let mut open = self.open.lock();
        open.retain(|watch| !watch.is_closed());
        open.push(requests);
        Ok(incoming(answers, from).boxed())
    }
}

fn outgoing(requests: mpsc::Receiver<wire::WatchRequest>) -> impl Stream<Item = wire::WatchRequest> {
    stream::unfold(requests, |mut requests| async { requests.recv().await.map(|request| (request, requests)) })
}

fn incoming(
    answers: Streaming<wire::WatchResponse>,
    from: Revision,
) -> impl Stream<Item = Result<WatchBatch, StoreError>> {
    stream::unfold(Some(answers), move |answers| async move {
        let mut answers = answers?;
        loop {
            match answers.next().await {
                None => return Some((Err(StoreError::Unavailable("etcd ended a watch".into())), None)),
                Some(answer) => match batch(answer, from) {
                    Ok(None) => (),
                    Ok(Some(batch)) => return Some((Ok(batch), Some(answers))),
                    Err(error) => return Some((Err(error), None)),
                },
            }
        }
    })
}

/// `None` where the answer tells nothing: that the watch was created says no more than that.
fn batch(answer: Result<wire::WatchResponse, Status>, from: Revision) -> Result<Option<WatchBatch>, StoreError> {
    let answer = answer.map_err(failed)?;
    if answer.compact_revision > 0 {
        return Err(StoreError::Compacted { asked: from, oldest: answer.compact_revision as u64 });
    }
    if answer.canceled {
        return Err(StoreError::Unavailable(format!("etcd cancelled a watch: {}", answer.cancel_reason)));
    }
    if answer.created {
        return Ok(None);
    }
    let header = revision_of(answer.header.as_ref());
    let events: Vec<_> = answer.events.into_iter().filter_map(event).collect();
    // While a watch catches up, the header is ahead of the events that were sent.
    let revision = events.last().map_or(header, revision);
    Ok(Some(WatchBatch { events, revision }))
}

fn revision(event: &StoreEvent) -> Revision {
    match event {
        StoreEvent::Put { current, .. } => current.mod_revision,
        StoreEvent::Delete { revision, .. } => *revision,
    }
}

fn event(event: wire::Event) -> Option<StoreEvent> {
    let kind = event.r#type();
    let entry = event.kv?;
    let previous = event.prev_kv.map(key_value);
    Some(match kind {
        EventType::Put => StoreEvent::Put { current: key_value(entry), previous },
        EventType::Delete => StoreEvent::Delete { revision: entry.mod_revision as u64, key: entry.key, previous },
    })
}
