//! The rbac.authorization.k8s.io group.

mod binding;
pub mod clusterrole;
pub mod clusterrolebinding;
pub mod role;
pub mod rolebinding;
mod rule;
