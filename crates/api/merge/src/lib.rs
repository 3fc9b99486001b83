//! How one object is made from another and a patch. Pure functions of trees.

pub mod apply;
mod go;
pub mod json_patch;
pub mod merge_patch;
pub mod strategic;

pub use apply::{ApplyError, Conflict, Force, Subject, Writer};
pub use go::go_text;
pub use json_patch::{JsonPatchError, json_patch};
pub use merge_patch::merge_patch;
pub use strategic::{StrategicPatchError, strategic_merge_patch};
