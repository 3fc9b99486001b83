//! The vocabulary every layer shares: object trees, names of resources, statuses, and the encoded object that the
//! store, the caches and the watchers hand around. It knows no kind and no schema; it exists so that the words mean
//! the same everywhere.

pub mod field;
pub mod gates;
pub mod int_or_string;
pub mod members;
pub mod names;
pub mod object;
pub mod quantity;
pub mod resource;
pub mod selector;
pub mod status;
pub mod time;
pub mod user;
pub mod value;

pub use field::{ErrorList, Path};
pub use gates::{Gate, Gates, GatesError};
pub use int_or_string::IntOrString;
pub use members::Members;
pub use object::Object;
pub use quantity::Quantity;
pub use resource::{GroupVersionKind, Resource};
pub use selector::{FieldSelector, LabelSelector};
pub use status::Status;
pub use user::User;
pub use value::{Map, Value};
