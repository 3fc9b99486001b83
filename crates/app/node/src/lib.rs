//! Wires the components of one machine together, starts them in order and drains them. The only place where the parts
//! of `io` meet.

mod files;
pub mod kubeconfig;
pub mod paths;
pub mod pki;
