//! Every kind that Kubernetes 1.36 serves, and those of metrics.k8s.io: its names, scope, verbs, versions and place in
//! the store, and the rules that a write of it runs through. Pure functions of trees; nothing here reads, waits or keeps
//! anything.

pub mod column;
pub mod kind;
pub mod object_meta;
pub mod rules;
pub mod scale;
pub mod shapes;
mod table;

pub mod admissionregistration;
pub mod apiextensions;
pub mod apiregistration;
pub mod apps;
pub mod autoscaling;
pub mod batch;
pub mod certificates;
pub mod coordination;
pub mod core;
pub mod discovery;
pub mod events;
pub mod flowcontrol;
pub mod internal;
pub mod metrics;
pub mod networking;
pub mod node;
pub mod policy;
pub mod rbac;
pub mod resource;
pub mod scheduling;
pub mod storage;
pub mod storagemigration;

pub use column::Column;
pub use kind::{Kind, Scope, Storage, Subresource, Version};
pub use rules::{Lifecycle, Rules};
pub use table::{by_gvk, find, find_named, table};
