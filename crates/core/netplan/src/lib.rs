//! What the network should be: which pod has which address, and which packet filter makes Services work. Everything
//! here is plain data that can be compared, so that a change is a difference and a difference is a batch. It touches no
//! kernel; `io/podnet` and `io/proxy` carry out what is decided here.

pub mod cidr;
pub mod conntrack;
pub mod ipam;
pub mod nft;
pub mod podrules;
pub mod rules;
pub mod service;
pub mod wire;

pub use cidr::Cidr;
pub use ipam::Ipam;
