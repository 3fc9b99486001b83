//! The loop that owns the ledger of pods: feeds it what was seen, carries out what it says, a bounded number of writes
//! at a time.

use std::sync::Arc;

use bytes::Bytes;
use coracle_client::{Client, ClientError, DeleteOptions, Made, ObjectPath, ResourceRef};
use coracle_rt::Clock;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{Method, Request, header};
use http_body_util::BodyExt;
use jiff::SignedDuration;
use tokio::sync::{mpsc, watch};

use super::follow::Sighting;
use super::ledger::{Census, Deed, Ledger, Outcome, Uid, Write, uuid};
use crate::due;
use crate::fleet::Fleet;

/// Writes of pods under way at a time.
const WRITES_MAX: usize = 64;
/// Sightings taken at once before the next writes are begun.
const SIGHTINGS_MAX: usize = 64;
/// Sightings that wait for the loop; then the watch waits, and the server's own bounds hold.
pub const WAITING_MAX: usize = 256;

pub struct Runner {
    client: Client,
    clock: Clock,
    ledger: Ledger,
    sightings: mpsc::Receiver<Sighting>,
    census: watch::Sender<Census>,
}

impl Runner {
    pub fn new(
        client: Client,
        clock: Clock,
        fleet: Arc<Fleet>,
        sightings: mpsc::Receiver<Sighting>,
        census: watch::Sender<Census>,
    ) -> Runner {
        Runner { client, clock, ledger: Ledger::new(fleet), sightings, census }
    }

    /// Until nobody tells of pods any more.
    pub async fn run(mut self) {
        let mut writes = FuturesUnordered::new();
        let mut seen = Vec::with_capacity(SIGHTINGS_MAX);
        loop {
            let now = self.clock.now();
            while writes.len() < WRITES_MAX
                && let Some(write) = self.ledger.next_write(now)
            {
                writes.push(carry_out(self.client.clone(), write));
            }
            self.census.send_if_modified(|told| {
                let census = self.ledger.census();
                std::mem::replace(told, census) != census
            });
            tokio::select! {
                taken = self.sightings.recv_many(&mut seen, SIGHTINGS_MAX) => {
                    if taken == 0 {
                        return;
                    }
                    self.take(&mut seen);
                }
                Some((uid, outcome)) = writes.next() => self.ledger.wrote(uid, outcome, self.clock.now()),
                () = due(&self.clock, self.ledger.next_due()) => {
                    self.ledger.pass_time(self.clock.now());
                }
            }
        }
    }

    fn take(&mut self, seen: &mut Vec<Sighting>) {
        let now = self.clock.now();
        for sighting in seen.drain(..) {
            match sighting {
                Sighting::Seen(facts) => self.ledger.see(*facts, now),
                Sighting::Removed(uid) => self.ledger.remove(&uid),
                Sighting::ListBegins => self.ledger.begin_list(),
                Sighting::ListEnds => self.ledger.end_list(),
            }
        }
    }
}

async fn carry_out(client: Client, write: Write) -> (Uid, Outcome) {
    let pod = ObjectPath::new(ResourceRef::new("", "v1", "pods"), &write.namespace, &write.name);
    let result = match write.deed {
        Deed::Patch(patch) => patch_status(&client, &pod.subresource("status"), patch).await,
        Deed::Delete => delete(&client, &pod, write.uid).await,
    };
    let outcome = match result {
        Ok(revision) => Outcome::Written(revision),
        Err(ClientError::Status(status)) if status.is_not_found() => Outcome::Gone,
        // Another pod has its name by now.
        Err(ClientError::Status(status)) if status.is_conflict() && status.message.contains("uid") => Outcome::Gone,
        Err(ClientError::Status(status)) => {
            tracing::debug!(object = %write.name, code = status.code, message = status.message, "writing a pod");
            let seconds = status.details.map_or(0, |details| details.retry_after_seconds);
            Outcome::Failed(SignedDuration::from_secs(seconds.into()))
        }
        Err(error) => {
            tracing::debug!(object = %write.name, %error, "writing a pod");
            Outcome::Failed(SignedDuration::ZERO)
        }
    };
    (write.uid, outcome)
}

async fn patch_status(client: &Client, path: &ObjectPath, patch: Vec<u8>) -> Result<u64, ClientError> {
    let uri = path.path();
    let request = Request::builder()
        .method(Method::PATCH)
        .uri(&uri)
        .header(header::ACCEPT, "application/json")
        .header(header::CONTENT_TYPE, "application/strategic-merge-patch+json")
        .body(Bytes::from(patch))
        .expect("a path made of names is a URI");
    let answer = client.send(request).await?;
    let body = answer.into_body().collect().await;
    let body = body.map_err(|source| ClientError::Transport { uri: uri.clone(), source })?.to_bytes();
    let written: Made =
        serde_json::from_slice(&body).map_err(|source| ClientError::Decode { uri, source: source.into() })?;
    Ok(written.revision())
}

/// With no grace, as a node does whose containers have ended.
async fn delete(client: &Client, pod: &ObjectPath, uid: Uid) -> Result<u64, ClientError> {
    let preconditions = coracle_client::verbs::Preconditions { uid: Some(uuid(uid)), resource_version: None };
    let options =
        DeleteOptions { grace_period_seconds: Some(0), preconditions: Some(preconditions), ..DeleteOptions::default() };
    client.delete_of(pod, &options).await.map(|_: Made| 0)
}
