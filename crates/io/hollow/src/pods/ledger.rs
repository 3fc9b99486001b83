//! All pods of the fleet: what is known of each, which of them have something to write, and what comes due when. Who
//! holds it feeds it what is seen and carries out what it says; of one pod one write is under way at a time.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::facts::{Phase, PodFacts};
use super::life::{Decision, Deletion, Known, Life, Next, Run, Shown, decide};
use super::status::{self, Details, Subject};
use crate::fleet::Fleet;
use crate::range::Pool;
use crate::wheel::Wheel;

/// A failed write is tried again after this, doubled each time up to the bound.
const RETRY_FIRST: SignedDuration = SignedDuration::from_millis(500);
const RETRY_DOUBLINGS_MAX: u32 = 7;

/// The uid of a pod, as a number.
pub type Uid = u128;

pub struct Ledger {
    fleet: Arc<Fleet>,
    pods: HashMap<Uid, Pod>,
    addresses: Pool,
    /// Pods to decide on, each once.
    queue: VecDeque<Uid>,
    wheel: Wheel<Uid>,
    /// Namespaces, which many pods share.
    namespaces: HashMap<Box<str>, Arc<str>>,
    running: usize,
    /// Counts the lists, to tell what the last one did not show.
    listing: u32,
}

struct Pod {
    namespace: Arc<str>,
    name: Box<str>,
    node: u32,
    known: Known,
    /// What a status needs, while one may have to be written.
    details: Option<Box<Details>>,
    /// The revision of the last own write: what was seen before it tells nothing of the status.
    written: u64,
    listing: u32,
    failures: u32,
    /// For when the wheel has it.
    wakes_at: Option<Timestamp>,
    work: Work,
}

/// Where the pod's next write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    None,
    Queued,
    /// Under way: a status, or the deletion.
    Busy(Option<Next>, Timestamp),
    /// Waits for the wheel after a failure.
    Failed,
}

/// Something to write. The path follows from namespace and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub uid: Uid,
    pub namespace: Arc<str>,
    pub name: Box<str>,
    pub deed: Deed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A strategic merge patch of the status.
    Patch(Vec<u8>),
    /// Removes the pod, with no grace and if it is this one.
    Delete,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// At this revision.
    Written(u64),
    /// There is no such pod any more.
    Gone,
    /// To be tried again, not before this time has passed.
    Failed(SignedDuration),
}

/// How many pods are how far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub pods: usize,
    pub running: usize,
    pub to_write: usize,
}

impl Ledger {
    pub fn new(fleet: Arc<Fleet>) -> Ledger {
        Ledger {
            addresses: Pool::new(fleet.pod_range),
            fleet,
            pods: HashMap::new(),
            queue: VecDeque::new(),
            wheel: Wheel::default(),
            namespaces: HashMap::new(),
            running: 0,
            listing: 0,
        }
    }

    /// A pod was seen; one of another node is passed over.
    pub fn see(&mut self, facts: PodFacts, now: Timestamp) {
        let (Some(node), Some(uid)) = (self.fleet.number(&facts.spec.node_name), uid_of(&facts.metadata.uid)) else {
            return;
        };
        let revision = facts.metadata.resource_version.parse().unwrap_or(0);
        let mut pod = match self.take_out(uid) {
            Some(pod) => pod,
            None => Pod {
                namespace: self.namespace(&facts.metadata.namespace),
                name: facts.metadata.name.as_str().into(),
                node,
                known: unknown(),
                details: None,
                written: 0,
                listing: 0,
                failures: 0,
                wakes_at: None,
                work: Work::None,
            },
        };
        pod.listing = self.listing;
        pod.known.learn_wishes(&facts, now);
        if revision >= pod.written {
            pod.known.learn_status(&facts);
            self.settle_address(&mut pod, &facts);
        }
        if pod.is_done() {
            return;
        }
        pod.details = Some(Box::new(Details::of(facts)));
        self.running += usize::from(pod.runs());
        self.pods.insert(uid, pod);
        self.enqueue(uid);
    }

    /// A pod was removed from the API.
    pub fn remove(&mut self, uid: &str) {
        if let Some(uid) = uid_of(uid) {
            self.forget(uid);
        }
    }

    /// Everything that is there is about to be seen.
    pub fn begin_list(&mut self) {
        self.listing += 1;
    }

    /// Everything that is there was seen: what was not has gone.
    pub fn end_list(&mut self) {
        let listing = self.listing;
        let gone: Vec<Uid> = self.pods.iter().filter(|(_, pod)| pod.listing != listing).map(|(uid, _)| *uid).collect();
        for uid in gone {
            self.forget(uid);
        }
    }

    /// When something comes due by itself.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.wheel.next()
    }

    /// Tells how much was due.
    pub fn pass_time(&mut self, now: Timestamp) -> usize {
        let due = self.wheel.take_due(now);
        for uid in &due {
            if let Some(pod) = self.pods.get_mut(uid) {
                pod.wakes_at = pod.wakes_at.filter(|wake| *wake > now);
                if pod.work == Work::Failed {
                    pod.work = Work::None;
                }
            }
            self.enqueue(*uid);
        }
        due.len()
    }

    /// The next write, if any pod has one. Its outcome must be told.
    pub fn next_write(&mut self, now: Timestamp) -> Option<Write> {
        while let Some(uid) = self.queue.pop_front() {
            let Some(pod) = self.pods.get_mut(&uid).filter(|pod| pod.work == Work::Queued) else { continue };
            pod.work = Work::None;
            match decide(&pod.known, self.fleet.job_seconds, now) {
                Decision::Wait(wake) => {
                    match wake {
                        // What is seen of a pod again and again must not fill the wheel.
                        Some(wake) if pod.wakes_at == Some(wake) => {}
                        Some(wake) => {
                            pod.wakes_at = Some(wake);
                            self.wheel.insert(wake, uid);
                        }
                        None => pod.details = None,
                    }
                    continue;
                }
                Decision::Delete => {
                    pod.work = Work::Busy(None, now);
                    return Some(pod.write(uid, Deed::Delete));
                }
                Decision::Show(next) => {
                    if let Some(write) = self.show(uid, next, now) {
                        return Some(write);
                    }
                }
            }
        }
        None
    }

    /// Where what it needs is not at hand the pod is decided on again when that comes: with its next event, or, for
    /// want of an address, after a while.
    fn show(&mut self, uid: Uid, next: Next, now: Timestamp) -> Option<Write> {
        let pod = self.pods.get_mut(&uid)?;
        let details = pod.details.as_deref()?;
        if pod.known.ip.is_none() && !details.uses_host_network() && pod.known.life == Life::New {
            let Some(ip) = self.addresses.take() else {
                tracing::warn!(object = %pod.name, "no address is left for the pod");
                pod.work = Work::Failed;
                self.wheel.insert(now + retry_after(RETRY_DOUBLINGS_MAX), uid);
                return None;
            };
            pod.known.ip = Some(ip);
        }
        let text = uuid(uid);
        let host_ip = self.fleet.address(pod.node);
        let subject = Subject { namespace: &pod.namespace, name: &pod.name, uid: &text, host_ip };
        let patch = status::patch(subject, details, &pod.known, &next, now);
        pod.work = Work::Busy(Some(next), now);
        Some(pod.write(uid, Deed::Patch(patch)))
    }

    /// How the write that was handed out for this pod has ended.
    pub fn wrote(&mut self, uid: Uid, outcome: Outcome, now: Timestamp) {
        let Some(pod) = self.pods.get_mut(&uid) else { return };
        let Work::Busy(what, began) = pod.work else { return };
        pod.work = Work::None;
        match outcome {
            Outcome::Gone => return self.forget(uid),
            Outcome::Failed(pause) => {
                pod.work = Work::Failed;
                self.wheel.insert(now + retry_after(pod.failures).max(pause), uid);
                pod.failures += 1;
                return;
            }
            Outcome::Written(revision) => {
                pod.failures = 0;
                pod.written = pod.written.max(revision);
                self.running -= usize::from(pod.runs());
                pod.known.advance(what, began);
                self.running += usize::from(pod.runs());
            }
        }
        if pod.known.life == Life::Over
            && let Some(ip) = pod.known.ip.take()
        {
            self.addresses.release(ip);
        }
        self.enqueue(uid);
    }

    pub fn census(&self) -> Census {
        Census { pods: self.pods.len(), running: self.running, to_write: self.queue.len() }
    }

    fn enqueue(&mut self, uid: Uid) {
        if let Some(pod) = self.pods.get_mut(&uid).filter(|pod| pod.work == Work::None) {
            pod.work = Work::Queued;
            self.queue.push_back(uid);
        }
    }

    fn forget(&mut self, uid: Uid) {
        if let Some(ip) = self.take_out(uid).and_then(|pod| pod.known.ip) {
            self.addresses.release(ip);
        }
    }

    fn take_out(&mut self, uid: Uid) -> Option<Pod> {
        let pod = self.pods.remove(&uid)?;
        self.running -= usize::from(pod.runs());
        Some(pod)
    }

    /// An address that the pod has from before stays its own; one that has ended needs none.
    fn settle_address(&mut self, pod: &mut Pod, facts: &PodFacts) {
        let shown: Option<Ipv4Addr> = facts.status.pod_ip.parse().ok().filter(|_| !facts.spec.host_network);
        match (pod.known.life, pod.known.ip, shown) {
            (Life::Over, Some(ip), _) => {
                self.addresses.release(ip);
                pod.known.ip = None;
            }
            (Life::Running(_) | Life::Waiting(..), None, Some(ip)) => {
                self.addresses.reserve(ip);
                pod.known.ip = Some(ip);
            }
            _ => {}
        }
    }

    fn namespace(&mut self, name: &str) -> Arc<str> {
        if let Some(shared) = self.namespaces.get(name) {
            return shared.clone();
        }
        // Those that nobody uses any more are dropped when the table has doubled.
        if self.namespaces.len() >= 64 && self.namespaces.len().is_power_of_two() {
            self.namespaces.retain(|_, shared| Arc::strong_count(shared) > 1);
        }
        let shared: Arc<str> = name.into();
        self.namespaces.insert(name.into(), shared.clone());
        shared
    }
}

impl Pod {
    /// Has ended, as the API knows, and nobody waits for the node to let go of it.
    fn is_done(&self) -> bool {
        let wanted = self.known.deletion.is_none_or(|deletion| deletion.released);
        self.known.shown.phase.is_over() && wanted && !matches!(self.work, Work::Busy(..))
    }

    fn runs(&self) -> bool {
        self.known.shown.phase == Phase::Running
    }

    fn write(&self, uid: Uid, deed: Deed) -> Write {
        Write { uid, namespace: self.namespace.clone(), name: self.name.clone(), deed }
    }
}

impl Known {
    /// What others want of the pod: its spec, its annotations, its deletion.
    fn learn_wishes(&mut self, facts: &PodFacts, now: Timestamp) {
        let (metadata, spec) = (&facts.metadata, &facts.spec);
        self.orders = metadata.orders;
        self.restart_policy = spec.restart_policy;
        self.active_deadline_seconds = spec.active_deadline_seconds;
        self.generation = metadata.generation;
        self.is_held = !metadata.finalizers.is_empty();
        if metadata.deletion_timestamp.is_some() {
            let grace_seconds = metadata.deletion_grace_period_seconds;
            let deletion = self.deletion.get_or_insert(Deletion { seen_at: now, grace_seconds, released: false });
            deletion.grace_seconds = grace_seconds;
            // Without a grace the API waits for nobody but finalizers.
            deletion.released |= grace_seconds == 0 && facts.status.phase.is_over();
        }
    }

    /// What the API says of the pod's state, this process's own words of an earlier run included.
    fn learn_status(&mut self, facts: &PodFacts) {
        let status = &facts.status;
        let container = status.container_statuses.first();
        self.gate_complaint = status::gate_complaint(&facts.spec.readiness_gates, &status.conditions);
        self.start_time = self.start_time.or(status.start_time);
        match (status.phase, self.life) {
            (Phase::Succeeded | Phase::Failed, _) => self.life = Life::Over,
            (Phase::Running, Life::New) => self.life = taken_over(facts),
            _ => {}
        }
        self.shown = Shown {
            phase: status.phase,
            observed_generation: status.observed_generation,
            attempt: container.map_or(0, |container| container.restart_count),
            waits: container.is_some_and(|container| container.state.waiting.is_some()),
            readiness_is_right: match self.life {
                Life::Running(_) => status::readiness_is_right(&status.conditions, self.gate_complaint.as_deref()),
                _ => true,
            },
        };
    }

    /// A write has succeeded that began then.
    fn advance(&mut self, what: Option<Next>, began: Timestamp) {
        match what {
            Some(next) => {
                self.shown = self.to_show(&next);
                self.life = next.life();
                self.start_time = self.start_time.or(Some(began));
            }
            None => {
                if let Some(deletion) = &mut self.deletion {
                    deletion.released = true;
                }
            }
        }
    }
}

/// The life of a pod that an earlier run of this program has started.
fn taken_over(facts: &PodFacts) -> Life {
    let Some(container) = facts.status.container_statuses.first() else { return Life::New };
    let attempt = container.restart_count;
    let span = |span: &super::facts::Span| Some((span.started_at?, span.finished_at?));
    let before = container.last_state.terminated.as_ref().and_then(span);
    match (&container.state.running, &container.state.waiting, before) {
        (Some(running), ..) => match running.started_at {
            Some(started_at) => Life::Running(Run { attempt, started_at, before }),
            None => Life::New,
        },
        (None, Some(_), Some((started_at, ended_at))) => {
            let run = Run { attempt, started_at, before: None };
            Life::Waiting(run, ended_at + super::life::back_off(attempt))
        }
        _ => Life::New,
    }
}

fn unknown() -> Known {
    Known {
        orders: super::facts::Orders::default(),
        restart_policy: super::facts::RestartPolicy::Always,
        active_deadline_seconds: None,
        generation: 0,
        start_time: None,
        deletion: None,
        is_held: false,
        gate_complaint: None,
        ip: None,
        shown: Shown::default(),
        life: Life::New,
    }
}

fn retry_after(failures: u32) -> SignedDuration {
    RETRY_FIRST * (1 << failures.min(RETRY_DOUBLINGS_MAX))
}

fn uid_of(text: &str) -> Option<Uid> {
    let digits = text.bytes().filter(|byte| *byte != b'-');
    let mut uid = 0;
    for byte in digits {
        uid = (uid << 4) | u128::from(char::from(byte).to_digit(16)?);
    }
    (text.len() == 36).then_some(uid)
}

/// As the API writes a uid.
pub fn uuid(uid: Uid) -> String {
    let digits = format!("{uid:032x}");
    format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_numbers_and_back() {
        let text = "0f3f7a52-6a0e-4bd0-8f5e-0c2f6f4a1b2c";
        assert_eq!(uid_of(text).map(uuid).as_deref(), Some(text));
        assert_eq!(uid_of("no-uid"), None);
    }

    #[test]
    fn a_pod_is_kept_in_half_a_kilobyte() {
        assert!(size_of::<Pod>() <= 448, "{}", size_of::<Pod>());
    }
}
