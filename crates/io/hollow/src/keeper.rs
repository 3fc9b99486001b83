//! The loop that owns the nodes: registers them, renews their leases and tells that they are well, each at its own
//! moment of the period, so that what a fleet asks of the server is spread evenly over time.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use coracle_client::{Client, ClientError, Made, ObjectPath, Patch, ResourceRef, WriteOptions};
use coracle_rt::Clock;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::watch;

use crate::fleet::Fleet;
use crate::wheel::Wheel;
use crate::{HollowError, due, node, removal};

pub(crate) const NODES: ResourceRef = ResourceRef::new("", "v1", "nodes");
pub(crate) const LEASES: ResourceRef = ResourceRef::new("coordination.k8s.io", "v1", "leases");
pub(crate) const LEASE_NAMESPACE: &str = "kube-node-lease";
/// As a kubelet does where nothing has changed.
const STATUS_MILLIS: i64 = 300_000;
/// Requests about nodes under way at a time.
const WRITES_MAX: usize = 32;
const RETRY_FIRST: SignedDuration = SignedDuration::from_millis(200);
const RETRY_DOUBLINGS_MAX: u32 = 5;

/// Something to do for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Register(u32),
    Renew(u32),
    TellStatus(u32),
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Done,
    /// Somebody has removed the node; nobody makes it anew, as no kubelet would.
    NodeGone,
    Failed,
}

pub struct Keeper {
    deeds: Deeds,
    clock: Clock,
    queue: VecDeque<Task>,
    wheel: Wheel<Task>,
    /// Failures since the last success, of the whole fleet: what fails is the server, not a node.
    failures: u32,
    registered: watch::Sender<u32>,
}

impl Keeper {
    pub fn new(client: Client, clock: Clock, fleet: Arc<Fleet>, registered: watch::Sender<u32>) -> Keeper {
        let deeds = Deeds { client, fleet, known: Arc::default() };
        Keeper { deeds, clock, queue: VecDeque::new(), wheel: Wheel::default(), failures: 0, registered }
    }

    /// For ever; whoever started it ends it.
    pub async fn run(mut self) {
        self.find_known().await;
        self.queue.extend((0..self.deeds.fleet.nodes).map(Task::Register));
        let mut writes = FuturesUnordered::new();
        loop {
            while writes.len() < WRITES_MAX
                && let Some(task) = self.queue.pop_front()
            {
                let (deeds, now) = (self.deeds.clone(), self.clock.now());
                writes.push(async move { (task, deeds.carry_out(task, now).await) });
            }
            tokio::select! {
                Some((task, ending)) = writes.next() => self.after(task, ending),
                () = due(&self.clock, self.wheel.next()) => {
                    let now = self.clock.now();
                    self.queue.extend(self.wheel.take_due(now));
                }
            }
        }
    }

    /// Asks which nodes are there from an earlier run, and removes those beyond the fleet's size.
    async fn find_known(&mut self) {
        loop {
            match self.try_find_known().await {
                Ok(()) => return,
                Err(error) => self.tell_waiting(&error),
            }
            let pause = self.fail();
            tokio::time::sleep(pause.unsigned_abs()).await;
        }
    }

    /// Once: whoever waits for nodes wants to know why there are none.
    fn tell_waiting(&self, error: &HollowError) {
        let mut why = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(deeper) = source {
            why = format!("{why}: {deeper}");
            source = deeper.source();
        }
        match self.failures {
            0 => tracing::warn!(why, "the API server does not answer yet; it is asked again until it does"),
            _ => tracing::debug!(why, "the API server does not answer yet"),
        }
    }

    async fn try_find_known(&mut self) -> Result<(), HollowError> {
        let fleet = self.deeds.fleet.clone();
        let names = removal::names(&self.deeds.client, fleet.label()).await?;
        let (known, surplus): (Vec<String>, Vec<String>) =
            names.into_iter().partition(|name| fleet.number_beyond(name).is_none_or(|number| number < fleet.nodes));
        removal::remove_nodes(&self.deeds.client, surplus).await?;
        self.deeds.known = Arc::new(known.iter().filter_map(|name| fleet.number(name)).collect());
        Ok(())
    }

    fn after(&mut self, task: Task, ending: Ending) {
        let now = self.clock.now();
        match (ending, task) {
            (Ending::Failed, _) => {
                let pause = self.fail();
                self.wheel.insert(now + pause, task);
                return;
            }
            (Ending::NodeGone, Task::Register(_)) => self.registered.send_modify(|count| *count += 1),
            (Ending::NodeGone, _) => {}
            (Ending::Done, Task::Register(number)) => {
                self.registered.send_modify(|count| *count += 1);
                self.schedule(Task::Renew(number), now);
                self.schedule(Task::TellStatus(number), now);
            }
            (Ending::Done, task) => self.schedule(task, now),
        }
        self.failures = 0;
    }

    fn schedule(&mut self, task: Task, now: Timestamp) {
        let fleet = &self.deeds.fleet;
        let (number, period) = match task {
            Task::Register(_) => return,
            Task::Renew(number) => (number, i64::from(fleet.lease_seconds) * 250),
            Task::TellStatus(number) => (number, STATUS_MILLIS),
        };
        self.wheel.insert(next_turn(number, fleet.nodes, period, now), task);
    }

    fn fail(&mut self) -> SignedDuration {
        let pause = RETRY_FIRST * (1 << self.failures.min(RETRY_DOUBLINGS_MAX));
        self.failures += 1;
        pause
    }
}

/// The next moment that is this node's in a period which all nodes share evenly.
fn next_turn(number: u32, nodes: u32, period_millis: i64, now: Timestamp) -> Timestamp {
    let offset = period_millis * i64::from(number) / i64::from(nodes.max(1));
    let periods = (now.as_millisecond() - offset).div_euclid(period_millis) + 1;
    Timestamp::from_millisecond(periods * period_millis + offset).unwrap_or(now)
}

/// Carries tasks out. Cheap to clone.
#[derive(Clone)]
struct Deeds {
    client: Client,
    fleet: Arc<Fleet>,
    /// Nodes that were there at the start.
    known: Arc<HashSet<u32>>,
}

impl Deeds {
    async fn carry_out(&self, task: Task, now: Timestamp) -> Ending {
        let result = match task {
            Task::Register(number) => self.register(number, now).await,
            Task::Renew(number) => self.renew(number, now).await,
            Task::TellStatus(number) => {
                self.patch_node(number, "status", Patch::Strategic(node::heartbeat(now))).await.map(drop)
            }
        };
        match result {
            Ok(()) => Ending::Done,
            Err(ClientError::Status(status)) if status.is_not_found() => Ending::NodeGone,
            Err(error) => {
                tracing::debug!(%error, ?task, "writing a node");
                Ending::Failed
            }
        }
    }

    async fn register(&self, number: u32, now: Timestamp) -> Result<(), ClientError> {
        let fleet = &self.fleet;
        let made = if self.known.contains(&number) {
            None
        } else {
            let object = node::object(fleet, number, now);
            let request = self.client.json::<Made>(Method::POST, NODES.path(""), Some(("application/json", &object)));
            match request.await {
                Ok(made) => Some(made),
                Err(ClientError::Status(status)) if status.is_already_exists() => None,
                Err(error) => return Err(error),
            }
        };
        let made = match made {
            Some(made) => made,
            None => {
                self.patch_node(number, "", Patch::Merge(node::relabel(fleet, number))).await?;
                self.patch_node(number, "status", Patch::Strategic(node::restart(fleet, number, now))).await?
            }
        };
        self.make_lease(number, &made.metadata.uid, now).await
    }

    async fn make_lease(&self, number: u32, uid: &str, now: Timestamp) -> Result<(), ClientError> {
        let lease = node::lease(&self.fleet, number, uid, now);
        match self.client.create(&LEASES, LEASE_NAMESPACE, &lease, &WriteOptions::default()).await {
            Err(ClientError::Status(status)) if status.is_already_exists() => self.patch_lease(number, now).await,
            other => other.map(drop),
        }
    }

    async fn renew(&self, number: u32, now: Timestamp) -> Result<(), ClientError> {
        match self.patch_lease(number, now).await {
            Err(ClientError::Status(status)) if status.is_not_found() => {}
            other => return other,
        }
        // A lease belongs to its node: where that has gone too there is nothing to live for.
        let path = ObjectPath::new(NODES, "", &self.fleet.name(number)).path();
        let made: Made = self.client.json(Method::GET, path, None).await?;
        self.make_lease(number, &made.metadata.uid, now).await
    }

    async fn patch_lease(&self, number: u32, now: Timestamp) -> Result<(), ClientError> {
        let path = ObjectPath::new(LEASES, LEASE_NAMESPACE, &self.fleet.name(number)).path();
        let renewal: Value = node::renewal(&self.fleet, now);
        self.client.bytes(Method::PATCH, &path, Some(("application/merge-patch+json", &renewal))).await.map(drop)
    }

    async fn patch_node(&self, number: u32, part: &'static str, patch: Patch) -> Result<Made, ClientError> {
        let path = ObjectPath::new(NODES, "", &self.fleet.name(number)).subresource(part).path();
        let (kind, body) = match &patch {
            Patch::Merge(body) => ("application/merge-patch+json", body),
            Patch::Strategic(body) | Patch::Json(body) | Patch::Apply(body) => {
                ("application/strategic-merge-patch+json", body)
            }
        };
        self.client.json(Method::PATCH, path, Some((kind, body))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_spread_evenly_and_come_once_a_period() {
        let now = Timestamp::from_second(1_800_000_003).unwrap();
        let mut turns: Vec<i64> = (0..1000).map(|node| next_turn(node, 1000, 10_000, now).as_millisecond()).collect();
        turns.sort_unstable();
        assert!(turns.windows(2).all(|pair| pair[1] - pair[0] == 10), "{turns:?}");
        assert!(turns[0] > now.as_millisecond() && turns[999] <= now.as_millisecond() + 10_000);
        let first = next_turn(7, 1000, 10_000, now);
        assert_eq!(next_turn(7, 1000, 10_000, first), first + SignedDuration::from_secs(10));
    }
}
