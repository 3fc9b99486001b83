//! Follows the pods that are bound to any node: one list, then one watch, of each pod only what is asked for here. It
//! goes on where it broke off, and lists again only when the server no longer knows that revision.

use std::sync::Arc;
use std::time::Duration;

use coracle_client::{Client, ClientError, ListOptions, Listed, ResourceRef, WatchEvent, WatchOptions, WatchStream};
use coracle_rt::Dice;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::facts::PodFacts;
use crate::fleet::Fleet;

const PODS: ResourceRef = ResourceRef::new("", "v1", "pods");
/// Pods without a node are nobody's yet.
const BOUND: &str = "spec.nodeName!=";
const PAGE_MAX: u32 = 500;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What a follower tells.
pub enum Sighting {
    Seen(Box<PodFacts>),
    Removed(Box<str>),
    ListBegins,
    ListEnds,
}

pub struct Follower {
    client: Client,
    fleet: Arc<Fleet>,
    sightings: mpsc::Sender<Sighting>,
    /// The revision to go on from; 0 where there is none.
    resume: u64,
}

/// Whoever is told has gone.
struct Deaf;

impl Follower {
    pub fn new(client: Client, fleet: Arc<Fleet>, sightings: mpsc::Sender<Sighting>) -> Follower {
        Follower { client, fleet, sightings, resume: 0 }
    }

    /// Follows for ever, or until nobody listens.
    pub async fn run(mut self) {
        let mut wait = BACKOFF_FIRST;
        while !self.sightings.is_closed() {
            let before = self.resume;
            match self.follow_once().await {
                Ok(()) => wait = BACKOFF_FIRST,
                Err(ClientError::Status(status)) if status.code == 410 => self.resume = 0,
                Err(error) => {
                    let why = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    tracing::debug!(%error, why, "following pods broke off");
                }
            }
            if self.resume > before {
                wait = BACKOFF_FIRST;
            }
            let jitter = Dice::system().below(wait.as_millis() as u64);
            tokio::time::sleep(wait + Duration::from_millis(jitter)).await;
            wait = (wait * 2).min(BACKOFF_MAX);
        }
    }

    async fn follow_once(&mut self) -> Result<(), ClientError> {
        if self.resume == 0 {
            self.resume = self.list().await?;
        }
        let mut stream = self.watch().await?;
        while let Some(event) = stream.next().await {
            if self.apply(event?).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn list(&mut self) -> Result<u64, ClientError> {
        let mut options = ListOptions { field_selector: BOUND.into(), limit: PAGE_MAX, ..ListOptions::default() };
        let _ = self.tell(Sighting::ListBegins).await;
        loop {
            let page: Listed<PodFacts> = self.client.list_by(&PODS, "", &options).await?;
            for facts in page.items {
                if self.fleet.number(&facts.spec.node_name).is_some() {
                    let _ = self.tell(Sighting::Seen(Box::new(facts))).await;
                }
            }
            if page.metadata.continue_token.is_empty() {
                let _ = self.tell(Sighting::ListEnds).await;
                return Ok(page.metadata.resource_version.parse().unwrap_or(0));
            }
            options.continue_token = page.metadata.continue_token;
        }
    }

    async fn watch(&self) -> Result<WatchStream<PodFacts>, ClientError> {
        let options = WatchOptions {
            field_selector: BOUND.into(),
            resource_version: self.resume.to_string(),
            ..WatchOptions::default()
        };
        self.client.watch_as(&PODS, "", &options).await
    }

    async fn apply(&mut self, event: WatchEvent<PodFacts>) -> Result<(), Deaf> {
        let (facts, removed) = match event {
            WatchEvent::Bookmark { revision, .. } => {
                self.resume = self.resume.max(revision);
                return Ok(());
            }
            WatchEvent::Added(facts) | WatchEvent::Modified(facts) => (facts, false),
            WatchEvent::Deleted(facts) => (facts, true),
        };
        self.resume = self.resume.max(facts.metadata.resource_version.parse().unwrap_or(0));
        if self.fleet.number(&facts.spec.node_name).is_none() {
            return Ok(());
        }
        match removed {
            true => self.tell(Sighting::Removed(facts.metadata.uid.into())).await,
            false => self.tell(Sighting::Seen(Box::new(facts))).await,
        }
    }

    async fn tell(&self, sighting: Sighting) -> Result<(), Deaf> {
        self.sightings.send(sighting).await.map_err(|_| Deaf)
    }
}
