//! The real binary and the real kubectl: a cluster is started, used as its users would, killed, taken over and removed.
//! Needs root, overlayfs and kubectl, and fails where one is missing.

#![expect(clippy::unwrap_used, reason = "what is not there fails the test")]

#[path = "it/busybox.rs"]
mod busybox;
#[path = "it/cluster.rs"]
mod cluster;
#[path = "it/pods.rs"]
mod pods;
#[path = "it/sim.rs"]
mod sim;
#[path = "it/standalone.rs"]
mod standalone;
#[path = "it/tour.rs"]
mod tour;
#[path = "it/two.rs"]
mod two;
#[path = "it/usage.rs"]
mod usage;
