//! Admission: what a cluster's own rules change in or refuse of a write that its author may make. Each plugin is one
//! file of `plugins` and one line of its table. A plugin decides on what it is shown; where it needs more it asks, and
//! the one driver, in the API server, answers and asks again.

pub mod plugin;
pub mod plugins;
mod pods;
mod signers;

pub use plugin::{Answer, Ask, Charge, Context, Facts, Operation, Plugin, Request, Verdict, forbidden};
pub use plugins::PLUGINS;
