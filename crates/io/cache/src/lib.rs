//! The watch cache, and the store as it needs to be: the one component that feeds on a store's list and watch, and
//! from which lists, watches, views and consistent reads are answered. It knows no kind; where a resource lives in
//! the store and how its values are encoded is told to it.

pub mod cache;
pub mod codec;
mod feed;
pub mod keys;
pub mod resource;
mod state;
pub mod store;
pub mod view;
pub mod watch;

pub use cache::Cache;
pub use codec::{Codec, CodecError, Json};
pub use resource::{CacheError, ListQuery, Page, ResourceCache};
pub use store::{Revision, Store, StoreError};
pub use view::{LocalView, PrefixOf};
pub use watch::{CacheEvent, EventKind, Gone, WatchFrom, Watcher};
