//! Wires the components of one machine together, starts them in order and drains them. The only place where the parts
//! of `io` meet.

pub mod control;
mod files;
pub mod identity;
pub mod kubeconfig;
pub mod manifests;
pub mod paths;
pub mod pki;
pub mod preflight;
