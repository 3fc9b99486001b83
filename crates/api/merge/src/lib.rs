//! How one object is made from another and a patch. Pure functions of trees.

pub mod json_patch;
pub mod merge_patch;

pub use json_patch::{JsonPatchError, json_patch};
pub use merge_patch::merge_patch;
