//! The scheduler's decisions: which pod is next, which nodes can take it, which of them is best, and which pods make
//! room. It sees compact views of nodes and pods and answers with effects; the shell in `io/controld` feeds it changes
//! and carries the effects out. Behaviour and wording are kube-scheduler's of Kubernetes 1.36.

pub mod scheduler;

mod consult;
mod decide;
mod group_cycle;
mod group_trial;
mod watched;

pub mod config;
pub mod cycle;
pub mod preemption;

pub mod class;
pub mod message;
mod standing;

pub mod framework;
pub mod plugins;
pub mod profile;
pub mod queue;

pub mod snapshot;

pub mod counts;
pub mod extender;

mod budgets;
mod census;
mod devices;
mod groups;
mod images;
mod interests;
mod nominations;
mod storage;
mod workloads;

pub mod node;
pub mod pod;
pub mod resources;
pub mod select;
mod spreading;
pub mod text;
pub mod topology;
pub mod volumes;

pub use framework::{Deed, Plugin, Status};
pub use group_cycle::GroupOutcome;
pub use node::{NodeFacts, NodeInfo};
pub use pod::{PodInfo, PodKey};
pub use profile::Profile;
pub use queue::Backoff;
pub use scheduler::{Effect, Event, Reason, Scheduler};
pub use snapshot::Snapshot;
pub use watched::{watched, watches};
