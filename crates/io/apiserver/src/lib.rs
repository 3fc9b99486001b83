//! The API server: one corridor that every request walks, each step a file or folder of its name. It knows the kinds
//! only through their table and the store only through the watch cache; it exists so that every client, in this process
//! or behind TLS, meets Kubernetes' API and nothing else.

// The corridor, in its order.
mod admit;
pub mod authorise;
mod decode;
mod encode;
pub mod identify;
pub mod impersonate;
pub mod limit;
mod managed;
mod store;

// What walks it.
mod doors;
mod subresources;
mod verbs;

// What it stands on.
pub mod answer;
pub mod bootstrap;
mod call;
pub mod caller;
pub mod groups;
mod links;
mod log_socket;
mod metrics;
mod query;
mod request;
pub mod serve;
pub mod server;
mod services;
mod tunnel;
mod usage;

pub use caller::{Caller, Identity, LocalTransport};
pub use groups::{Groups, GroupsError};
pub use identify::jwt::Keys;
pub use serve::serve;
pub use server::{Options, Server, ServerError};
