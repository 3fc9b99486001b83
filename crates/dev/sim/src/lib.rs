//! The control plane as a deterministic simulation: every controller under its real driver on the API server's real
//! corridor, in one thread, with time and faults from a seed. Of `io` it replaces the store's disk, the sockets and the
//! view (by one that lags), and it plays the scheduler and the nodes. It exists so that the controllers are met by
//! conflicts, lost answers, late news and sudden death in any order, and that a seed found bad can be run again.

pub mod cluster;
pub mod lag;
pub mod store;
pub mod transport;
pub mod watch;
pub mod weather;
pub mod witness;
pub mod world;

pub use watch::Hook;
pub use weather::Weather;
pub use world::{Setup, World, run};
