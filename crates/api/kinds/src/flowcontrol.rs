//! The flowcontrol.apiserver.k8s.io group.

pub mod flowschema;
pub mod prioritylevelconfiguration;
