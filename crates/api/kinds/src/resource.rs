//! The resource.k8s.io group.

pub mod deviceclass;
pub mod devicetaintrule;
pub mod resourceclaim;
pub mod resourceclaimtemplate;
pub mod resourcepoolstatusrequest;
pub mod resourceslice;
