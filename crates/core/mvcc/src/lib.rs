//! The decisions of a multi-version store: what every key was at every revision still kept, whether a transaction may
//! happen, what a range shows, what compaction forgets, what has expired. It knows neither disk nor clock; values are
//! whatever the engine keeps in their place.

mod index;
mod range;

pub use index::{Change, Compare, Displaced, Index, Version};
pub use range::{OutOfRange, Span};

/// A store-wide counter; every transaction that writes takes the next one.
pub type Revision = u64;
