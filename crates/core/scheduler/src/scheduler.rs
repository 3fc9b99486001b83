//! The scheduler as a state machine: changes of the cluster go in, bindings and conditions come out. A pod that was
//! decided upon counts on its node at once; the shell tells later whether the binding held.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::cycle::{Decision, schedule};
use crate::framework::Wake;
use crate::pod::{PodInfo, PodKey};
use crate::queue::Queue;
use crate::snapshot::Snapshot;

/// What happens to the cluster.
#[derive(Clone, Debug)]
pub enum Event {
    NodeSet(Arc<Node>),
    NodeGone(String),
    PodSet(Arc<Pod>),
    PodGone(PodKey),
    NamespaceSet {
        name: String,
        labels: Vec<(String, String)>,
    },
    NamespaceGone(String),
    /// A binding that this scheduler asked for was refused.
    BindFailed {
        pod: Arc<PodInfo>,
        attempts: u32,
    },
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Effect {
    Bind {
        pod: Arc<PodInfo>,
        node: String,
        attempts: u32,
    },
    /// Say so in the pod's PodScheduled condition (reason Unschedulable) and in an event.
    Unschedulable {
        pod: Arc<PodInfo>,
        message: String,
    },
}

pub struct Scheduler {
    /// Pods that name another scheduler are left alone.
    name: String,
    snapshot: Snapshot,
    queue: Queue,
    turn: usize,
}

impl Scheduler {
    pub fn new(name: impl Into<String>) -> Scheduler {
        Scheduler { name: name.into(), snapshot: Snapshot::default(), queue: Queue::default(), turn: 0 }
    }

    /// Takes a change in. Decisions follow by `next`.
    pub fn observe(&mut self, event: Event, now: Timestamp) {
        match event {
            Event::NodeSet(node) => self.set_node(&node),
            Event::NodeGone(name) => self.snapshot.remove_node(&name),
            Event::PodSet(pod) => self.set_pod(PodInfo::new(&pod)),
            Event::PodGone(key) => self.pod_gone(&key),
            Event::NamespaceSet { name, labels } => self.snapshot.set_namespace(&name, labels),
            Event::NamespaceGone(name) => self.snapshot.remove_namespace(&name),
            Event::BindFailed { pod, attempts } => {
                self.snapshot.lift(&pod.key);
                self.queue.failed(pod, attempts, now);
                self.queue.wake(Wake::PodGone);
            }
        }
    }

    /// Decides about the next pod; `None` when none is ready.
    pub fn next(&mut self, now: Timestamp) -> Option<Effect> {
        let (pod, attempts) = self.queue.pop(now)?;
        self.turn = self.turn.wrapping_add(1);
        match schedule(&pod, &self.snapshot, self.turn) {
            Decision::Bind { node } => {
                self.snapshot.place(pod.clone(), &node);
                self.queue.wake(Wake::PodPlaced);
                Some(Effect::Bind { pod, node, attempts })
            }
            Decision::Unschedulable { message, by } => {
                self.queue.unschedulable(pod.clone(), attempts, by, now);
                Some(Effect::Unschedulable { pod, message })
            }
        }
    }

    /// When to ask again though nothing happened.
    pub fn wake_at(&self) -> Option<Timestamp> {
        self.queue.next_wake()
    }

    fn set_node(&mut self, node: &Node) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let was = self.snapshot.node(&name).map(|was| {
            (was.labels.clone(), was.taints.clone(), was.unschedulable, was.allocatable.clone(), was.pods_max)
        });
        self.snapshot.set_node(node);
        let Some((labels, taints, unschedulable, allocatable, pods_max)) = was else {
            return self.queue.wake(Wake::NodeAdded);
        };
        let Some(is) = self.snapshot.node(&name) else { return };
        let changes = [
            (is.labels != labels, Wake::NodeLabels),
            (is.taints != taints || is.unschedulable != unschedulable, Wake::NodeTaints),
            (is.allocatable != allocatable || is.pods_max != pods_max, Wake::NodeAllocatable),
        ];
        changes.into_iter().filter(|(changed, _)| *changed).for_each(|(_, wake)| self.queue.wake(wake));
    }

    fn set_pod(&mut self, pod: Arc<PodInfo>) {
        if pod.finished {
            return self.pod_gone(&pod.key);
        }
        if !pod.node_name.is_empty() {
            self.queue.forget(&pod.key);
            let moved = self.snapshot.place_of(&pod.key) != Some(&pod.node_name);
            let node = pod.node_name.clone();
            self.snapshot.place(pod, &node);
            if moved {
                self.queue.wake(Wake::PodPlaced);
            }
            return;
        }
        let assumed = self.snapshot.place_of(&pod.key).is_some();
        if pod.deleting || pod.scheduler_name != self.name {
            self.queue.forget(&pod.key);
        } else if !assumed && self.queue.get(&pod.key).is_none_or(|known| differs(known, &pod)) {
            self.queue.set(pod);
        }
    }

    fn pod_gone(&mut self, key: &PodKey) {
        self.queue.forget(key);
        if self.snapshot.place_of(key).is_some() {
            self.snapshot.lift(key);
            self.queue.wake(Wake::PodGone);
        }
    }
}

/// Whether a waiting pod's new version may be decided upon differently: its status alone does not matter.
fn differs(known: &PodInfo, new: &PodInfo) -> bool {
    known.uid != new.uid
        || known.labels != new.labels
        || known.gates != new.gates
        || known.tolerations != new.tolerations
        || known.node_selector != new.node_selector
        || known.node_affinity != new.node_affinity
        || known.requests != new.requests
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1000).unwrap()
    }

    fn node(name: &str) -> Event {
        let node =
            json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "1", "memory": "1Gi", "pods": "1"}}});
        Event::NodeSet(Arc::new(serde_json::from_value(node).unwrap()))
    }

    fn pod(name: &str) -> Event {
        let pod = json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"containers": []}});
        Event::PodSet(Arc::new(serde_json::from_value(pod).unwrap()))
    }

    #[test]
    fn a_decided_pod_holds_its_place_before_it_is_bound() {
        let mut scheduler = Scheduler::new("default-scheduler");
        for event in [node("n"), pod("a"), pod("b")] {
            scheduler.observe(event, now());
        }
        assert!(matches!(scheduler.next(now()), Some(Effect::Bind { .. })));
        assert!(matches!(scheduler.next(now()), Some(Effect::Unschedulable { .. })));
        assert!(scheduler.next(now()).is_none());
    }

    #[test]
    fn a_pod_gone_makes_room_for_one_that_waits() {
        let mut scheduler = Scheduler::new("default-scheduler");
        for event in [node("n"), pod("a"), pod("b")] {
            scheduler.observe(event, now());
        }
        let Some(Effect::Bind { pod: first, .. }) = scheduler.next(now()) else { panic!("the first pod fits") };
        scheduler.next(now());
        scheduler.observe(Event::PodGone(first.key.clone()), now());
        let later = now() + jiff::SignedDuration::from_secs(1);
        assert_eq!(scheduler.wake_at(), Some(later));
        assert!(matches!(scheduler.next(later), Some(Effect::Bind { .. })));
    }

    #[test]
    fn pods_of_other_schedulers_are_left_alone() {
        let mut scheduler = Scheduler::new("mine");
        scheduler.observe(pod("a"), now());
        assert!(scheduler.next(now()).is_none());
    }
}
