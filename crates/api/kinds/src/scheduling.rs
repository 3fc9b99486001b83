//! The scheduling.k8s.io group.

mod group;
pub mod podgroup;
pub mod priorityclass;
pub mod workload;
