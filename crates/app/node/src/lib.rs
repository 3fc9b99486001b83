//! Wires the components of one machine together, starts them in order and drains them. The only place where the parts
//! of `io` meet.

pub mod up;

mod apidocs;
pub mod control;
mod control_plane;
mod embedded;
mod files;
pub mod identity;
pub mod images;
pub mod kubeconfig;
mod lock;
pub mod manifests;
pub mod paths;
pub mod pki;
pub mod preflight;
mod signing;
pub mod standalone;
pub mod teardown;
mod tls;
mod worker;

pub use coracle_hollow::{Capacity, Fleet, Range, Taint};
pub use coracle_store::EtcdOptions;
