//! The internal.apiserver.k8s.io group.

pub mod storageversion;
