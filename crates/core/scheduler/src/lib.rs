//! The scheduler's decisions: which pod is next, which nodes can take it, which of them is best. It sees compact views
//! of nodes and pods and answers with effects; the shell in `io/controld` feeds it changes and carries bindings out.
//! Behaviour and wording are kube-scheduler's of Kubernetes 1.36.

pub mod cycle;
pub mod framework;
pub mod message;
pub mod node;
pub mod plugins;
pub mod pod;
pub mod queue;
pub mod resources;
pub mod scheduler;
pub mod snapshot;

pub use cycle::{Decision, schedule};
pub use framework::{Check, Plugin, Rejection};
pub use node::NodeInfo;
pub use pod::PodInfo;
pub use scheduler::{Effect, Event, Scheduler};
pub use snapshot::Snapshot;
