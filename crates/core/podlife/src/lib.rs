//! Decides the life of one pod on its node: from the pod as desired, its sandbox and containers as observed, and what
//! happened so far, to the actions that are due, the next moment to decide again, and the status to report. It knows
//! neither a runtime nor a clock; it exists so that restarts, back-off, probes and shutdown can be tested by tables.
//!
//! Source of the rules: the kubelet of Kubernetes 1.36.

mod admission;
mod conditions;
mod containers;
mod memory;
mod observed;
mod phase;
mod plan;
mod policy;
mod probes;
mod report;
mod resize;
mod stop;
#[cfg(test)]
mod tests;

pub use admission::{Rejection, reject, request};
pub use containers::{ContainerKind, each_container, find_container};
pub use memory::{Failure, FailureKind, Memory, Outcome, ProbeAnswer};
pub use observed::{Instance, Observation, RunState, Sandbox};
pub use plan::step;
pub use policy::container_hash;
pub use probes::ProbeKind;
pub use resize::Hindrance;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

/// What the pod should be.
#[derive(Clone, Copy)]
pub struct Desired<'a> {
    /// As the API has it, its last reported status included.
    pub pod: &'a Pod,
    /// Whether the API still has it. A pod that is gone is torn down and forgotten.
    pub presence: Presence,
    pub node_ip: &'a str,
    /// Why the resources asked for are not in the spec seen here.
    pub hindrance: Option<&'a Hindrance>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    InApi,
    /// It stays in the API, but its node is going down: its containers end within at most so many seconds.
    Leaving {
        grace_seconds_max: i64,
    },
    Gone,
}

/// Something to do for the pod. An action is repeated by every decision until it has an outcome or is no longer due;
/// the one who acts starts an action only once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Makes the directories, the cgroup and the volumes of the pod, or brings them up to date.
    Prepare,
    CreateSandbox {
        attempt: u32,
    },
    StopSandbox {
        id: String,
    },
    /// Removes a sandbox with all its containers.
    RemoveSandbox {
        id: String,
    },
    /// Pulls the image if need be, creates and starts the container, and runs its postStart hook.
    StartContainer {
        name: String,
        attempt: u32,
    },
    /// Runs the preStop hook, asks the container to end and kills it after the grace.
    KillContainer {
        id: String,
        name: String,
        grace_seconds: i64,
        message: String,
        pre_stop: PreStop,
    },
    RemoveContainer {
        id: String,
    },
    /// Gives a running container other limits. The resources are JSON, so that actions have an order.
    ResizeContainer {
        id: String,
        name: String,
        resources: String,
    },
    Probe {
        id: String,
        name: String,
        kind: ProbeKind,
    },
    /// Unmounts the volumes and removes the directories and the cgroup of the pod.
    CleanUp,
    /// Deletes the pod from the API, after its last status has been written.
    Delete,
    /// Nothing is left of the pod here.
    Forget,
    /// Nothing of the pod runs any more, and nothing will on this node: what else is left goes with the node.
    Leave,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PreStop {
    Run,
    Skip,
}

/// An event to record about the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub severity: Severity,
    pub reason: &'static str,
    pub message: String,
    /// The container that it is about, for the event's field path.
    pub container: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Normal,
    Warning,
}

/// What a decision says.
#[derive(Clone, Debug)]
pub struct Decision {
    pub actions: Vec<Action>,
    pub notes: Vec<Note>,
    /// When to decide again though nothing has happened.
    pub wake_at: Option<Timestamp>,
    pub status: PodStatus,
}
