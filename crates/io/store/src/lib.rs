//! The two stores behind the cache's trait: the embedded engine, a log with an index in memory, and a client of a real
//! etcd. What they hold is opaque to them.

#[cfg(test)]
mod crash_tests;
pub mod disk;
pub mod engine;
pub mod error;
pub mod etcd;
mod frame;
mod ledger;
mod log;
mod slots;
mod snapshot;
mod watchers;
mod writer;

pub use engine::Engine;
pub use error::OpenError;
pub use etcd::{Etcd, EtcdError, EtcdOptions};
