//! The vocabulary every layer shares: object trees, names of resources, statuses, and the encoded object that the
//! store, the caches and the watchers hand around. It knows no kind and no schema; it exists so that the words mean
//! the same everywhere.

pub mod object;
pub mod resource;
pub mod status;
pub mod value;

pub use object::Object;
pub use resource::{GroupVersionKind, Resource};
pub use status::Status;
pub use value::{Map, Value};
