//! Who may do what: requests as authorizers see them, RBAC, the nodes' own authorizer, the guard against raising one's
//! own rights, and the roles a new cluster starts with. It decides on facts handed to it and knows neither HTTP nor
//! stores.

pub mod authorize;
pub mod bootstrap;
pub mod escalate;
pub mod node;
pub mod rbac;
pub mod rule;

pub use authorize::{Attributes, Decision, forbidden};
pub use rbac::Policy;
pub use rule::Rule;
