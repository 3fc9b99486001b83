//! One table of facts for every type that Kubernetes v1.36 serves, and what follows from it: the border's strict reader,
//! the writer's always-written fields, and protobuf. It knows no kind's rules and does no I/O; it exists so that every
//! part of the server that walks an object walks it by the same description.

pub mod json;
pub mod model;
mod output;
pub mod proto;
mod table;
mod yaml;

pub use json::{Empty, Read, ReadError, Reading, Unknown, read_json, read_type_meta, read_value};
pub use model::{
    AnyForm, Field, ListType, Patch, Presence, Proto, Schema, Shape, Tagged, Type, TypeId, UnknownMembers,
};
pub use output::write_defaults;
pub use proto::{WriteError, read_proto, write_proto};
pub use yaml::{parse_yaml, read_yaml};
