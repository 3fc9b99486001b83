//! Every kind that Kubernetes 1.36 serves: its names, scope, verbs, versions and place in the store, and the rules
//! that a write of it runs through. Pure functions of trees; nothing here reads, waits or keeps anything.

pub mod column;
pub mod kind;
pub mod object_meta;
pub mod rules;
pub mod scale;
pub mod shapes;
mod table;

pub mod core;

pub use column::Column;
pub use kind::{Kind, Scope, Storage, Subresource, Version};
pub use rules::{Lifecycle, Rules};
pub use table::{by_gvk, find, table};
