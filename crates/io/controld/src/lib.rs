//! The driver of every controller: it feeds views to decisions and carries their plans out. Queues, back-off, timers,
//! own-write consistency, events and leader gates exist here once, and in no controller.

pub mod catalog;
pub mod doors;
pub mod driver;
pub mod execute;
pub mod leader;
pub mod metrics;
pub mod queue;
pub mod recorder;
pub mod scheduler;

pub use doors::Doors;
pub use driver::{Clients, Driver};
pub use execute::Signer;
pub use leader::Election;
pub use metrics::{Metrics, SchedulerMetrics};
pub use scheduler::{DEFAULT_SCHEDULER, check_extenders, run_scheduler};
